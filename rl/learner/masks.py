"""The masks of a forward: what rewards read, the mask loss, and the mask's part of [SEG]'s log-probability."""

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
    """Write masks, and their log-probs on the calibration grid, into the trajectories that prompted them."""
    logits_NHW, presence_N = forward.logits_NHW, forward.presence_N
    grids = binarise_grid(logits_NHW, config.calibration_threshold)
    terms_N = CALIBRATIONS[config.calibration](logits_NHW, grids)
    for at, target in enumerate(forward.targets):
        sample = forward.samples[target.sample]
        trajectory = sample.trajectory
        video, turn = trajectory.task.video, trajectory.turns[target.turn]
        mask = binary_masks(logits_NHW[at : at + 1], presence_N[at : at + 1], video.height, video.width)
        rle = encode(mask[0].cpu().numpy())
        if target.is_key:
            sample.grids[target.turn] = grids[at]
            turn.key_mask, turn.mask_logprob = rle, float(terms_N[at])
            if target.frame_idx != turn.key_mask_frame:
                turn.mask_frame = target.frame_idx
        if target.is_answer:
            trajectory.masks[target.frame_idx] = rle


def mask_loss(forward: Forward, least_iou: float) -> Tensor:
    """Sum over targets of BCE + dice + 0.1 presence against gold (frames without gold masks train nothing).

    Its caller takes one mean over all targets. The released loss (trainer_videorl_cot.py, 702-903) is
    0.2 * (mean over sampled frames + mean over key frames) of BCE + dice, and differs in four points:

    - It decodes the sampled frames for every turn's [SEG]; here they are those of the last, whose masks are the
      answer and the reward. An earlier [SEG] learns on the frame that was looked at, at a fraction of the decoding.
    - Its two means weigh a key frame like all sampled frames together; here every mask weighs alike.
    - It has no presence term. SAM 2 empties a mask where it judges the object absent, so that has to be learnt.
    - It takes BCE and dice on frames without the target too; here these train presence alone, as in SAM 2.
    """
    total = forward.output.logprobs_BL.new_zeros(())
    taught = [_taught_turns(sample.trajectory, least_iou) for sample in forward.samples]
    for at, target in enumerate(forward.targets):
        task = forward.samples[target.sample].trajectory.task
        if not task.gold or target.turn not in taught[target.sample]:
            continue
        rle = task.gold[target.frame_idx]
        gold = mask_or_empty(rle, task.video.height, task.video.width)
        gold_1HW = torch.from_numpy(gold).to(forward.logits_NHW.device)[None]
        row = slice(at, at + 1)
        bce, dice, presence = mask_losses(forward.logits_NHW[row], forward.presence_N[row], gold_1HW)
        total = total + (bce + dice + 0.1 * presence).sum()
    return total


def mask_terms(forward: Forward, config: GrpoConfig) -> tuple[Tensor, Tensor]:
    """Weighted mask log-probs at their [SEG] positions, now and in the rollout; 0 at a [SEG] without a mask."""
    form, weight = CALIBRATIONS[config.calibration], config.calibration_coef
    new_BL, old_BL = (torch.zeros_like(forward.output.logprobs_BL) for _ in range(2))
    for at, target in enumerate(forward.targets):
        sample = forward.samples[target.sample]
        old = sample.trajectory.turns[target.turn].mask_logprob
        if target.is_key and old is not None:
            term = form(forward.logits_NHW[at : at + 1], sample.grids[target.turn][None])[0]
            new_BL[target.sample, target.column], old_BL[target.sample, target.column] = term, old
    return weight * new_BL, weight * old_BL  # weighted alike, so that an unchanged mask leaves the ratio at 1


def _taught_turns(trajectory: Trajectory, least_iou: float) -> range:
    """Turns whose [SEG] learns from gold: all, or the answer where it found the target. What a wrong name, or a look
    that names nobody, prompts for would else become a blur of everything it might have meant."""
    turns = range(len(trajectory.turns))
    if least_iou == 0:
        return turns
    return turns[-1:] if (mask_iou(trajectory) or 0.0) >= least_iou else turns[:0]
