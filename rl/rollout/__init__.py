"""Rollouts: episodes on sampling engines, and the pool of Ray workers that runs them."""
