"""The loss of the cold start: tokens, masks at every [SEG], and alignment of projected [SEG] states with captions.

`sft_loss` of some batches of a step is their part of the step's loss: with the denominators of the whole step the
parts add up to the same loss, and the same gradient, however the step is split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from policy.sam.losses import mask_losses
from policy.videoseg.model import PolicyOutput
from rl.sft.caption_prompts import CaptionPrompts
from rl.sft.collator import SftBatch
from rl.sft.context import StageContext


@dataclass(frozen=True)
class StepTotals:
    """Denominators of a whole step."""

    token_weight: Tensor  # sum of the weights of all tokens
    num_masks: int
    prompt_numbers: int  # numbers in all caption prompts together
    prompt_square: Tensor  # mean of their squares; 1 where there are none

    @classmethod
    def of(cls, batches: Sequence[SftBatch], prompts: CaptionPrompts | None) -> StepTotals:
        """Return the denominators of the step that consists of `batches`."""
        no_weight = batches[0].token_weights_BL.new_zeros(())
        token_weight = sum((batch.token_weights_BL.sum() for batch in batches), no_weight)
        captions = [caption for batch in batches for caption in batch.captions.values()]
        targets, mean_square = token_weight.new_ones(0), token_weight.new_ones(())
        if prompts is not None and captions:
            with torch.no_grad():
                targets = prompts(captions)
            mean_square = targets.square().mean()
        num_masks = sum(len(batch.targets) for batch in batches)
        return cls(token_weight, num_masks, targets.numel(), mean_square)


def sft_loss(
    context: StageContext, batches: Sequence[SftBatch], totals: StepTotals | None = None
) -> tuple[Tensor, dict[str, float]]:
    """Return the weighted sum of token loss, mask loss and alignment loss, and each of them as a metric.

    Args:
        context: Gives policy, caption prompts, frames and the weights of the losses (`stage`).
        batches: All batches of a step, or some of them.
        totals: Denominators of the whole step; None where `batches` are all of it.

    Returns:
        A scalar loss with a gradient, and `loss/tokens` (mean over token weights), `loss/masks` (mean over target
        masks) and `loss/align` (squared distance from the caption prompt, relative to the prompts' mean square).
    """
    policy, prompts, stage = context.policy, context.prompts, context.stage
    totals = totals or StepTotals.of(batches, prompts)
    outputs = [policy(batch.batch) for batch in batches]
    pairs = list(zip(batches, outputs, strict=True))
    losses = torch.stack([-(out.logprobs_BL * batch.token_weights_BL).sum() for batch, out in pairs])
    token_loss = losses.sum() / totals.token_weight
    metrics = {"loss/tokens": token_loss.item()}
    loss = token_loss
    masked = [(batch, out) for batch, out in pairs if batch.targets]
    if masked and stage.mask_coef > 0:
        each_mask = torch.cat([_mask_loss(context, batch, out) for batch, out in masked])
        mask_loss = each_mask.sum() / totals.num_masks
        metrics["loss/masks"] = mask_loss.item()
        loss = loss + stage.mask_coef * mask_loss
    named = [(out.prompts_MC[row], caption) for batch, out in pairs for row, caption in batch.captions.items()]
    if prompts is not None and named and stage.align_coef > 0:
        with torch.no_grad():
            targets = prompts([caption for _, caption in named])
        projected = torch.stack([prompt for prompt, _ in named])
        align_loss = (projected - targets).square().sum() / totals.prompt_numbers / totals.prompt_square
        metrics["loss/align"] = align_loss.item()
        loss = loss + stage.align_coef * align_loss
    return loss, metrics


def _mask_loss(context: StageContext, batch: SftBatch, output: PolicyOutput) -> Tensor:
    """Return one loss per target [N], grouped by the size of their videos."""
    stage = context.stage
    train_backbone = not stage.freeze_sam and (not stage.sam_parts or "image_encoder" in stage.sam_parts)
    logits, presence = context.policy.decode_masks(output.prompts_MC, batch.targets, context.frames, train_backbone)
    rows_by_size: dict[tuple[int, ...], list[int]] = {}  # videos of one batch may differ in size
    for row, gold_HW in enumerate(batch.gold):
        rows_by_size.setdefault(gold_HW.shape, []).append(row)
    losses = []
    for rows in rows_by_size.values():
        gold_NHW = torch.from_numpy(np.stack([batch.gold[row] for row in rows])).to(logits.device)
        of_rows = None if presence is None else presence[rows]
        bce, dice, presence_loss = mask_losses(logits[rows], of_rows, gold_NHW, stage.mask_points)
        losses.append(stage.bce_coef * bce + stage.dice_coef * dice + 0.1 * presence_loss)
    return torch.cat(losses)
