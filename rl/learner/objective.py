"""The objective of a micro-batch: policy loss with calibration and KL, plus the mask loss, and their metrics.

The value of a micro-batch is its part of the loss of the whole step, because the denominators count the whole step.
Gradients and metrics of all micro-batches and ranks therefore add up to those of the step, however it is split.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from configs.schema import GrpoConfig
from policy.videoseg.model import SegPolicy
from policy.vlm.batch import Batch
from rl.learner.gradient_norms import backward
from rl.learner.importance_sampling import importance_weights
from rl.learner.masks import mask_loss, mask_terms
from rl.learner.micro_batch import Forward, Sample, Totals
from rl.learner.not_finite import causes_in_gradient, causes_in_loss, causes_in_masks
from rl.learner.policy_loss import Denominators, LossInputs, grpo_loss


class Objective:
    """The loss that a learner minimises, with the reference policy of its KL term."""

    def __init__(self, policy: SegPolicy, config: GrpoConfig, max_tokens: int):
        """Copy the reference policy, if the KL has a weight.

        Args:
            policy: The policy at the start of training; with `kl_coef` above 0 a frozen copy of it is kept.
            config: Form and weights of the loss terms.
            max_tokens: Most tokens that an episode may write, the denominator of the loss `dr_grpo`.
        """
        self._config = config
        self._max_tokens = max_tokens
        self._causes: list[str] = []
        self._reference = copy.deepcopy(policy).requires_grad_(False) if config.kl_coef > 0 else None

    def backward(self, forward: Forward, totals: Totals) -> dict[str, float]:
        """Add a micro-batch's part of the step's gradient to the parameters.

        Args:
            forward: A forward pass with gradient over trajectories that have advantages and old log-probs.
            totals: Counts of the whole step.

        Returns:
            The micro-batch's part of each metric of the step; the parts of all micro-batches add up. Nothing where the
            loss or its gradient is not finite; `take_causes` then says why, and the step must be skipped.
        """
        inputs = self._inputs(forward)
        policy_loss, metrics = self._policy_loss(inputs, forward, totals)
        masks_loss = mask_loss(forward, self._config.mask_least_iou) / max(1, totals.num_masks)
        if not math.isfinite(policy_loss.item()) or not math.isfinite(masks_loss.item()):
            found = causes_in_loss(inputs, forward.samples, self._config) + causes_in_masks(forward)
            names = ", ".join(sample.trajectory.trajectory_id for sample in forward.samples)
            self._causes += found or [f"{names}: loss"]
            return {}
        metrics["loss/masks"] = masks_loss.item()
        output = forward.output
        squares = backward(
            policy_loss, self._config.mask_coef * masks_loss, output.text_states_PD, output.seg_states_MD
        )
        if not all(map(math.isfinite, squares.values())):
            self._causes += causes_in_gradient(forward)
        return metrics | squares

    def take_causes(self) -> list[str]:
        """Return what has not been finite since the last call, as "trajectory: term"."""
        causes, self._causes = self._causes, []
        return causes

    def _inputs(self, forward: Forward) -> LossInputs:
        batch, output = forward.batch, forward.output
        mask_term_BL, old_term_BL = mask_terms(forward, self._config)
        old_BL, sampling_BL = old_logprobs(forward.samples, batch)
        advantages = [sample.trajectory.advantage for sample in forward.samples]
        return LossInputs(
            logprobs_BL=output.logprobs_BL,
            old_logprobs_BL=old_BL,
            mask_BL=batch.loss_mask_BL,
            advantages_B=torch.tensor(advantages, device=old_BL.device),
            ref_logprobs_BL=self._reference_logprobs(batch),
            mask_term_BL=mask_term_BL,
            old_mask_term_BL=old_term_BL,
            sampler_weights_BL=self._sampler_weights(old_BL, sampling_BL, batch.loss_mask_BL),
            entropy_BL=at_actions(output.entropy_P, batch),
        )

    def _policy_loss(self, inputs: LossInputs, forward: Forward, totals: Totals) -> tuple[Tensor, dict[str, float]]:
        whole_step = Denominators(totals.num_tokens, totals.num_samples, self._max_tokens)
        policy_loss, metrics = grpo_loss(inputs, self._config, whole_step)
        share = int(inputs.mask_BL.sum()) / totals.num_tokens
        metrics = {name: value * share for name, value in metrics.items()}
        metrics["loss/policy"] = policy_loss.item()
        metrics["policy/entropy"] = forward.output.entropy_P.mean().item() * share
        return policy_loss, metrics

    def _sampler_weights(self, old_BL: Tensor, sampling_BL: Tensor, mask_BL: Tensor) -> Tensor | None:
        cap, level = self._config.truncate_weight, self._config.truncate_level
        return importance_weights(old_BL, sampling_BL, mask_BL, cap, level) if cap > 0 else None

    @torch.no_grad()
    def _reference_logprobs(self, batch: Batch) -> Tensor | None:
        return None if self._reference is None else self._reference(batch).logprobs_BL


def at_actions(values_P: Tensor, batch: Batch) -> Tensor:
    """Return the values of the P action tokens of a batch as [B, L], 0 elsewhere."""
    values_BL = torch.zeros(batch.input_ids_BL.shape, device=values_P.device)
    values_BL[batch.loss_mask_BL] = values_P
    return values_BL


def old_logprobs(samples: Sequence[Sample], batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the learner's and the sampler's log-probs of the rollout, each [B, L] and 0 outside actions."""
    old_BL = torch.zeros(batch.input_ids_BL.shape)
    sampling_BL = torch.zeros(batch.input_ids_BL.shape)
    for row, sample in enumerate(samples):
        mask_L = torch.tensor(sample.sequence.loss_mask)
        turns = sample.trajectory.turns
        old_BL[row, : len(mask_L)][mask_L] = torch.tensor([value for turn in turns for value in turn.old_logprobs])
        sampled = [value for turn in turns for value in turn.action.logprobs]
        sampling_BL[row, : len(mask_L)][mask_L] = torch.tensor(sampled)
    return old_BL.to(batch.input_ids_BL.device), sampling_BL.to(batch.input_ids_BL.device)
