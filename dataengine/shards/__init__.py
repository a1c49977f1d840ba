"""Pairs as webdataset shards: assemble, plan, write, index, read, validate, describe."""
