"""Cold-start stage `masks`: SAM 2 learns to segment what a caption names, before any language model is involved.

The prompt of a caption is the mean of learned word vectors; in data sets without captions the expression stands in.
The later `dialogue` stage aligns the projected [SEG] states with these prompts. Without it the mask IoU of a small
policy can stay near .45 while the token loss falls normally. Pretrained SAM 2 checkpoints do not need this stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from env.errors import DataError
from env.rle import mask_or_empty
from env.types import RLE, VideoRef
from policy.sam.losses import mask_losses
from policy.sam.prompts import MaskPrompt
from policy.sam.tracking import track_paths
from policy.vlm.batch import FrameSource
from rl.sft.context import StageContext
from rl.sft.data import NamedMasks
from rl.sft.loop import fit
from rl.sft.unreadable import UnreadableSamples

MAX_OBJECTS = 4  # of one frame
CLIP_FRAMES = 3  # frames tracked per sample: enough to train the memory's encoder and attention
SINGLE_FRAME_PART = 0.8  # of the steps: tracking costs three times as much, and begun later it learns nothing


def train_masks(context: StageContext) -> None:
    """Train SAM 2 and the caption prompts on random frames (decoded alone) and short clips (tracked with memory).

    The videos of a batch have one size; sizes are sampled in proportion to their numbers of videos. Raises DataError
    where no task has gold masks.
    """
    videos, stage, seed = context.dataset.named(), context.stage, context.config.seed
    if not videos:
        raise DataError("cold start, stage masks", "expected tasks with gold masks, found none")
    assert context.prompts is not None, "a cold start with this stage has caption prompts"
    by_size: dict[tuple[int, int], list[NamedMasks]] = {}
    for each in videos:
        by_size.setdefault((each.video.height, each.video.width), []).append(each)
    pools = list(by_size.values())
    probabilities = [len(pool) / len(videos) for pool in pools]
    rng, rng_of_sizes = np.random.default_rng(seed), np.random.default_rng([seed, 1])

    unreadable = UnreadableSamples(context, stage.steps * stage.batch_size)

    def step_loss(step: int) -> tuple[Tensor, dict[str, float]] | None:
        length = 1 if step < SINGLE_FRAME_PART * stage.steps else CLIP_FRAMES
        pool = pools[rng_of_sizes.choice(len(pools), p=probabilities)]
        chosen = [_sample_clip(pool[at], rng, length) for at in rng.choice(len(pool), stage.batch_size)]
        found = [unreadable.read(partial(_read, clip, context.frames)) for clip in chosen]
        clips = [clip for clip in found if clip is not None]
        return _clips_loss(context, clips) if clips else None

    fit(context, [*context.policy.sam.parameters(), *context.prompts.parameters()], step_loss, unreadable)


@dataclass(frozen=True)
class ClipChoice:
    """A few frames of a video, and the objects to segment in each of them."""

    video: VideoRef
    frames: list[int]
    objects: list[tuple[str, tuple[RLE | None, ...]]]  # [N] names and their masks by frame


@dataclass(frozen=True)
class Clip:
    """A clip that was read."""

    pixels: list[np.ndarray]  # per frame, uint8 [H, W, 3]
    names: list[str]  # [N]
    gold_NTHW: np.ndarray  # bool, per object and frame


def _read(choice: ClipChoice, frames: FrameSource) -> Clip:
    """Read frames and masks of a clip. DataError if one cannot be read."""
    video = choice.video
    pixels = [frames.full(video, at) for at in choice.frames]
    gold = [
        [mask_or_empty(masks[at], video.height, video.width) for at in choice.frames] for _, masks in choice.objects
    ]
    return Clip(pixels, [name for name, _ in choice.objects], np.array(gold))


def _sample_clip(named: NamedMasks, rng: np.random.Generator, length: int) -> ClipChoice:
    """Sample a frame that shows some object, and then the frames of a clip at a random pace in one direction.

    A single frame is segmented for up to `MAX_OBJECTS` of the video's objects, so that similar ones are told apart; a
    clip of several frames for one.

    Args:
        named: The video and its objects.
        rng: Source of all choices.
        length: Number of frames.
    """
    video = named.video
    first = int(rng.integers(len(named.objects)))
    visible = [at for at, rle in enumerate(named.objects[first][1]) if rle is not None]
    start = int(rng.choice(visible))
    pace = int(rng.integers(1, 4)) * int(rng.choice([-1, 1]))
    indices = [int(np.clip(start + pace * at, 0, video.num_frames - 1)) for at in range(length)]
    others = [at for at in range(len(named.objects)) if at != first] if length == 1 else []
    asked = [named.objects[at] for at in [first, *rng.permutation(others)[: MAX_OBJECTS - 1].astype(int)]]
    return ClipChoice(video, indices, asked)


def _clips_loss(context: StageContext, clips: Sequence[Clip]) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of every clip's first frame plus the mean over the frames that are tracked from it."""
    policy, prompts = context.policy, context.prompts
    assert prompts is not None
    length = len(clips[0].pixels)
    gold_NTHW = torch.from_numpy(np.concatenate([clip.gold_NTHW for clip in clips])).to(policy.device)
    prompts_NC = prompts([name for clip in clips for name in clip.names])
    rows = torch.tensor([row for row, clip in enumerate(clips) for _ in clip.names], device=policy.device)
    features = [
        policy.sam.encode_frames([clip.pixels[at] for clip in clips], train_backbone=True) for at in range(length)
    ]
    logits, presence, _ = policy.sam.decode(features[0].pick(rows), MaskPrompt.language(prompts_NC))
    loss, j_key = _loss_and_j(logits, policy.sam.blanking(presence), gold_NTHW[:, 0])
    metrics = {"masks/key_j/mean": j_key}
    tracked = list(track_paths(policy.sam, features, prompts_NC, length)) if length > 1 else []
    for at in range(1, length):
        logits, presence, _ = tracked[at]
        is_absent_B = logits.amax((1, 2)) < -1000  # SAM 2 overwrites such masks: only their presence has a gradient
        logits = torch.where(is_absent_B[:, None, None], 0.0, logits)
        part, j = _loss_and_j(logits, policy.sam.blanking(presence), gold_NTHW[:, at])
        loss = loss + part / (length - 1)
        metrics["masks/tracked_j/mean"] = metrics.get("masks/tracked_j/mean", 0.0) + j / (length - 1)
    return loss, {"loss/masks": loss.item(), **metrics}


def _loss_and_j(logits: Tensor, presence: Tensor | None, gold_BHW: Tensor) -> tuple[Tensor, float]:
    """Return the loss and the mean J of the masks as inference uses them.

    Args:
        logits: Mask logits at SAM 2's low resolution [B, h, w].
        presence: Logits of whether the object is in the frame [B], which then blank masks; None: they do not.
        gold_BHW: Gold masks, bool.
    """
    bce, dice, presence_loss = mask_losses(logits, presence, gold_BHW)
    full = nn.functional.interpolate(logits[:, None], gold_BHW.shape[-2:], mode="bilinear")[:, 0] > 0
    if presence is not None:
        full &= presence[:, None, None] > 0
    has_target = gold_BHW.flatten(1).any(1)
    union = (full | gold_BHW).flatten(1).sum(1).clamp(min=1)
    j_B = (full & gold_BHW).flatten(1).sum(1) / union
    j = j_B[has_target].mean().item() if has_target.any() else 1.0
    return (5 * bce + dice + 0.2 * presence_loss).mean(), j
