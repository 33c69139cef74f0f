"""The learner: score the trajectories of a step, compute their advantages, and update the policy.

`Learner` is the interface that the training loop uses. `LocalLearner` is one process and needs no Ray;
`rl.learner.data_parallel` runs a step on several of them. The parts of a step lie in modules of their own: forward
passes in `score_pass`, the loss in `objective`, AdamW and its schedule in `optimizer`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from configs.plain_text import plain
from configs.schema import RunConfig
from env.errors import DataError
from env.frames import FrameCaches
from env.types import Trajectory
from policy.checkpoint_io import reading
from policy.engines.weight_update import WeightUpdate
from policy.videoseg.model import SegPolicy
from policy.vlm.batch import pack
from rl.learner.collectives import destroy_process_group, take_from_first
from rl.learner.gradient_norms import add_up, with_shares
from rl.learner.micro_batch import Sample, Totals, num_padded_tokens, split_samples
from rl.learner.objective import Objective
from rl.learner.optimizer import LearnerOptimizer
from rl.learner.score_pass import ScorePass
from rl.learner.validate import check_names
from rl.learner.without_failed import without_unreadable
from rl.runtime.checkpoint import restore
from rl.runtime.skipped_updates import NotFiniteError, SkippedUpdates, finite

logger = logging.getLogger(__name__)
AssignAdvantages = Callable[[Sequence[Trajectory]], None]
"""Fills in the scores and the advantage of each trajectory of one scored group."""
Pause = Callable[[], None]
"""Called between two micro-batches."""


class Learner(Protocol):
    """The process, or processes, that hold the trained weights, as the training loop sees them."""

    def learn(
        self, groups: Sequence[Sequence[Trajectory]], assign: AssignAdvantages, pause: Pause = ...
    ) -> dict[str, float]:
        """Run one step (`LocalLearner.learn`) and return its metrics."""
        ...

    def fill_logprobs_and_masks(self, trajectories: Sequence[Trajectory]) -> None:
        """Score trajectories in place and leave the weights as they are. Siblings lie side by side."""
        ...

    def weight_update(self) -> WeightUpdate:
        """Return the trained weights that the rollout workers' engines have to load."""
        ...

    def state(self) -> dict[str, Any]:
        """Return everything that an exact resume needs besides the configuration."""
        ...

    def load_state(self, state: dict[str, Any], folder: Path) -> None:
        """Restore a state, which was read from `folder`."""
        ...

    def close(self) -> None:
        """End the processes and free what they use."""
        ...


def score_without_update(learner: Learner, groups: Sequence[Sequence[Trajectory]], assign: AssignAdvantages) -> None:
    """Score groups and compute their advantages, and leave the weights as they are.

    Dynamic sampling needs this before it knows which groups to train on; those pay for one more forward pass.

    Args:
        learner: Runs the score pass.
        groups: Siblings side by side; filled in place.
        assign: Computes the advantages of one scored group.
    """
    learner.fill_logprobs_and_masks([trajectory for group in groups for trajectory in group])
    for group in groups:
        try:
            assign_to_valid(group, assign)
        except DataError as error:  # siblings have one gold mask
            for trajectory in group:
                trajectory.fail(str(error))


def assign_to_valid(group: Sequence[Trajectory], assign: AssignAdvantages) -> None:
    """Compute the advantages of the siblings that have not failed, if there are at least two."""
    valid = [trajectory for trajectory in group if not trajectory.has_failed]
    if len(valid) > 1:
        assign(valid)


