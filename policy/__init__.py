"""Models that segment, their inputs and checkpoints, and the engines that sample from them."""

from pathlib import Path

SHIPPED = Path(__file__).parent / "tiny"  # the cold-started policy that comes with the package
