"""Measure the masks of SAM 2 for the right prompt after a cold start.

    python -m tests.bench.mask_decoder --run DIR --data DIR

The prompt is the one that stage `masks` learnt for the name of an object, so the language model is not involved. Each
frame is decoded alone. The command prints J over all frames that show an object, J over frames like those that answers
choose as key frame (the area is within a tenth of the largest), and how often the mask lies on the right object.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_model

from cot_data.moving_shapes.labels import LabelledVideo, load_objects
from env.frames import FrameCache
from policy.sam.losses import binary_masks
from policy.sam.prompts import MaskPrompt
from policy.videoseg.checkpoint import load_policy
from policy.videoseg.model import SegPolicy
from rewards.jf import region_j
from rl.sft.caption_prompts import CaptionPrompts

EVERY = 5  # frames; neighbouring frames are similar


@torch.no_grad()
def measure_video(
    policy: SegPolicy, prompts: CaptionPrompts, labelled: LabelledVideo, frames: FrameCache
) -> list[tuple[float, bool, bool]]:
    """Decode every object in every EVERY-th frame of a video.

    Args:
        policy: the policy whose SAM 2 is measured.
        prompts: prompts by name of the object.
        labelled: the video with its objects.
        frames: reads the frames.

    Returns:
        Per object and frame: J, whether the object is near its largest, whether J is highest for this object.
    """
    video, rows = labelled.video, []
    names = [each.caption for each in labelled.objects]
    prompts_NC = prompts(names)
    largest = [
        max(int(mask.sum()) for t in range(video.num_frames) if (mask := each.mask(t)) is not None)
        for each in labelled.objects
    ]
    for t in range(0, video.num_frames, EVERY):
        features = policy.sam.encode_frames([frames.full(video, t)])
        index = torch.zeros(len(names), dtype=torch.long)
        logits, presence, _ = policy.sam.decode(features.pick(index), MaskPrompt.language(prompts_NC))
        found = binary_masks(logits, policy.sam.blanking(presence), video.height, video.width).numpy()
        gold = [each.mask(t) for each in labelled.objects]
        for at, mask in enumerate(gold):
            if mask is None:
                continue
            j = [0.0 if other is None else region_j(other, found[at]) for other in gold]
            rows.append((j[at], bool(mask.sum() >= 0.9 * largest[at]), int(np.argmax(j)) == at))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="J of SAM 2 on its own, given the right name.")
    parser.add_argument(
        "--run", type=Path, required=True, help="run folder of a cold start: policy/ and stage-0-masks/"
    )
    parser.add_argument("--data", type=Path, required=True, help="Moving Shapes, held out")
    args = parser.parse_args()
    policy = load_policy(args.run / "policy")
    prompts = CaptionPrompts(policy.chat, policy.sam.hidden_dim)
    load_model(prompts, str(args.run / "stage-0-masks" / "prompts.safetensors"))
    frames = FrameCache()
    rows = [row for labelled in load_objects(args.data) for row in measure_video(policy, prompts, labelled, frames)]
    j, is_largest, is_right = (np.array(column) for column in zip(*rows, strict=True))
    for name, picked in (("all frames", np.ones(len(j), bool)), ("like key frames", is_largest)):
        error = j[picked].std(ddof=1) / picked.sum() ** 0.5
        print(f"{name}: J {j[picked].mean():.4f} +-{error:.4f}, right {is_right[picked].mean():.4f}, n {picked.sum()}")


if __name__ == "__main__":
    main()
