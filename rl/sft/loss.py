"""The loss of the cold start: tokens, masks at every [SEG], and the pull of projected [SEG] states towards captions.

`lesson_loss` takes the share that some lessons have of a step's loss: with the denominators of the whole step the
shares add up to the same loss, and the same gradient, however the step is split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from configs.schema import StageConfig
from policy.sam.losses import mask_losses
from policy.videoseg.model import PolicyOutput, SegPolicy
from policy.vlm.batch import FrameSource
from rl.sft.collator import SftBatch
from rl.sft.mask_stage import CaptionPrompts


@dataclass(frozen=True)
class StepTotals:
    """Denominators of a whole step."""

    token_weight: Tensor
    num_masks: int
    wanted_numbers: int  # of all caption prompts
    wanted_square: Tensor  # mean over these; 1 where there is none

    @classmethod
    def of(cls, lessons: Sequence[SftBatch], prompts: CaptionPrompts | None) -> StepTotals:
        no_weight = lessons[0].token_weights_BL.new_zeros(())
        token_weight = sum((lesson.token_weights_BL.sum() for lesson in lessons), no_weight)
        captions = [caption for lesson in lessons for caption in lesson.captions.values()]
        wanted, wanted_square = token_weight.new_ones(0), token_weight.new_ones(())
        if prompts is not None and captions:
            with torch.no_grad():
                wanted = prompts(captions)
            wanted_square = wanted.square().mean()
        num_masks = sum(len(lesson.targets) for lesson in lessons)
        return cls(token_weight, num_masks, wanted.numel(), wanted_square)


def lesson_loss(
    policy: SegPolicy,
    prompts: CaptionPrompts | None,
    lessons: Sequence[SftBatch],
    stage: StageConfig,
    frames: FrameSource,
    totals: StepTotals | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Weighted token loss (mean over token weights) + mask loss (mean over targets) + alignment (mean over [SEG]).

    The means are over the step that `totals` counts; over `lessons` alone if not given.
    """
    totals = totals or StepTotals.of(lessons, prompts)
    outputs = [policy(lesson.batch) for lesson in lessons]
    pairs = list(zip(lessons, outputs, strict=True))
    losses = torch.stack([-(out.logprobs_BL * lesson.token_weights_BL).sum() for lesson, out in pairs])
    token_loss = losses.sum() / totals.token_weight
    metrics = {"loss/tokens": token_loss.item()}
    loss = token_loss
    masked = [(lesson, out) for lesson, out in pairs if lesson.targets]
    if masked and stage.mask_coef > 0:
        each_mask = torch.cat([_mask_loss(policy, lesson, out, stage, frames) for lesson, out in masked])
        mask_loss = each_mask.sum() / totals.num_masks
        metrics["loss/masks"] = mask_loss.item()
        loss = loss + stage.mask_coef * mask_loss
    named = [(out.prompts_MC[row], caption) for lesson, out in pairs for row, caption in lesson.captions.items()]
    if prompts is not None and named and stage.align_coef > 0:
        with torch.no_grad():
            wanted = prompts([caption for _, caption in named])
        found = torch.stack([prompt for prompt, _ in named])
        align_loss = (found - wanted).square().sum() / totals.wanted_numbers / totals.wanted_square
        metrics["loss/align"] = align_loss.item()
        loss = loss + stage.align_coef * align_loss
    return loss, metrics


def _mask_loss(
    policy: SegPolicy, lesson: SftBatch, output: PolicyOutput, stage: StageConfig, frames: FrameSource
) -> Tensor:
    """One number per target."""
    train_backbone = not stage.freeze_sam and (not stage.sam_parts or "image_encoder" in stage.sam_parts)
    logits, presence = policy.decode_masks(output.prompts_MC, lesson.targets, frames, train_backbone)
    rows_by_size: dict[tuple[int, ...], list[int]] = {}  # videos of one batch may differ in size
    for row, gold_HW in enumerate(lesson.gold):
        rows_by_size.setdefault(gold_HW.shape, []).append(row)
    losses = []
    for rows in rows_by_size.values():
        gold_NHW = torch.from_numpy(np.stack([lesson.gold[row] for row in rows])).to(logits.device)
        bce, dice, presence_loss = mask_losses(logits[rows], presence[rows], gold_NHW, stage.mask_points)
        losses.append(stage.bce_coef * bce + stage.dice_coef * dice + 0.1 * presence_loss)
    return torch.cat(losses)
