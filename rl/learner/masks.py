"""The masks of a forward pass: what rewards read, the mask loss, and the mask's part of the log-prob of [SEG]."""

from __future__ import annotations

import torch
from torch import Tensor

from configs.schema import GrpoConfig
from env.rle import encode, mask_or_empty
from env.types import Trajectory
from policy.sam.losses import binary_masks, mask_losses
from rewards.mask import mask_iou
from rl.learner.calibration import CALIBRATIONS, binarise_grid
from rl.learner.micro_batch import Forward


def fill_masks(forward: Forward, config: GrpoConfig) -> None:
    """Write masks, and their log-probs on the calibration grid, into the trajectories whose [SEG] prompted them."""
    logits_NHW, presence_N = forward.logits_NHW, forward.presence_N
    grids = binarise_grid(logits_NHW, config.calibration_threshold)
    terms_N = CALIBRATIONS[config.calibration](logits_NHW, grids)
    for at, target in enumerate(forward.targets):
        sample = forward.samples[target.sample]
        trajectory = sample.trajectory
        video, turn = trajectory.task.video, trajectory.turns[target.turn]
        mask = binary_masks(logits_NHW[at : at + 1], _row(presence_N, at), video.height, video.width)
        rle = encode(mask[0].cpu().numpy())
        if target.is_key:
            sample.grids[target.turn] = grids[at]
            turn.key_mask, turn.mask_logprob = rle, float(terms_N[at])
            if target.frame_idx != turn.key_mask_frame:
                turn.mask_frame = target.frame_idx
        if target.is_answer:
            trajectory.masks[target.frame_idx] = rle


def mask_loss(forward: Forward, least_iou: float) -> Tensor:
    """Return the sum over targets of BCE + dice + 0.1 presence against gold; the caller divides by all targets.

    Tasks without gold masks train nothing. The released loss (VideoSEG-O3, trainer_videorl_cot.py, lines 702-903) is
    0.2 * (mean over sampled frames + mean over key frames) of BCE + dice. It differs in four points:

    - It decodes the sampled frames for every turn's [SEG]. Here only the last [SEG] is decoded on them, because its
      masks are the answer and the reward; an earlier [SEG] is trained on its key frame, at a fraction of the cost.
    - Its two means give a key frame the weight of all sampled frames together. Here every mask has the same weight.
    - It has no presence term. Neither has this loss, unless the policy's SAM 2 blanks masks (`SamConfig.presence`):
      then the prediction that an object is absent has to be trained.
    - It takes BCE and dice on frames without the target too. So does this loss, unless SAM 2 blanks masks: then such
      frames train presence alone, as in SAM 2.

    Args:
        forward: A forward pass with gradient.
        least_iou: Only answers of at least this mean J are trained; 0 trains every [SEG] (`_trained_turns`).

    Returns:
        A scalar with gradient.
    """
    total = forward.output.logprobs_BL.new_zeros(())
    trained = [_trained_turns(sample.trajectory, least_iou) for sample in forward.samples]
    for at, target in enumerate(forward.targets):
        task = forward.samples[target.sample].trajectory.task
        if not task.gold or target.turn not in trained[target.sample]:
            continue
        rle = task.gold[target.frame_idx]
        gold = mask_or_empty(rle, task.video.height, task.video.width)
        gold_1HW = torch.from_numpy(gold).to(forward.logits_NHW.device)[None]
        logits_1HW, presence_1 = forward.logits_NHW[at : at + 1], _row(forward.presence_N, at)
        bce, dice, presence = mask_losses(logits_1HW, presence_1, gold_1HW)
        total = total + (bce + dice + 0.1 * presence).sum()
    return total


def _row(presence_N: Tensor | None, at: int) -> Tensor | None:
    return None if presence_N is None else presence_N[at : at + 1]


def mask_terms(forward: Forward, config: GrpoConfig) -> tuple[Tensor, Tensor]:
    """Return w * log p_mask at each [SEG], now and in the rollout: both [B, L], 0 at a [SEG] without a mask."""
    form, weight = CALIBRATIONS[config.calibration], config.calibration_coef
    new_BL, old_BL = (torch.zeros_like(forward.output.logprobs_BL) for _ in range(2))
    for at, target in enumerate(forward.targets):
        sample = forward.samples[target.sample]
        old = sample.trajectory.turns[target.turn].mask_logprob
        if target.is_key and old is not None:
            term = form(forward.logits_NHW[at : at + 1], sample.grids[target.turn][None])[0]
            new_BL[target.sample, target.column], old_BL[target.sample, target.column] = term, old
    return weight * new_BL, weight * old_BL  # the same weight: an unchanged mask leaves the ratio at 1


def _trained_turns(trajectory: Trajectory, least_iou: float) -> range:
    """Return the turns whose [SEG] is trained on gold: all, or only an answer that found the target.

    With `least_iou` above 0, the [SEG] of a wrong name, or of a turn that zooms and names no object, is not trained:
    its mask would become a blur of everything that it might have meant.
    """
    turns = range(len(trajectory.turns))
    if least_iou == 0:
        return turns
    return turns[-1:] if (mask_iou(trajectory) or 0.0) >= least_iou else turns[:0]
