"""Time a step of the cold start's dialogue stage: batches of similar length against one batch for all.

    python -m tests.bench.cold_start_step --data DIR [--steps 12]

DIR is Moving Shapes in training layout. The two take turns on the same rows. The command prints CPU-seconds (medians),
the share of padding, and the ratio.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from configs.load import load_config
from env.frames import FrameCache
from policy import SHIPPED
from policy.videoseg.checkpoint import load_policy
from rl.runtime.journal import Journal
from rl.sft import collator as sft_collator
from rl.sft.collator import Sequences, SftBatch, SftCollator
from rl.sft.context import StageContext
from rl.sft.data import SftDataset
from rl.sft.loss import sft_loss


def padding(batches: list[SftBatch]) -> float:
    """Return the share of the tokens of all batches that are padding."""
    real = sum(len(sequence) for batch in batches for sequence in batch.batch.sequences)
    return 1 - real / sum(batch.batch.input_ids_BL.numel() for batch in batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=12)
    args = parser.parse_args()
    config = load_config("tiny", [f"data.train_root={args.data}", "cold_start.mask_frames=1"])
    stage = next(stage for stage in config.cold_start.stages if stage.kind == "dialogue")
    dataset, policy, folder = SftDataset(config), load_policy(SHIPPED), Path(tempfile.mkdtemp())
    for parameter in policy.sam.parameters():
        parameter.requires_grad_(not stage.freeze_sam)
    context = StageContext(policy, None, dataset, config, stage, FrameCache(), Journal(folder), folder)
    collator = SftCollator(context, Sequences(dataset.dialogue, dataset.text_only, len(dataset)))
    rng = np.random.default_rng(config.seed)
    seconds: dict[str, list[float]] = {"one batch": [], "similar lengths": []}
    padded: dict[str, list[float]] = {"one batch": [], "similar lengths": []}
    for step in range(args.steps + 1):
        rows = [{"index": int(at)} for at in rng.integers(0, len(dataset), stage.batch_size + stage.text_only_traces)]
        for name, least_share in (("one batch", 0.0), ("similar lengths", 0.8)):
            sft_collator.ALIKE = least_share
            start = time.process_time()
            made = collator(rows)["batches"]
            sft_loss(context, made)[0].backward()
            if step:  # the first warms up
                seconds[name].append(time.process_time() - start)
                padded[name].append(padding(made))
    for name in seconds:
        print(f"{name:15s} {median(seconds[name]):.3f} CPU-s a step, {100 * np.mean(padded[name]):.0f} % padding")
    print(f"ratio {median(seconds['one batch']) / median(seconds['similar lengths']):.2f}")


if __name__ == "__main__":
    main()
