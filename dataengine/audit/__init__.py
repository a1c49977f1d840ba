"""Automatic checks of a finished dataset, and the pictures and pages in which people judge it."""
