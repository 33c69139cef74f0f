"""The learner: scores trajectories with the weights that wrote them, then updates these.

`Learner` is the seam. `LocalLearner` is one process; `rl.learner.data_parallel` shares a step out over several of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from configs.schema import GrpoConfig, RunConfig
from env.frames import FrameCaches
from env.types import Trajectory
from policy.engines.weight_update import WeightUpdate
from policy.videoseg.model import SegPolicy
from policy.videoseg.tracking import track
from policy.vlm.batch import ALIKE, Batch, collate, pack, to_sequence
from rl.learner.collectives import add_up_gradients, destroy_process_group, take_from_first
from rl.learner.gradient_norms import add_to, backward, with_shares
from rl.learner.importance_sampling import importance_weights
from rl.learner.mask_targets import Target, mask_targets
from rl.learner.masks import fill_masks, mask_loss, mask_terms
from rl.learner.micro_batch import Forward, Sample, Totals, _at_actions, _fill_logprobs, _old_logprobs
from rl.learner.policy_loss import LossInputs, grpo_loss, loss_settings
from rl.learner.validate import check_names
from rl.learner.zero_adam import SharedAdam
from rl.runtime.checkpoint import restore

AssignAdvantages = Callable[[Sequence[Trajectory]], None]
"""Given one scored group, fills in each trajectory's scores and advantage."""
Pause = Callable[[], None]
"""Called between two micro-batches."""


class Learner(Protocol):
    """What the training loop asks of whatever holds the weights that learn."""

    def learn(
        self, groups: Sequence[Sequence[Trajectory]], assign: AssignAdvantages, pause: Pause = ...
    ) -> dict[str, float]: ...
    def fill_logprobs_and_masks(self, trajectories: Sequence[Trajectory]) -> None: ...
    def weight_update(self) -> WeightUpdate: ...
    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: dict[str, Any], folder: Path) -> None: ...
    def close(self) -> None: ...


def score_without_update(learner: Learner, groups: Sequence[Sequence[Trajectory]], assign: AssignAdvantages) -> None:
    """Score groups and have them judged without learning from them: one more forward for those that are learnt from."""
    learner.fill_logprobs_and_masks([trajectory for group in groups for trajectory in group])
    for group in groups:
        assign(group)


