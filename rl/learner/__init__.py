"""Training of the policy on finished rollouts: scoring, objective, optimizer and data-parallel ranks."""
