"""The policy: Qwen3-VL with a [SEG] token that prompts SAM 2, its tensors, and the engines that sample from it."""

from pathlib import Path

SHIPPED = Path(__file__).parent / "tiny"  # the cold-started policy that comes with the package
