"""Supervised training: the stages of the cold start, their data, losses and loop."""
