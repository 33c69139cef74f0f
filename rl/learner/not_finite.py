"""Find which trajectory, and which term of the loss, is not finite. Called only once something is not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from configs.schema import GrpoConfig
from env.types import Trajectory
from rl.learner.micro_batch import Forward, Sample
from rl.learner.policy_loss import KLS, LossInputs


def fail_not_finite(samples: Sequence[Sample]) -> list[str]:
    """Fail the scored trajectories with a number that is not finite, and remove these numbers; return the causes."""
    causes = []
    for sample in samples:
        trajectory = sample.trajectory
        if term := _scored_term(trajectory):
            causes.append(f"{trajectory.trajectory_id}: {term}")
            trajectory.fail(f"the learner's {term} are not finite")
            for turn in trajectory.turns:
                turn.old_logprobs, turn.mask_logprob = (), None
    return causes


def _scored_term(trajectory: Trajectory) -> str:
    turns = trajectory.turns
    if not all(math.isfinite(value) for turn in turns for value in turn.old_logprobs):
        return "log-probs"
    if not all(math.isfinite(turn.mask_logprob) for turn in turns if turn.mask_logprob is not None):
        return "log-probs of masks"
    return ""


def causes_in_loss(inputs: LossInputs, samples: Sequence[Sample], config: GrpoConfig) -> list[str]:
    """Return "trajectory: term" for every trajectory with a term of the policy loss that is not finite.

    Args:
        inputs: Of the policy loss of a micro-batch.
        samples: Its rows.
        config: Of the loss.
    """
    mask_BL = inputs.mask_BL
    kl_BL = None
    if inputs.ref_logprobs_BL is not None:
        kl_BL = KLS[config.kl_form](inputs.logprobs_BL, inputs.ref_logprobs_BL)
    terms: dict[str, Tensor | None] = {
        "log-probs": inputs.logprobs_BL,
        "log-probs of the rollout": inputs.old_logprobs_BL,
        "weights of the sampler's log-probs": inputs.sampler_weights_BL,
        "mask term": inputs.mask_term_BL,
        "mask term of the rollout": inputs.old_mask_term_BL,
        "advantage": inputs.advantages_B[:, None].expand_as(mask_BL),
        "log-probs of the reference": inputs.ref_logprobs_BL,
        f"KL (grpo.kl_form {config.kl_form})": kl_BL,
        "policy ratio": (inputs.logprobs_BL - inputs.old_logprobs_BL).exp(),
    }
    causes: dict[int, str] = {}
    for name, values_BL in terms.items():
        if values_BL is not None:
            bad_B = (~torch.isfinite(values_BL) & mask_BL).any(1)
            for row in bad_B.nonzero()[:, 0].tolist():
                causes.setdefault(row, f"{samples[row].trajectory.trajectory_id}: {name}")
    return list(causes.values())


def causes_in_masks(forward: Forward) -> list[str]:
    """Return "trajectory: mask logits" for every trajectory with mask logits that are not finite."""
    bad_N = ~torch.isfinite(forward.logits_NHW.detach()).flatten(1).all(1)
    rows = {forward.targets[at].sample for at in bad_N.nonzero()[:, 0].tolist()}
    return [f"{forward.samples[row].trajectory.trajectory_id}: mask logits" for row in sorted(rows)]


def causes_in_gradient(forward: Forward) -> list[str]:
    """Return "trajectory: gradient" for every trajectory at whose hidden states the gradient is not finite."""
    of_text = forward.batch.loss_mask_BL.nonzero()[:, 0].tolist()
    of_segs = [row for row, sample in enumerate(forward.samples) for _ in sample.sequence.seg_positions]
    output = forward.output
    causes: dict[int, str] = {}
    for name, states, rows in (("text", output.text_states_PD, of_text), ("masks", output.seg_states_MD, of_segs)):
        if states.grad is not None:
            for at in (~torch.isfinite(states.grad).all(1)).nonzero()[:, 0].tolist():
                causes.setdefault(rows[at], f"{forward.samples[rows[at]].trajectory.trajectory_id}: gradient of {name}")
    return list(causes.values())
