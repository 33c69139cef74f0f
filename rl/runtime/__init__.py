"""The parts of long runs outside the algorithm: cluster, checkpoints, journal, progress and memory."""
