"""Metrics of a step's rollout: scored trajectories, and the work of the rollout workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ray.util.metrics import Gauge

from env.tools import num_uses
from env.tools.base import Tool
from env.types import Select, StopReason, Trajectory
from rl.rollout.episode_worker import WorkerStats
from rl.rollout.failures import Failure


def trajectory_metrics(groups: Sequence[Sequence[Trajectory]], tools: Mapping[str, Tool]) -> dict[str, float]:
    """Return means over scored groups: rewards, their spread, stop reasons, turns, tool use, sampler mismatch.

    A mean over nothing is absent.

    `rollout/tool_<name>/share` is the share of trajectories that were shown frames by each of `tools`.
    """
    flat = [trajectory for group in groups for trajectory in group]
    if not flat:
        return {}
    metrics = _rewards(flat) | _stops(flat)
    totals = [[t.scores.total for t in group if t.scores] for group in groups]
    spreads = [float(np.std(values, ddof=1)) for values in totals if len(values) > 1]
    if spreads:
        metrics["reward/group_std/mean"] = float(np.mean(spreads))
        metrics["reward/dead_groups/share"] = float(np.mean([spread < 1e-6 for spread in spreads]))
    metrics["rollout/turns/mean"] = float(np.mean([len(t.turns) for t in flat]))
    metrics["rollout/tool_use/share"] = _share_with_tools(flat)
    for name, tool in tools.items():
        metrics[f"rollout/tool_{name}/share"] = float(np.mean([num_uses(t, tool) > 0 for t in flat]))
    for label in sorted({t.task.explore or "plain" for t in flat}):
        labelled = [t for t in flat if (t.task.explore or "plain") == label]
        metrics[f"rollout/tool_use_{label}/share"] = _share_with_tools(labelled)
        metrics[f"rollout/turns_{label}/mean"] = float(np.mean([len(t.turns) for t in labelled]))
    turns = [turn for t in flat for turn in t.turns]  # none if no first observation fits the context
    if turns:
        metrics["rollout/action_tokens/mean"] = float(np.mean([len(turn.action.token_ids) for turn in turns]))
        metrics["calibration/missing_masks/share"] = float(np.mean([turn.mask_logprob is None for turn in turns]))
    differences = [
        abs(old - sampled)
        for t in flat
        for turn in t.turns
        for old, sampled in zip(turn.old_logprobs, turn.action.logprobs, strict=True)
    ]
    metrics["rollout/mismatch/max"] = max(differences, default=0.0)
    ages = [t.step - turn.action.weights_version for t in flat for turn in t.turns]
    metrics["rollout/staleness/max"] = float(max(ages, default=0))
    return metrics


def _rewards(flat: Sequence[Trajectory]) -> dict[str, float]:
    scores = [t.scores for t in flat if t.scores is not None]
    if not scores:
        return {}
    metrics = {"reward/total/mean": float(np.mean([s.total for s in scores]))}
    for name in scores[0].breakdown:
        values = [value for s in scores if (value := s.breakdown[name]) is not None]
        if values:
            metrics[f"reward/{name}/mean"] = float(np.mean(values))
    return metrics


def _stops(flat: Sequence[Trajectory]) -> dict[str, float]:
    return {f"stop/{reason}/share": float(np.mean([t.stop_reason is reason for t in flat])) for reason in StopReason}


def _share_with_tools(flat: Sequence[Trajectory]) -> float:
    return float(np.mean([any(isinstance(turn.decision, Select) for turn in t.turns) for t in flat]))


def worker_metrics(stats: Mapping[int, WorkerStats], failures: Mapping[Failure, int]) -> dict[str, float]:
    """Return each worker's metrics, the cached share of all prompt tokens, and the failures of the run so far."""
    metrics = {f"rollout/failures_{kind}": float(failures.get(kind, 0)) for kind in Failure}
    prompts = sum(each.prompt_tokens for each in stats.values())
    metrics["rollout/cached_tokens/share"] = sum(each.cached_tokens for each in stats.values()) / max(1, prompts)
    for worker, worker_stats in sorted(stats.items()):
        metrics |= {f"worker_{worker}/{name}": value for name, value in _metrics_of(worker_stats).items()}
    return metrics


class WorkerGauges:
    """Gauges `ray_videoseg_worker_*` of Ray, with the same metrics and the worker's number as tag.

    Ray exports them to Prometheus, which its dashboard reads (docs.ray.io, "Collecting and monitoring metrics").
    """

    def __init__(self) -> None:
        self._gauges = {
            name: Gauge(f"videoseg_worker_{name.replace('/', '_')}", "rollout worker, last step", tag_keys=("worker",))
            for name in _metrics_of(WorkerStats())
        }

    def show(self, stats: Mapping[int, WorkerStats]) -> None:
        """Set the gauges to the stats of the last step, by worker."""
        for worker, worker_stats in stats.items():
            for name, value in _metrics_of(worker_stats).items():
                self._gauges[name].set(value, tags={"worker": str(worker)})


def _metrics_of(worker_stats: WorkerStats) -> dict[str, float]:
    """Return one worker's metrics by name; tokens per second are of its time in calls, not of the step's time."""
    return {
        "turns": float(worker_stats.turns),
        "tokens_per_s": worker_stats.written_tokens / max(1e-9, worker_stats.seconds),
        "cached_tokens/share": worker_stats.cached_tokens / max(1, worker_stats.prompt_tokens),
        "queue/max": float(worker_stats.most_live),
        "restarts": float(worker_stats.restarts),
    }
