"""Thin compositions of the rooms: the command line and the jobs it starts."""
