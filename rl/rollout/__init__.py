"""Episodes played by sampler engines on Ray workers, and the groups that GRPO learns from."""
