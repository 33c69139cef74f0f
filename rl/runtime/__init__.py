"""What long runs need around the algorithm: cluster, checkpoints, journal, progress and memory."""
