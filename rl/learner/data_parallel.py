"""The learner as several data-parallel processes, each on a GPU of its own.

Every rank trains on a part of a step's groups; gradients are summed before each optimizer step. Rank 0 runs in the
driver, which saves, publishes and evaluates as if it were alone; the other ranks are Ray actors. A rank that dies,
raises or hangs ends the run with a RankError: `--resume` continues from the last checkpoint, with any number of ranks.
"""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import ray
import torch

from configs.schema import RunConfig
from env.types import Trajectory
from policy.engines.weight_update import WeightUpdate
from rl.families import FAMILIES
from rl.learner.collectives import balance, init_process_group
from rl.learner.gradient_norms import add_up, with_shares
from rl.learner.learner import AssignAdvantages, Learner, LocalLearner, Pause
from rl.learner.micro_batch import Totals
from rl.learner.rank_calls import GRACE, RankCalls
from rl.learner.without_failed import without_unreadable
from rl.runtime.checkpoint import load_state
from rl.runtime.frame_caches import frame_caches
from rl.runtime.placement import PlacementGroup
from rl.runtime.skipped_updates import finite

Groups = list[list[Trajectory]]


class Rank:
    """A Ray actor with a learner: one of the ranks from 1 on, which the driver calls."""

    _learner: LocalLearner

    def load(self, config: RunConfig, policy_dir: str, threads: int) -> None:
        """Build the learner.

        Args:
            config: The run's configuration.
            policy_dir: Folder of the policy that all ranks start from.
            threads: Threads that torch may use in this process.
        """
        torch.set_num_threads(threads)
        policy = FAMILIES[config.policy.kind].load(Path(policy_dir), config.policy)
        self._learner = LocalLearner(policy, config, frame_caches(config))
        self._groups: Groups = []

    def init_process_group(self, address: str, rank: int, count: int) -> None:
        """Join the process group of `count` ranks at `address` (host:port) as rank `rank`."""
        init_process_group(address, rank, count, self._learner.policy.device)
        self._learner.join()

    def load_batch(self, groups: Groups) -> Totals:
        """Load this rank's groups of a step and return their counts."""
        self._groups = groups
        return self._learner.load_batch(groups)

    def first_update(self, totals: Totals, assign: AssignAdvantages) -> tuple[dict[str, float], Groups]:
        """Return this rank's part of the metrics, and its groups with everything filled in."""
        return self._learner.first_update(totals, assign), self._groups

    def next_update(self, totals: Totals) -> dict[str, float]:
        """Return this rank's part of the metrics of a further update."""
        return self._learner.next_update(totals)

    def optimizer_step(self) -> None:
        """Update the weights, together with all other ranks; all skip alike."""
        self._learner.optimizer_step()

    def take_causes(self) -> list[str]:
        """Return why this rank's last update had to be skipped."""
        return self._learner.take_causes()

    def drop_failed(self) -> int:
        """Unload this rank's trajectories whose data cannot be read, and return how many these are."""
        return self._learner.drop_failed()

    def totals(self) -> Totals:
        """Return the counts of this rank's loaded groups."""
        return self._learner.totals()

    def fill_logprobs_and_masks(self, groups: Groups) -> Groups:
        """Score groups and return them with everything filled in."""
        self._learner.fill_logprobs_and_masks([trajectory for group in groups for trajectory in group])
        return groups

    def send_state(self) -> None:
        """Send this rank's part of the optimizer's state to rank 0."""
        self._learner.state()

    def load_state(self, folder: str) -> None:
        """Restore the checkpoint in `folder`."""
        self._learner.load_state(load_state(Path(folder)), Path(folder))

    def close(self) -> None:
        """Leave the process group."""
        self._learner.close()


