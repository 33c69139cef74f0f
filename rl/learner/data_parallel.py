"""The learner as several processes, each on a GPU of its own: they share a step's groups out and descend together.

Rank 0 is the driver's own, which saves, publishes and evaluates as if it were alone; the others are Ray actors. A rank
that dies, raises or hangs ends the run with a RankError: `--resume` goes on from the last checkpoint, with any number
of ranks.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import ray
import torch
from ray.exceptions import RayActorError, RayError, RayTaskError

from configs.load import ConfigError
from configs.schema import RunConfig
from env.errors import VideoSegError
from env.types import Trajectory
from policy.engines.weight_update import WeightUpdate
from policy.videoseg.checkpoint import POLICIES
from rl.learner.collectives import SECONDS, balance, free_address, init_process_group
from rl.learner.gradient_norms import add_to, with_shares
from rl.learner.learner import AssignAdvantages, Learner, LocalLearner, Pause
from rl.learner.micro_batch import Totals
from rl.runtime.checkpoint import load_state
from rl.runtime.frame_caches import frame_caches
from rl.runtime.placement import PlacementGroup
from rl.runtime.threads import in_background

Groups = list[list[Trajectory]]
T = TypeVar("T")
_GRACE = 10.0  # seconds in which ranks that end, or Ray's word of those that died, should be there
PATIENCE = 10  # times as long as rank 0 took for its own part may another rank take for its


class RankError(VideoSegError):
    """A rank of the learner is lost, and with it what this step has learnt."""


class Rank:
    """One of the others: a learner behind a Ray actor, which is told what to do by the driver."""

    _learner: LocalLearner

    def load(self, config: RunConfig, policy_dir: str, threads: int) -> None:
        torch.set_num_threads(threads)
        policy = POLICIES[config.policy.kind](Path(policy_dir), config.policy)
        self._learner = LocalLearner(policy, config, frame_caches(config))
        self._groups: Groups = []

    def init_process_group(self, address: str, rank: int, count: int) -> None:
        init_process_group(address, rank, count, self._learner.policy.device)
        self._learner.join()

    def load_batch(self, groups: Groups) -> Totals:
        self._groups = groups
        return self._learner.load_batch(groups)

    def first_update(self, totals: Totals, assign: AssignAdvantages) -> tuple[dict[str, float], Groups]:
        """Shares of the metrics, and the groups with what was filled in."""
        return self._learner.first_update(totals, assign), self._groups

    def next_update(self, totals: Totals) -> dict[str, float]:
        return self._learner.next_update(totals)

    def optimizer_step(self) -> None:
        self._learner.optimizer_step()

    def fill_logprobs_and_masks(self, groups: Groups) -> Groups:
        self._learner.fill_logprobs_and_masks([trajectory for group in groups for trajectory in group])
        return groups

    def hand_in(self) -> None:
        """Give rank 0 this rank's share of the optimizer's state."""
        self._learner.state()

    def load_state(self, folder: str) -> None:
        self._learner.load_state(load_state(Path(folder)), Path(folder))

    def close(self) -> None:
        self._learner.close()


class DataParallelLearner:
    """`rl.learner.learner.Learner` over `grpo.learner_ranks` processes."""

    def __init__(self, local: LocalLearner, config: RunConfig, policy_dir: Path):
        """`policy_dir` is where the policy of `local` lies, for the others to build theirs from.

        ConfigError when the cluster has no room for them.
        """
        self._local = local
        self._updates = config.grpo.updates
        self._waited = 0.0  # seconds of this step that rank 0 had nothing to do
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
        self._mend = "start again"
        try:
            self._begin(config, str(policy_dir.resolve()), threads)
        except Exception:
            self.close()
            raise
        self._mend = "go on with --resume"

    def _begin(self, config: RunConfig, policy_dir: str, threads: int) -> None:
        patience, count = config.sampler.load_seconds, 1 + len(self._ranks)
        self._collect([rank.load.remote(config, policy_dir, threads) for rank in self._ranks], patience)
        address = free_address()
        calls = [rank.init_process_group.remote(address, at, count) for at, rank in enumerate(self._ranks, start=1)]
        self._together(calls, partial(_init_and_join, self._local, address, count))

    def learn(
        self, groups: Sequence[Sequence[Trajectory]], assign: AssignAdvantages, pause: Pause = lambda: None
    ) -> dict[str, float]:
        """As `LocalLearner.learn`; groups stay whole, so that `judge` sees all siblings.

        `time/rank_wait_s` is what rank 0 waited for the others: how unevenly the groups were shared out.
        """
        self._waited = 0.0
        own, *others = share_groups(groups, 1 + len(self._ranks))
        calls = [rank.load_batch.remote(share) for rank, share in zip(self._ranks, others, strict=True)]
        totals = Totals.over([self._local.load_batch(own), *self._collect(calls)])
        calls = [rank.first_update.remote(totals, assign) for rank in self._ranks]
        sums, answers = self._beside(calls, partial(self._local.first_update, totals, assign, pause))
        for share, (theirs, filled) in zip(others, answers, strict=True):
            add_to(sums, theirs)
            _fill(share, filled)
        metrics = with_shares(sums) | self._optimizer_step()
        for _ in range(1, self._updates):
            calls = [rank.next_update.remote(totals) for rank in self._ranks]
            sums, answers = self._beside(calls, partial(self._local.next_update, totals))
            for theirs in answers:
                add_to(sums, theirs)
            metrics = with_shares(sums) | self._optimizer_step()
        return metrics | {"time/rank_wait_s": self._waited}

    def fill_logprobs_and_masks(self, trajectories: Sequence[Trajectory]) -> None:
        siblings = [list(group) for _, group in groupby(trajectories, key=lambda item: item.task.task_id)]
        own, *others = share_groups(siblings, 1 + len(self._ranks))
        calls = [rank.fill_logprobs_and_masks.remote(share) for rank, share in zip(self._ranks, others, strict=True)]
        _, answers = self._beside(
            calls, partial(self._local.fill_logprobs_and_masks, [item for group in own for item in group])
        )
        for share, filled in zip(others, answers, strict=True):
            _fill(share, filled)

    def weight_update(self) -> WeightUpdate:
        return self._local.weight_update()

    def state(self) -> dict[str, Any]:
        return self._together([rank.hand_in.remote() for rank in self._ranks], self._local.state)

    def load_state(self, state: dict[str, Any], folder: Path) -> None:
        calls = [rank.load_state.remote(str(folder.resolve())) for rank in self._ranks]
        self._local.load_state(state, folder)
        self._collect(calls)

    def close(self) -> None:
        calls = [rank.close.remote() for rank in self._ranks]
        self._local.close()
        ray.wait(calls, num_returns=len(calls), timeout=_GRACE)
        for rank in self._ranks:
            ray.kill(rank)
        self._placement.free()

    def _optimizer_step(self) -> dict[str, float]:
        return self._together([rank.optimizer_step.remote() for rank in self._ranks], self._local.optimizer_step)

    def _beside(self, calls: Sequence[Any], act: Callable[[], T]) -> tuple[T, list[Any]]:
        """What rank 0 makes of its own part, and the answers of the others to theirs."""
        started = time.monotonic()
        result = act()
        done = time.monotonic()
        answers = self._collect(calls, max(SECONDS, PATIENCE * (done - started)))
        self._waited += time.monotonic() - done
        return result, answers

    def _together(self, calls: Sequence[Any], act: Callable[[], T]) -> T:
        """Do what all ranks do at once. In the background, since it would wait for a rank that has failed."""
        future = in_background(act)
        pending = list(calls)
        while pending and not future.done():
            ready, pending = ray.wait(pending, num_returns=1, timeout=1.0)
            for call in ready:
                self._answer(calls, call)
        try:
            result = future.result()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # torch has no class of its own for a group that broke
            self._raise_dead(calls)
            raise RankError(f"the learner's ranks did not come together; {self._mend}: {error}") from error
        self._collect(calls)
        return result

    def _collect(self, calls: Sequence[Any], seconds: float = SECONDS) -> list[Any]:
        """Their answers, in order of ranks. RankError where one does not come in time, or tells of a failure."""
        answers: dict[Any, Any] = {}
        pending, deadline = list(calls), time.monotonic() + seconds
        while pending:
            ready, pending = ray.wait(pending, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                late = ", ".join(str(1 + calls.index(call)) for call in pending)
                raise RankError(f"rank {late} of the learner has not answered for {seconds:.0f} s; {self._mend}")
            answers[ready[0]] = self._answer(calls, ready[0])
        return [answers[call] for call in calls]

    def _answer(self, calls: Sequence[Any], call: Any) -> Any:
        """Of a call that is done. What its user can mend is raised as it is, all else as RankError."""
        try:
            return ray.get(call)
        except RayError as error:
            if isinstance(error, RayTaskError) and isinstance(error.cause, VideoSegError | ConfigError):
                raise error.cause from None
            self._raise_dead(calls)  # of which this failure may be a consequence
            raise RankError(f"rank {1 + calls.index(call)} of the learner failed; {self._mend}: {error}") from error

    def _raise_dead(self, calls: Sequence[Any]) -> None:
        """RankError if a rank has died. Ray may hear of that later than the others."""
        done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=_GRACE)
        for call in done:
            try:
                ray.get(call)
            except RayActorError as error:
                raise RankError(f"rank {1 + calls.index(call)} of the learner died; {self._mend}: {error}") from error
            except RayError:
                continue


def _init_and_join(local: LocalLearner, address: str, count: int) -> None:
    init_process_group(address, 0, count, local.policy.device)
    local.join()


def with_ranks(local: LocalLearner, config: RunConfig, policy_dir: Path) -> Learner:
    """The learner that `grpo.learner_ranks` asks for, with `local` as its rank 0. Wants Ray."""
    return DataParallelLearner(local, config, policy_dir) if config.grpo.learner_ranks > 1 else local


def share_groups(groups: Sequence[Sequence[Trajectory]], count: int) -> list[Groups]:
    """Groups for each of `count` ranks, of about as many tokens; rank 0 has the longest."""
    shares: list[Groups] = [[] for _ in range(count)]
    for group, rank in zip(groups, balance([_num_tokens(group) for group in groups], count), strict=True):
        shares[rank].append(list(group))
    return shares


def _num_tokens(group: Sequence[Trajectory]) -> int:
    """Of text; every observation's frames come on top."""
    turns = [turn for trajectory in group for turn in trajectory.turns]
    return sum(len(turn.observation_ids or ()) + len(turn.action.token_ids) for turn in turns)


def _fill(mine: Groups, theirs: Groups) -> None:
    """Put what another process has filled in into the trajectories of this one."""
    for group, filled in zip(mine, theirs, strict=True):
        for trajectory, other in zip(group, filled, strict=True):
            for field in dataclasses.fields(Trajectory):
                setattr(trajectory, field.name, getattr(other, field.name))
