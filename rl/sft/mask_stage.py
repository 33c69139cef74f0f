"""Cold-start stage `masks`: SAM 2 learns to segment what a caption says, before any language model is involved.

A caption's prompt is the mean of learnt word vectors; where a data set knows no captions, the expression stands in. The
later `dialogue` stage pulls the projected [SEG] states towards these prompts, which is what keeps a small [SEG] aligned
(without it the mask IoU can stay near .45 while the token loss falls normally). Pretrained SAM 2 checkpoints do not
need this stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from configs.schema import StageConfig
from env.errors import DataError
from env.rle import mask_or_empty
from env.types import RLE, VideoRef
from policy.sam.losses import mask_losses
from policy.sam.prompts import MaskPrompt
from policy.sam.tracking import track_paths
from policy.videoseg.model import SegPolicy
from policy.vlm.batch import FrameSource
from policy.vlm.chat_tokens import ChatTokens
from rl.runtime.journal import Journal
from rl.sft.loop import fit

MOST_ASKED = 4  # objects of one frame
CLIP = 3  # frames tracked per sample: enough to train the memory's encoder and attention
ALONE_SHARE = 0.8  # of the steps: single frames only. Tracking costs three times as much; a later start learns nothing


class CaptionPrompts(nn.Module):
    """Captions to SAM 2 prompts [B, C]: the mean of one learnt vector per token."""

    def __init__(self, chat: ChatTokens, width: int):
        super().__init__()
        self.chat = chat
        self.bag = nn.EmbeddingBag(len(chat.tokenizer), width, mode="mean")

    def forward(self, captions: Sequence[str]) -> Tensor:
        ids = [self.chat.encode(f" {caption}") for caption in captions]
        offsets = np.cumsum([0, *[len(row) for row in ids[:-1]]])
        device = self.bag.weight.device
        flat = torch.tensor([token for row in ids for token in row], device=device)
        return self.bag(flat, torch.tensor(offsets, device=device))


@dataclass(frozen=True)
class NamedMasks:
    """A video and the objects in it that have names: (name, mask per frame)."""

    video: VideoRef
    objects: tuple[tuple[str, tuple[RLE | None, ...]], ...]


def train_masks(
    policy: SegPolicy,
    prompts: CaptionPrompts,
    videos: Sequence[NamedMasks],
    frames: FrameSource,
    config: StageConfig,
    journal: Journal,
    seed: int,
) -> None:
    """Train SAM 2 and the caption prompts on random frames (decoded alone) and short clips (tracked with memory).

    A batch holds videos of one size; a size comes as often as its videos are many.
    """
    if not videos:
        raise DataError("cold start, stage masks", "expected tasks with gold masks, found none")
    by_size: dict[tuple[int, int], list[NamedMasks]] = {}
    for each in videos:
        by_size.setdefault((each.video.height, each.video.width), []).append(each)
    pools = list(by_size.values())
    shares = [len(pool) / len(videos) for pool in pools]
    rng, rng_of_sizes = np.random.default_rng(seed), np.random.default_rng([seed, 1])

    def step_loss(step: int) -> tuple[Tensor, dict[str, float]]:
        length = 1 if step < ALONE_SHARE * config.steps else CLIP
        pool = pools[rng_of_sizes.choice(len(pools), p=shares)]
        clips = [_sample_clip(pool[at], rng, length) for at in rng.choice(len(pool), config.batch_size)]
        return _clips_loss(policy, prompts, clips, frames)

    fit([*policy.sam.parameters(), *prompts.parameters()], config, journal, step_loss)


@dataclass(frozen=True)
class Clip:
    """A few frames of a video, and the objects that are asked for in each of them."""

    video: VideoRef
    frames: list[int]
    names: list[str]
    gold_NTHW: np.ndarray


def _sample_clip(named: NamedMasks, rng: np.random.Generator, length: int) -> Clip:
    """A frame that shows some object, then `length - 1` frames in temporal order at a random pace in one direction.

    Whatever the frame holds is asked for, so that look-alikes are told apart; a clip is tracked for one object.
    """
    video = named.video
    first = int(rng.integers(len(named.objects)))
    visible = [at for at, rle in enumerate(named.objects[first][1]) if rle is not None]
    start = int(rng.choice(visible))
    pace = int(rng.integers(1, 4)) * int(rng.choice([-1, 1]))
    indices = [int(np.clip(start + pace * at, 0, video.num_frames - 1)) for at in range(length)]
    others = [at for at in range(len(named.objects)) if at != first] if length == 1 else []
    asked = [named.objects[at] for at in [first, *rng.permutation(others)[: MOST_ASKED - 1].astype(int)]]
    gold = [[mask_or_empty(masks[at], video.height, video.width) for at in indices] for _, masks in asked]
    return Clip(video, indices, [name for name, _ in asked], np.array(gold))


def _clips_loss(
    policy: SegPolicy, prompts: CaptionPrompts, clips: Sequence[Clip], frames: FrameSource
) -> tuple[Tensor, dict[str, float]]:
    """Loss of the first frame of every clip alone, then, where there are more, of those tracked from it."""
    length = len(clips[0].frames)
    gold_NTHW = torch.from_numpy(np.concatenate([clip.gold_NTHW for clip in clips])).to(policy.device)
    prompts_NC = prompts([name for clip in clips for name in clip.names])
    rows = torch.tensor([row for row, clip in enumerate(clips) for _ in clip.names], device=policy.device)
    features = [
        policy.sam.encode_frames([frames.full(clip.video, clip.frames[at]) for clip in clips], train_backbone=True)
        for at in range(length)
    ]
    logits, presence, _ = policy.sam.decode(features[0].pick(rows), MaskPrompt.language(prompts_NC))
    loss, j_key = _loss_and_j(logits, presence, gold_NTHW[:, 0])
    metrics = {"masks/key_j/mean": j_key}
    tracked = list(track_paths(policy.sam, features, prompts_NC, length)) if length > 1 else []
    for at in range(1, length):
        logits, presence, _ = tracked[at]
        judged_absent = logits.amax((1, 2)) < -1000  # SAM 2 overwrites such masks; only their presence can learn
        part, j = _loss_and_j(torch.where(judged_absent[:, None, None], 0.0, logits), presence, gold_NTHW[:, at])
        loss = loss + part / (length - 1)
        metrics["masks/tracked_j/mean"] = metrics.get("masks/tracked_j/mean", 0.0) + j / (length - 1)
    return loss, {"loss/masks": loss.item(), **metrics}


def _loss_and_j(logits: Tensor, presence: Tensor, gold_BHW: Tensor) -> tuple[Tensor, float]:
    """The loss, and the mean J of the masks as they are used: empty where the object is called absent."""
    bce, dice, presence_loss = mask_losses(logits, presence, gold_BHW)
    full = nn.functional.interpolate(logits[:, None], gold_BHW.shape[-2:], mode="bilinear")[:, 0] > 0
    full &= presence[:, None, None] > 0
    has_target = gold_BHW.flatten(1).any(1)
    union = (full | gold_BHW).flatten(1).sum(1).clamp(min=1)
    j_B = (full & gold_BHW).flatten(1).sum(1) / union
    j = j_B[has_target].mean().item() if has_target.any() else 1.0
    return (5 * bce + dice + 0.2 * presence_loss).mean(), j