class DataParallelLearner:
    """A learner of `grpo.learner_ranks` processes, with the interface of `rl.learner.learner.Learner`."""

    def __init__(self, local: LocalLearner, config: RunConfig, policy_dir: Path):
        """Start the other ranks and connect all of them.

        Args:
            local: The learner of rank 0, in this process.
            config: The run's configuration; `grpo.learner_ranks` is at least 2.
            policy_dir: Folder of the policy that `local` was built from; the other ranks build theirs from it too.

        Raises:
            ConfigError: The cluster has too few free CPUs or GPUs for the ranks.
            RankError: A rank failed to start.
        """
        self._local = local
        self._updates = config.grpo.updates
        self._calls = RankCalls()
        count, device = config.grpo.learner_ranks, local.policy.device
        gpus = 1 if device.type == "cuda" else 0
        threads = torch.get_num_threads() if gpus else max(1, torch.get_num_threads() // count)
        torch.set_num_threads(threads)
        seconds = config.sampler.load_seconds
        self._placement = PlacementGroup(count - 1, 1, gpus, seconds, "ranks (grpo.learner_ranks)", "PACK")
        self._ranks: list[Any] = [
            ray.remote(num_cpus=1, num_gpus=gpus, scheduling_strategy=self._placement.of(at))(Rank).remote()
            for at in range(count - 1)
        ]
        try:
            self._connect(config, str(policy_dir.resolve()), threads)
        except Exception:
            self.close()
            raise
        self._calls.remedy = "go on with --resume"

    def _connect(self, config: RunConfig, policy_dir: str, threads: int) -> None:
        patience, count = config.sampler.load_seconds, 1 + len(self._ranks)
        self._calls.collect([rank.load.remote(config, policy_dir, threads) for rank in self._ranks], patience)
        address = free_address()
        calls = [rank.init_process_group.remote(address, at, count) for at, rank in enumerate(self._ranks, start=1)]
        self._calls.together(calls, partial(_init_and_join, self._local, address, count))

    def learn(
        self, groups: Sequence[Sequence[Trajectory]], assign: AssignAdvantages, pause: Pause = lambda: None
    ) -> dict[str, float]:
        """Run one step on all ranks. A group stays on one rank, so that `assign` sees all siblings.

        Args:
            groups: Siblings side by side; log-probs, masks, scores and advantages are filled in place.
            assign: Computes the advantages of one scored group; pickled and called on the group's rank.
            pause: Called on rank 0 before each of its micro-batches of groups.

        Returns:
            The metrics of `LocalLearner.learn`, and `time/rank_wait_s`: the seconds that rank 0 waited for the other
            ranks, which tells how unevenly the groups were divided.
        """
        self._calls.waited = 0.0
        skipped_before = self._local.skipped.total
        own, *others = split_groups(groups, 1 + len(self._ranks))
        self._local.load_batch(own)
        self._calls.collect([rank.load_batch.remote(part) for rank, part in zip(self._ranks, others, strict=True)])
        sums, answers = without_unreadable(partial(self._first_update, assign, pause), self._drop_failed)
        for part, (_, filled) in zip(others, answers, strict=True):
            _copy_back(part, filled)
        if not self._totals().num_samples:
            return {}
        metrics = self._finish_update(sums, [theirs for theirs, _ in answers])
        for _ in range(1, self._updates):
            sums, answers = without_unreadable(self._next_update, self._drop_failed)
            metrics = self._finish_update(sums, answers)
        skipped = float(self._local.skipped.total - skipped_before)
        return metrics | {"optim/skipped": skipped, "time/rank_wait_s": self._calls.waited}

    def _totals(self) -> Totals:
        return Totals.over([self._local.totals(), *self._calls.collect([rank.totals.remote() for rank in self._ranks])])

    def _first_update(self, assign: AssignAdvantages, pause: Pause) -> tuple[dict[str, float], list[Any]]:
        totals = self._totals()
        calls = [rank.first_update.remote(totals, assign) for rank in self._ranks]
        return self._calls.beside(calls, partial(self._local.first_update, totals, assign, pause))

    def _next_update(self) -> tuple[dict[str, float], list[Any]]:
        totals = self._totals()
        calls = [rank.next_update.remote(totals) for rank in self._ranks]
        return self._calls.beside(calls, partial(self._local.next_update, totals))

    def _drop_failed(self) -> int:
        """Unload on all ranks what cannot be read. A rank that still computes the failed update finishes it first."""
        calls = [rank.drop_failed.remote() for rank in self._ranks]
        dropped, others = self._calls.beside(calls, self._local.drop_failed)
        return dropped + sum(others)

    def _finish_update(self, own: dict[str, float], others: Sequence[dict[str, float]]) -> dict[str, float]:
        """Take the optimizer step; return the metrics of all ranks together."""
        calls = [rank.optimizer_step.remote() for rank in self._ranks]
        metrics = self._calls.together(calls, self._local.optimizer_step)
        causes = self._local.take_causes()
        if metrics["optim/skipped"]:
            of_ranks = self._calls.collect([rank.take_causes.remote() for rank in self._ranks])
            causes = list(dict.fromkeys([*causes, *(cause for part in of_ranks for cause in part)]))
        self._local.skipped.record(causes)
        return metrics if causes else finite(with_shares(add_up([own, *others]))) | metrics

    def fill_logprobs_and_masks(self, trajectories: Sequence[Trajectory]) -> None:
        """Score trajectories on all ranks, in place; siblings lie side by side."""
        siblings = [list(group) for _, group in groupby(trajectories, key=lambda item: item.task.task_id)]
        own, *others = split_groups(siblings, 1 + len(self._ranks))
        calls = [rank.fill_logprobs_and_masks.remote(part) for rank, part in zip(self._ranks, others, strict=True)]
        _, answers = self._calls.beside(
            calls, partial(self._local.fill_logprobs_and_masks, [item for group in own for item in group])
        )
        for part, filled in zip(others, answers, strict=True):
            _copy_back(part, filled)

    def weight_update(self) -> WeightUpdate:
        """Return the trained weights that the rollout workers' engines have to load."""
        return self._local.weight_update()

    def state(self) -> dict[str, Any]:
        """Return everything that an exact resume needs besides the configuration, gathered from all ranks."""
        return self._calls.together([rank.send_state.remote() for rank in self._ranks], self._local.state)

    def load_state(self, state: dict[str, Any], folder: Path) -> None:
        """Restore `state` on rank 0 and the checkpoint in `folder`, which is the same, on the others."""
        calls = [rank.load_state.remote(str(folder.resolve())) for rank in self._ranks]
        self._local.load_state(state, folder)
        self._calls.collect(calls)

    def close(self) -> None:
        """End all ranks and free their places in the cluster."""
        calls = [rank.close.remote() for rank in self._ranks]
        self._local.close()
        ray.wait(calls, num_returns=len(calls), timeout=GRACE)
        for rank in self._ranks:
            ray.kill(rank)
        self._placement.free()


def free_address() -> str:
    """Return host:port of this node with a port that is free now, where ranks can meet."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"


def _init_and_join(local: LocalLearner, address: str, count: int) -> None:
    init_process_group(address, 0, count, local.policy.device)
    local.join()


def with_ranks(local: LocalLearner, config: RunConfig, policy_dir: Path) -> Learner:
    """Return a learner of `grpo.learner_ranks` ranks.

    Args:
        local: The learner of rank 0; returned as it is if there is only one rank.
        config: The run's configuration.
        policy_dir: Folder of the policy that `local` was built from.

    Returns:
        `local`, or a `DataParallelLearner`, which needs a connection to Ray.
    """
    return DataParallelLearner(local, config, policy_dir) if config.grpo.learner_ranks > 1 else local


def split_groups(groups: Sequence[Sequence[Trajectory]], count: int) -> list[Groups]:
    """Divide groups among `count` ranks, with similar sums of tokens; rank 0 gets the longest group."""
    parts: list[Groups] = [[] for _ in range(count)]
    for group, rank in zip(groups, balance([_num_tokens(group) for group in groups], count), strict=True):
        parts[rank].append(list(group))
    return parts


def _num_tokens(group: Sequence[Trajectory]) -> int:
    """Count text tokens; the frames of the observations, which come in addition, are left out."""
    turns = [turn for trajectory in group for turn in trajectory.turns]
    return sum(len(turn.observation_ids or ()) + len(turn.action.token_ids) for turn in turns)


def _copy_back(mine: Groups, theirs: Groups) -> None:
    """Copy the fields of trajectories that came back from another process into the ones of this process."""
    for group, filled in zip(mine, theirs, strict=True):
        for trajectory, other in zip(group, filled, strict=True):
            for field in dataclasses.fields(Trajectory):
                setattr(trajectory, field.name, getattr(other, field.name))
