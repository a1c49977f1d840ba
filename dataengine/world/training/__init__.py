"""Trains the tiny checkpoints of the world, one module a network: `dataengine world train`."""
