"""Time a step of the cold start's dialogue stage: batches of similar length against one batch for all.

    python -m tests.bench.cold_start_step --data DIR [--steps 12]

DIR is Moving Shapes in training layout. The two take turns on the same rows. The command prints CPU-seconds (medians),
the share of padding, and the ratio.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import numpy as np

from configs.load import load_config
from env.frames import FrameCache
from policy import SHIPPED
from policy.videoseg.checkpoint import load_policy
from rl.sft import collator as lesson_collator
from rl.sft.collator import LessonCollator, SftBatch
from rl.sft.data import SftDataset
from rl.sft.loss import lesson_loss


def padding(lessons: list[SftBatch]) -> float:
    """Return the share of padding among the tokens of all batches."""
    real = sum(len(sequence) for lesson in lessons for sequence in lesson.batch.sequences)
    return 1 - real / sum(lesson.batch.input_ids_BL.numel() for lesson in lessons)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=12)
    args = parser.parse_args()
    config = load_config("tiny", [f"data.train_root={args.data}"])
    stage = next(stage for stage in config.cold_start.stages if stage.kind == "dialogue")
    lessons, policy, frames = SftDataset(config), load_policy(SHIPPED), FrameCache()
    for parameter in policy.sam.parameters():
        parameter.requires_grad_(not stage.freeze_sam)
    collator = LessonCollator(policy, lessons.dialogue, lessons.text_only, frames, 1, stage, config.seed)
    rng = np.random.default_rng(config.seed)
    seconds: dict[str, list[float]] = {"one batch": [], "similar lengths": []}
    padded: dict[str, list[float]] = {"one batch": [], "similar lengths": []}
    for step in range(args.steps + 1):
        rows = [{"index": int(at)} for at in rng.integers(0, len(lessons), stage.batch_size + stage.text_only_traces)]
        for name, least_share in (("one batch", 0.0), ("similar lengths", 0.8)):
            lesson_collator.ALIKE = least_share
            start = time.process_time()
            made = collator(rows)["lessons"]
            lesson_loss(policy, None, made, stage, frames)[0].backward()
            if step:  # the first warms up
                seconds[name].append(time.process_time() - start)
                padded[name].append(padding(made))
    for name in seconds:
        print(f"{name:15s} {median(seconds[name]):.3f} CPU-s a step, {100 * np.mean(padded[name]):.0f} % padding")
    print(f"ratio {median(seconds['one batch']) / median(seconds['similar lengths']):.2f}")


if __name__ == "__main__":
    main()
