"""Segment held-out tasks with a checkpoint, measure the trajectories and compare runs."""
