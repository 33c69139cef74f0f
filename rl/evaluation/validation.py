"""Held-out metrics during GRPO, from its rollout workers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np

from configs.plain_text import plain
from configs.schema import RunConfig
from cot_data.tasks import readable
from env.frames import FrameCaches
from env.types import Task
from policy.videoseg.model import SegPolicy
from policy.videoseg.tracking import with_masks
from rl.evaluation.statistics import slices_of
from rl.evaluation.trajectory_metrics import measure
from rl.rollout.request import RolloutRequest
from rl.rollout.rollout_worker import RolloutPool

logger = logging.getLogger(__name__)
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
        `eval/<metric>/<slice>` -> mean over the tasks that did not fail, and `eval/failed`, the number of the others.
        Reasons are logged.
    """
    good, unreadable = readable(tasks)
    reasons = [task.reason for task in unreadable]
    wanted = [RolloutRequest(task, -1, 0, config.seed, config.eval.temperature) for task in good]
    by_id = {item.trajectory_id: item for item in pool.run(wanted)}
    rows = []
    for trajectory in with_masks(policy, [by_id[item.trajectory_id] for item in wanted], frames, config.eval.malformed):
        if trajectory.has_failed:
            reasons.append(trajectory.error)
        else:
            rows.append(measure(trajectory))
    for reason, count in Counter(reasons).items():
        logger.warning("%d held-out tasks failed and are left out of the means: %s", count, plain(reason))
    metrics = {"eval/failed": float(len(reasons))}
    for name, members in slices_of(rows).items():
        for metric in FOLLOWED:
            known = [rows[at][metric] for at in members if rows[at][metric] is not None]
            if known:
                metrics[f"eval/{metric}/{name.replace(' ', '_')}"] = float(np.mean(known))
    return metrics
