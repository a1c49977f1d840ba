"""Open data engine for relational training pairs: measure, decide, pack, audit, train."""

__version__ = "0.1.0"