class LocalLearner:
    """A learner in one process: the whole learner, or one rank of several.

    `learn` is a whole step. Ranks run its parts: `load_batch`, `first_update`, `optimizer_step`, and for every further
    update `next_update` and `optimizer_step`.
    """

    def __init__(self, policy: SegPolicy, config: RunConfig, frames: FrameCaches):
        """Prepare `policy` for training, in place. ConfigError for an unknown name in `grpo` or `rewards`."""
        check_names(config)
        self.policy = policy
        self.config = config.grpo
        policy.sam.requires_grad_(False)
        # As in the released recipe, SAM 2 trains only the parts that turn prompts into masks.
        policy.sam.sam_mask_decoder.requires_grad_(not self.config.freeze_sam)
        policy.sam.sam_prompt_encoder.requires_grad_(not self.config.freeze_sam)
        trained = {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}
        self.score_pass = ScorePass(policy, self.config, frames)
        max_tokens = config.env.max_turns * config.env.max_action_tokens
        self.objective = Objective(policy, self.config, max_tokens)
        self.optimizer = LearnerOptimizer(trained, self.config)
        self.skipped = SkippedUpdates(self.config.max_skipped_updates, "grpo.max_skipped_updates")
        self._groups: list[list[Sample]] = []
        self._causes: list[str] = []  # of an update that must be skipped

    # ---- the step ----

    def learn(
        self, groups: Sequence[Sequence[Trajectory]], assign: AssignAdvantages, pause: Pause = lambda: None
    ) -> dict[str, float]:
        """Run one step: score the groups, compute advantages, and take `grpo.updates` optimizer steps.

        Groups that together fit a micro-batch are scored and trained by the same forward pass. A larger group is
        scored first without gradient. Trajectories whose data cannot be read fail, and the step is that of the others.
        An update whose loss or gradient is not finite is skipped.

        Args:
            groups: Siblings side by side; log-probs, masks, scores and advantages are filled in place.
            assign: Computes the advantages of one group; called once its log-probs and masks are filled in.
            pause: Called before each micro-batch of groups.

        Returns:
            The metrics of the last update, and how many were skipped. Nothing if no group is left.
        """
        skipped_before = self.skipped.total
        self.load_batch(groups)
        sums = without_unreadable(lambda: self.first_update(self.totals(), assign, pause), self.drop_failed)
        if not self._groups:
            return {}
        metrics = self._finish_update(sums)
        for _ in range(1, self.config.updates):
            sums = without_unreadable(lambda: self.next_update(self.totals()), self.drop_failed)
            metrics = self._finish_update(sums)
        return metrics | {"optim/skipped": float(self.skipped.total - skipped_before)}

    def _finish_update(self, sums: dict[str, float]) -> dict[str, float]:
        metrics = self.optimizer_step()
        causes = self.take_causes()
        self.skipped.record(causes)
        return metrics if causes else finite(with_shares(sums)) | metrics

    def load_batch(self, groups: Sequence[Sequence[Trajectory]]) -> Totals:
        """Load the groups of a step and return their counts."""
        self._groups = [[self.score_pass.to_sample(trajectory) for trajectory in group] for group in groups]
        return self.totals()

    def drop_failed(self) -> int:
        """Fail the loaded trajectories whose data cannot be read, and unload all that have failed.

        Groups of fewer than `grpo.min_group` that are left are unloaded too. The gradient added up so far is forgotten.

        Returns:
            How many were unloaded.
        """
        self.optimizer.clear()
        self.take_causes()
        before = self._all_samples()
        self.score_pass.fail_unreadable(before)
        left = [[sample for sample in group if not sample.trajectory.has_failed] for group in self._groups]
        self._groups = [group for group in left if len(group) >= self.config.min_group]
        return len(before) - len(self._all_samples())

    def totals(self) -> Totals:
        """Return the counts of the loaded groups."""
        samples = self._all_samples()
        num_tokens = sum(sum(sample.sequence.loss_mask) for sample in samples)
        return Totals(num_tokens, len(samples), len(self.score_pass.targets(samples)))

    def first_update(self, totals: Totals, assign: AssignAdvantages, pause: Pause = lambda: None) -> dict[str, float]:
        """Score the loaded groups, compute their advantages, and add up the gradient of their loss.

        Args:
            totals: Counts of the whole step, over all ranks.
            assign: Computes the advantages of one scored group.
            pause: Called before each micro-batch of groups.

        Returns:
            This process's part of each metric; the parts of all ranks add up.
        """
        longest = [max(len(sample.sequence) for sample in group) for group in self._groups]
        parts: list[dict[str, float]] = []
        for rows in pack(longest, self.config.max_batch_tokens, [len(group) for group in self._groups]):
            pause()
            parts += self._update_groups([self._groups[row] for row in rows], assign, totals)
        if self._causes:  # what failed has no advantage, and is not part of further updates
            scored = [[sample for sample in group if sample.trajectory.advantage is not None] for group in self._groups]
            self._groups = [group for group in scored if group]
        return add_up(parts)

    def _update_groups(
        self, groups: Sequence[Sequence[Sample]], assign: AssignAdvantages, totals: Totals
    ) -> list[dict[str, float]]:
        """Score whole groups, compute their advantages and back-propagate; one forward pass where memory allows it.

        Returns each micro-batch's part of the metrics.
        """
        samples = [sample for group in groups for sample in group]
        micro_batches = split_samples(samples, self.config.max_batch_tokens)
        fits = num_padded_tokens(micro_batches) <= self.config.max_batch_tokens
        forwards = [self.score_pass.forward(micro_batch) for micro_batch in micro_batches] if fits else []
        for forward in forwards:
            self._causes += self.score_pass.fill(forward)
        if not forwards:
            self._causes += self.score_pass.score(samples)
        for group in groups:
            assign_to_valid([sample.trajectory for sample in group], assign)
        if self._causes:
            return []  # the update will be skipped, and a trajectory that failed has no advantage
        if not forwards:
            return self._forward_and_backward(samples, totals)
        return [self.objective.backward(forward, totals) for forward in forwards]

    def next_update(self, totals: Totals) -> dict[str, float]:
        """Add up the gradient once more, with the updated weights and the advantages of `first_update`.

        Returns this process's part of each metric.
        """
        return add_up(self._forward_and_backward(self._all_samples(), totals))

    def _forward_and_backward(self, samples: Sequence[Sample], totals: Totals) -> list[dict[str, float]]:
        """Train on scored samples, one micro-batch after the other; return each one's part of the metrics."""
        micro_batches = split_samples(samples, self.config.max_batch_tokens)
        return [self.objective.backward(self.score_pass.forward(samples), totals) for samples in micro_batches]

    def optimizer_step(self) -> dict[str, float]:
        """Update the weights from the gradients of all ranks; return the optimizer's metrics.

        It is skipped on all ranks if the loss on one, or the gradient, is not finite; `take_causes` says why.
        """
        self._causes += self.objective.take_causes()
        metrics = self.optimizer.step(is_loss_finite=not self._causes)
        if self.optimizer.cause and not self._causes:
            self._causes.append(self.optimizer.cause)
        return metrics

    def take_causes(self) -> list[str]:
        """Return why the last update was skipped, as "trajectory: term"; nothing if it was not."""
        causes, self._causes = self._causes + self.objective.take_causes(), []
        return causes

    def _all_samples(self) -> list[Sample]:
        return [sample for group in self._groups for sample in group]

    # ---- scoring alone ----

    def fill_logprobs_and_masks(self, trajectories: Sequence[Trajectory]) -> None:
        """Fill in old log-probs, masks and mask log-probs from one forward pass; the weights stay as they are.

        Trajectories whose data cannot be read, or with numbers that are not finite, fail.
        """
        samples = [self.score_pass.to_sample(trajectory) for trajectory in trajectories]

        def drop() -> int:
            self.score_pass.fail_unreadable(samples)
            failed = [sample for sample in samples if sample.trajectory.has_failed]
            samples[:] = [sample for sample in samples if not sample.trajectory.has_failed]
            return len(failed)

        for cause in without_unreadable(lambda: self.score_pass.score(samples), drop):
            logger.warning("a trajectory is left out, because numbers are not finite: %s", plain(cause))

    # ---- weights and state ----

    def weight_update(self) -> WeightUpdate:
        """Return the trained weights that the rollout workers' engines have to load.

        NotFiniteError if one is not finite: the policy was damaged when training began, or in an update.
        """
        update = self.policy.weight_update()
        for name, value in update.items():
            parts = [value] if isinstance(value, torch.Tensor) else [value.up_OR, value.down_RI]
            if not all(torch.isfinite(part).all() for part in parts):
                raise NotFiniteError(f"weight {name} is not finite; go on with --resume from an earlier checkpoint")
        return update

    def state(self) -> dict[str, Any]:
        """Return everything that an exact resume needs besides the configuration.

        All ranks must call it at once; only rank 0 gets the whole optimizer state.
        """
        return {"policy": self.policy.state_dict(), **self.optimizer.state(), "rng": torch.get_rng_state()}

    def load_state(self, state: dict[str, Any], folder: Path) -> None:
        """Restore a state that any number of ranks has saved; `folder` is named in error messages."""
        restore(self.policy, state["policy"], str(folder))
        with reading(folder / "state.pt", f"remove {folder} to resume from the checkpoint before it"):
            self.optimizer.load(state)
            torch.set_rng_state(state["rng"])

    # ---- one rank of several ----

    def join(self) -> None:
        """Become a rank of torch's process group: take the weights of rank 0 and shard the optimizer's state."""
        take_from_first(self.policy)
        self.optimizer.shard()

    def close(self) -> None:
        """Leave the process group, if this learner has joined one."""
        if self.optimizer.is_sharded:
            destroy_process_group()
