"""Held-out metrics during GRPO, from its rollout workers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from configs.schema import RunConfig
from env.frames import FrameCaches
from env.types import StopReason, Task
from policy.videoseg.model import SegPolicy
from policy.videoseg.tracking import with_masks
from rl.evaluation.statistics import slices_of
from rl.evaluation.trajectory_metrics import measure
from rl.rollout.request import RolloutRequest
from rl.rollout.rollout_worker import RolloutPool

FOLLOWED = ("jf", "j_visible", "format", "turns")


def held_out_metrics(
    pool: RolloutPool,
    policy: SegPolicy,
    tasks: Sequence[Task],
    config: RunConfig,
    frames: FrameCaches,
) -> dict[str, float]:
    """Segment `tasks` with the weights that were published last, and average their metrics.

    Args:
        pool: Rollout workers, idle.
        policy: The same weights, which track the masks.
        tasks: Held-out ones, with gold masks.
        config: Of the run.
        frames: Where pixels are read.

    Returns:
        `eval/<metric>/<slice>` -> mean. Episodes that ended in an error are left out.
    """
    wanted = [RolloutRequest(task, -1, 0, config.seed, config.eval.temperature) for task in tasks]
    by_id = {item.trajectory_id: item for item in pool.run(wanted)}
    finished = [by_id[item.trajectory_id] for item in wanted]
    valid = [trajectory for trajectory in finished if trajectory.stop_reason is not StopReason.ERROR]
    rows = [measure(trajectory) for trajectory in with_masks(policy, valid, frames, config.eval.malformed)]
    metrics = {}
    for name, members in slices_of(rows).items():
        for metric in FOLLOWED:
            known = [rows[at][metric] for at in members if rows[at][metric] is not None]
            if known:
                metrics[f"eval/{metric}/{name.replace(' ', '_')}"] = float(np.mean(known))
    return metrics
