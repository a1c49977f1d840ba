"""Runs measuring stages on Ray: storing results, quarantine, progress. It knows no stage by name."""
