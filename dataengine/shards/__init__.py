"""Pairs as webdataset shards: assemble, plan, write, index, read, validate, repair, describe."""

from dataengine.shards.reader import PairDataset, Sample
from dataengine.shards.stream import PairStream

__all__ = ["PairDataset", "PairStream", "Sample"]
