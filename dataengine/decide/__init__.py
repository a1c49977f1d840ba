"""Cheap, pure decisions on stored measurements: they read records alone and rerun in seconds."""