class LocalLearner:
    """One process with weights of its own: all of the learner, or one rank of several.

    A step is `learn`; ranks take it in its parts: `hold`, `first`, `descend`, and for every further update `again` and
    `descend`.
    """

    def __init__(self, policy: SegPolicy, config: RunConfig, frames: FrameCaches):
        self.policy = policy
        self.config = config.grpo
        check_names(config)
        self.settings = loss_settings(config.grpo, config.env.max_turns * config.env.max_action_tokens)
        self.frames = frames
        policy.sam.requires_grad_(False)
        # As in the released recipe, SAM 2 learns only what turns prompts into masks.
        policy.sam.sam_mask_decoder.requires_grad_(not self.config.freeze_sam)
        policy.sam.sam_prompt_encoder.requires_grad_(not self.config.freeze_sam)
        self.trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        self.reference = self._frozen_copy() if self.config.kl_coef > 0 else None
        self._shared: SharedAdam | None = None  # where this is a rank of several
        self._groups: list[list[Sample]] = []
        self._start(torch.optim.AdamW(self.trained, self.config.lr, weight_decay=self.config.weight_decay))

    def _frozen_copy(self) -> SegPolicy:
        return copy.deepcopy(self.policy).requires_grad_(False)

    def _start(self, optimizer: torch.optim.Optimizer) -> None:
        config = self.config
        self.optimizer = optimizer
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda update: lr_scale(config, update // config.updates)
        )

    def join(self) -> None:
        """Become a rank of torch's process group: with the weights of rank 0, and a share of the optimizer's state."""
        take_from_first(self.policy)
        self._shared = SharedAdam(self.trained, self.config.lr, self.config.weight_decay)
        self._start(self._shared.local)

    def close(self) -> None:
        if self._shared is not None:
            destroy_process_group()

    # ---- the step ----

    def learn(
        self, groups: Sequence[Sequence[Trajectory]], assign: AssignAdvantages, pause: Pause = lambda: None
    ) -> dict[str, float]:
        """Score each group, have it judged, and take `grpo.updates` optimizer steps. Returns the last one's metrics.

        Groups that together hold no more tokens than a micro-batch may are scored and trained by the same forwards; a
        larger one is first scored without gradient. `judge` sees a group once its log-probs and masks are filled in.
        """
        totals = self.load_batch(groups)
        sums = self.first_update(totals, assign, pause)
        metrics = with_shares(sums) | self.optimizer_step()
        for _ in range(1, self.config.updates):
            sums = self.next_update(totals)
            metrics = with_shares(sums) | self.optimizer_step()
        return metrics

    def load_batch(self, groups: Sequence[Sequence[Trajectory]]) -> Totals:
        """Take on the groups of a step. Returns what they count."""
        self._groups = [[self._sample(trajectory) for trajectory in group] for group in groups]
        samples = self._everything()
        num_tokens = sum(sum(sample.sequence.loss_mask) for sample in samples)
        return Totals(num_tokens, len(samples), len(self._targets(samples)))

    def first_update(self, totals: Totals, assign: AssignAdvantages, pause: Pause = lambda: None) -> dict[str, float]:
        """Score what is held, have it judged, and add up its share of the gradient. Returns shares of the metrics."""
        longest = [max(len(sample.sequence) for sample in group) for group in self._groups]
        sums: dict[str, float] = {}
        for rows in pack(longest, self.config.max_batch_tokens, [len(group) for group in self._groups]):
            pause()
            self._learn_groups([self._groups[row] for row in rows], assign, totals, sums)
        return sums

    def next_update(self, totals: Totals) -> dict[str, float]:
        """The same from a further forward, for a second optimizer step on what was scored at the first."""
        sums: dict[str, float] = {}
        self._backward_all(self._everything(), totals, sums)
        return sums

    def optimizer_step(self) -> dict[str, float]:
        """Take the optimizer step that the gradients of all ranks make together."""
        if self._shared is not None:
            add_up_gradients(self.trained)
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.config.max_grad_norm)
        (self._shared or self.optimizer).step()
        self.schedule.step()
        for parameter in self.trained:
            parameter.grad = None
        return {"optim/grad_norm": float(norm), "optim/learning_rate": float(self.schedule.get_last_lr()[0])}

    def _everything(self) -> list[Sample]:
        return [sample for group in self._groups for sample in group]

    def _learn_groups(
        self,
        groups: Sequence[Sequence[Sample]],
        assign: AssignAdvantages,
        totals: Totals,
        sums: dict[str, float],
    ) -> None:
        members = [sample for group in groups for sample in group]
        pieces = self._pieces(members)
        held = [self._forward(piece) for piece in pieces] if self._fits(pieces) else []
        for forward in held:
            self._record(forward)
        if not held:
            self._score(members)
        for group in groups:
            assign([sample.trajectory for sample in group])
        for forward in held:
            self._backward(forward, totals, sums)
        if not held:
            self._backward_all(members, totals, sums)

    def fill_logprobs_and_masks(self, trajectories: Sequence[Trajectory]) -> None:
        """Fill in old log-probs, masks and mask log-probs, all from one forward; the weights stay as they are."""
        self._score([self._sample(trajectory) for trajectory in trajectories])

    def _sample(self, trajectory: Trajectory) -> Sample:
        return Sample(trajectory, to_sequence(trajectory, self.policy.chat, self.policy.layout))

    def _fits(self, pieces: Sequence[Sequence[Sample]]) -> bool:
        """Whether what their forwards leave for the backward pass can be held at once."""
        padded = sum(len(piece) * max(len(sample.sequence) for sample in piece) for piece in pieces)
        return padded <= self.config.max_batch_tokens

    def _pieces(self, samples: Sequence[Sample]) -> list[list[Sample]]:
        """Micro-batches of like lengths; an episode without a turn (its first observation did not fit) is in none."""
        said = [sample for sample in samples if len(sample.sequence)]
        rows = pack([len(sample.sequence) for sample in said], self.config.max_batch_tokens, least_share=ALIKE)
        return [[said[row] for row in piece] for piece in rows]

    def _forward(self, samples: Sequence[Sample]) -> Forward:
        policy = self.policy
        sequences = [sample.sequence for sample in samples]
        batch = collate(sequences, policy.chat, policy.layout, self.frames.policy, policy.device)
        output = policy(batch)
        targets = self._targets(samples)
        named = [(t.prompt_row, samples[t.sample].trajectory.task.video, t.frame_idx) for t in targets]
        if named:
            logits_NHW, presence_N = policy.decode_masks(output.prompts_MC, named, self.frames.sam)
        else:
            logits_NHW, presence_N = output.prompts_MC.new_zeros(0, 1, 1), output.prompts_MC.new_zeros(0)
        return Forward(samples, batch, output, targets, logits_NHW, presence_N)

    # ---- scoring ----

    @torch.no_grad()
    def _score(self, samples: Sequence[Sample]) -> None:
        for piece in self._pieces(samples):
            self._record(self._forward(piece))

    @torch.no_grad()
    def _record(self, forward: Forward) -> None:
        """Write what a forward says of the trajectories, as they were sampled, into them."""
        for row, sample in enumerate(forward.samples):
            _fill_logprobs(sample, forward.output.logprobs_BL[row])
        if forward.targets:
            fill_masks(forward, self.config)
        if self.config.masks == "tracked":
            self._track(forward)

    def _track(self, forward: Forward) -> None:
        """Put the tracked masks of every frame in place of those that were decoded one by one."""
        trajectories = [sample.trajectory for sample in forward.samples]
        prompts: list[Tensor | None] = [None] * len(trajectories)
        for target in forward.targets:
            if target.turn == len(trajectories[target.sample].turns) - 1:
                prompts[target.sample] = forward.output.prompts_MC[target.prompt_row]
        for _ in track(self.policy, trajectories, prompts, self.frames.sam):
            pass  # each is filled in as it comes

    def _targets(self, samples: Sequence[Sample]) -> list[Target]:
        pairs = [(sample.trajectory, sample.sequence) for sample in samples]
        return mask_targets(pairs, self.config.masks, self.config.mask_frames)

    # ---- the loss ----

    def _backward(self, forward: Forward, totals: Totals, sums: dict[str, float]) -> None:
        """Add this micro-batch's share of the step's gradient, and of each metric's mean to `sums`."""
        policy_loss, metrics = self._policy_loss(forward, totals)
        masks_loss = mask_loss(forward, self.config.mask_least_iou) / max(1, totals.num_masks)
        metrics["loss/masks"] = masks_loss.item()
        output = forward.output
        metrics |= backward(
            policy_loss, self.config.mask_coef * masks_loss, output.text_states_PD, output.seg_states_MD
        )
        add_to(sums, metrics)

    def _backward_all(self, samples: Sequence[Sample], totals: Totals, sums: dict[str, float]) -> None:
        for piece in self._pieces(samples):
            self._backward(self._forward(piece), totals, sums)

    def _policy_loss(self, forward: Forward, totals: Totals) -> tuple[Tensor, dict[str, float]]:
        samples, batch, output = forward.samples, forward.batch, forward.output
        mask_term_BL, old_term_BL = mask_terms(forward, self.config)
        old_BL, sampling_BL = _old_logprobs(samples, batch)
        weights_BL, cap = None, self.config.truncate_weight
        if cap > 0:
            level = self.config.truncate_level
            weights_BL = importance_weights(old_BL, sampling_BL, batch.loss_mask_BL, cap, level)
        inputs = LossInputs(
            logprobs_BL=output.logprobs_BL,
            old_logprobs_BL=old_BL,
            mask_BL=batch.loss_mask_BL,
            advantages_B=torch.tensor([sample.trajectory.advantage for sample in samples], device=old_BL.device),
            ref_logprobs_BL=self._reference_logprobs(batch),
            mask_term_BL=mask_term_BL,
            old_mask_term_BL=old_term_BL,
            sampler_weights_BL=weights_BL,
            entropy_BL=_at_actions(output.entropy_P, batch),
        )
        policy_loss, metrics = grpo_loss(inputs, self.settings, totals.num_tokens, totals.num_samples)
        share = int(batch.loss_mask_BL.sum()) / totals.num_tokens
        metrics = {name: value * share for name, value in metrics.items()}
        metrics["loss/policy"] = policy_loss.item()
        metrics["policy/entropy"] = output.entropy_P.mean().item() * share
        return policy_loss, metrics

    @torch.no_grad()
    def _reference_logprobs(self, batch: Batch) -> Tensor | None:
        return None if self.reference is None else self.reference(batch).logprobs_BL

    # ---- weights ----

    def weight_update(self) -> WeightUpdate:
        return self.policy.weight_update()

    def state(self) -> dict[str, Any]:
        """Everything that an exact resume needs beside the configuration; of several ranks, rank 0 has it."""
        return {
            "policy": self.policy.state_dict(),
            "optimizer": self._shared.gather() if self._shared else self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "rng": torch.get_rng_state(),
        }

    def load_state(self, state: dict[str, Any], folder: Path) -> None:
        """Go on from a state that any number of ranks has saved; `folder` is where it was read, for messages."""
        restore(self.policy, state["policy"], str(folder))
        if self._shared is not None:
            self._shared.load(state["optimizer"])
        else:
            self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["rng"])


def lr_scale(config: GrpoConfig, step: int) -> float:
    """The share of `grpo.lr` that `step` learns with, above 0 and at most 1."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return warmup * (1 - step / max(1, config.steps)) if config.lr_decays else warmup
