"""The side of GRPO that holds the weights: scoring, objective, optimizer and data-parallel ranks."""
