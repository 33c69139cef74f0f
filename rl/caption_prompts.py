"""Cold-start stage `masks`: SAM 2 learns to segment what a caption says, before any language model is involved.

A caption's prompt is the mean of learnt word vectors; where a data set knows no captions, the expression stands in. The
later `dialogue` stage pulls the projected [SEG] states towards these prompts, which is what keeps a small [SEG] aligned
(without it the mask IoU can stay near .45 while the token loss falls normally). Pretrained SAM 2 checkpoints do not
need this stage.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from configs.schema import StageConfig
from env.errors import DataError
from env.rle import decode
from env.types import Task
from policy.batch import Frames
from policy.model import SegPolicy, mask_losses
from policy.tokens import ChatTokens
from rl.journal import Journal

CLIP = 3  # frames tracked per sample: enough to train the memory's encoder and attention
ALONE_SHARE = 0.8  # of the steps: single frames only. Tracking costs three times as much, and needs masks


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


def train_masks(
    policy: SegPolicy,
    prompts: CaptionPrompts,
    tasks: Sequence[Task],
    frames: Frames,
    config: StageConfig,
    journal: Journal,
    seed: int,
) -> None:
    """Train SAM 2 and the caption prompts on random frames (decoded alone) and short clips (tracked with memory)."""
    usable = [task for task in tasks if any(task.gold)]
    if not usable:
        raise DataError("cold start, stage masks", "expected tasks with gold masks, found none")
    rng = np.random.default_rng(seed)
    parameters = [*policy.sam.parameters(), *prompts.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, config.steps, pct_start=0.05)
    with Progress() as progress:
        bar = progress.add_task("cold start: masks", total=config.steps)
        for step in range(config.steps):
            picks = [usable[at] for at in rng.choice(len(usable), config.batch_size)]
            clip = 1 if step < ALONE_SHARE * config.steps else CLIP
            loss, metrics = _clip_loss(policy, prompts, picks, frames, rng, clip)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            progress.advance(bar)
            if step % 10 == 0 or step == config.steps - 1:
                journal.log(step, metrics)


def _clip_loss(
    policy: SegPolicy,
    prompts: CaptionPrompts,
    tasks: Sequence[Task],
    frames: Frames,
    rng: np.random.Generator,
    length: int,
) -> tuple[Tensor, dict[str, float]]:
    """Loss of one clip per task: its key frame alone, then, if it is longer, the frames tracked from it."""
    clips = [_sample_clip(task, rng, length) for task in tasks]
    gold_NTHW = torch.from_numpy(
        np.stack([np.stack([_gold(task, at) for at in clip]) for task, clip in zip(tasks, clips, strict=True)])
    ).to(policy.device)
    prompts_BC = prompts([task.caption or task.expression for task in tasks])
    features = [
        policy.sam.encode_frames(
            [frames.full(task.video, clip[at]) for task, clip in zip(tasks, clips, strict=True)], train_backbone=True
        )
        for at in range(length)
    ]
    logits, presence = policy.sam.decode(features[0], prompts_BC)
    loss, j_key = _loss_and_j(logits, presence, gold_NTHW[:, 0])
    metrics = {"masks/key_j/mean": j_key}
    tracked = list(policy.sam.track(features, prompts_BC, length)) if length > 1 else []
    for at in range(1, length):
        logits, presence = tracked[at]["pred_masks"][:, 0], tracked[at]["object_score_logits"][:, 0]
        judged_absent = logits.amax((1, 2)) < -1000  # SAM 2 overwrites such masks; only their presence can learn
        part, j = _loss_and_j(torch.where(judged_absent[:, None, None], 0.0, logits), presence, gold_NTHW[:, at])
        loss = loss + part / (length - 1)
        metrics["masks/tracked_j/mean"] = metrics.get("masks/tracked_j/mean", 0.0) + j / (length - 1)
    return loss, {"loss/masks": loss.item(), **metrics}


def _loss_and_j(logits: Tensor, presence: Tensor, gold_BHW: Tensor) -> tuple[Tensor, float]:
    bce, dice, presence_loss = mask_losses(logits, presence, gold_BHW)
    full = nn.functional.interpolate(logits[:, None], gold_BHW.shape[-2:], mode="bilinear")[:, 0] > 0
    has_target = gold_BHW.flatten(1).any(1)
    union = (full | gold_BHW).flatten(1).sum(1).clamp(min=1)
    j_B = (full & gold_BHW).flatten(1).sum(1) / union
    j = j_B[has_target].mean().item() if has_target.any() else 1.0
    return (5 * bce + dice + 0.2 * presence_loss).mean(), j


def _sample_clip(task: Task, rng: np.random.Generator, length: int) -> list[int]:
    """A frame that shows the target, then `length - 1` frames in temporal order at a random pace in one direction."""
    visible = [at for at, rle in enumerate(task.gold) if rle is not None]
    start = int(rng.choice(visible))
    pace = int(rng.integers(1, 4)) * int(rng.choice([-1, 1]))
    return [int(np.clip(start + pace * at, 0, task.video.num_frames - 1)) for at in range(length)]


def _gold(task: Task, frame_idx: int) -> np.ndarray:
    rle = task.gold[frame_idx]
    return decode(rle) if rle else np.zeros((task.video.height, task.video.width), bool)
