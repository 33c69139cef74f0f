"""Groups of recorded trajectories for tests of the learner, which need no sampler."""

from __future__ import annotations

import numpy as np

from configs.schema import RunConfig
from cot_data.traces.dialogue import to_trajectory
from cot_data.traces.write import write_trace
from env.types import Action, Task, Trajectory
from policy.vlm.chat_tokens import ChatTokens
from tests.helpers.rl_parts import with_a_look


def recorded_group(task: Task, number: int, config: RunConfig, chat: ChatTokens) -> list[Trajectory]:
    """Build `3 + number` siblings of one to three turns, as if they had been sampled with log-prob -1 everywhere."""
    records = [write_trace(task, config.env, np.random.default_rng(at), "brief") for at in range(3 + number)]
    records[0] = with_a_look(records[0], task)
    group = [to_trajectory(record, task, config.env) for record in records]
    for at, trajectory in enumerate(group):
        trajectory.trajectory_id = f"{task.task_id}/{at}"
        for turn in trajectory.turns:
            ids = tuple(chat.action_ids(turn.action.text))
            turn.action = Action(turn.action.text, ids, (-1.0,) * len(ids), weights_version=0)
    return group
