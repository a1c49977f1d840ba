"""A world of known truth: videos made here, with what is in them, for tests, evaluation and the demo."""
