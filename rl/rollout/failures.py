"""Classify what can go wrong in a rollout. (`rl.learner.data_parallel` handles a rank of the learner that is lost.)

    the model's mistake   malformed, too long, out of turns: a stop reason of its trajectory, scored like any other
    DATA                  a video or record that cannot be read, an episode that takes too long: its trajectory ends as
                          an error with the reason, is counted, and is kept out of the loss; its siblings go on
    DIED                  a worker's process is gone (killed, out of memory, its node lost)
    ENGINE                an engine raised: its state is unknown, so its worker is replaced; or weights did not reach it
                          within `sampler.transfer_seconds`
    STUCK                 a worker has been silent for longer than `sampler.stall_seconds`: it is killed and replaced
    LATE                  a step took longer than `grpo.max_rollout_seconds`: what is unfinished ends as errors
    OURS                  an error of this program or of its user (a checkpoint that does not fit, a wrong setting):
                          nothing that a second try could mend, so the run ends with it

What a worker owed when it DIED, raised (ENGINE) or got STUCK is played again by others, at most `grpo.max_attempts`
times, the last time alone (`rl.rollout.dispatcher`). A group is trained on if at least `grpo.min_group` of its members
are valid. A full disk ends the run, with DataError where trajectories are stored (`env.store`); what was stored before
stays, and `--resume` goes on from it.
"""

from __future__ import annotations

from enum import StrEnum

from ray.exceptions import RayActorError, RayTaskError

from configs.load import ConfigError
from env.errors import VideoSegError
from env.types import StopReason, Trajectory
from rl.rollout.request import RolloutRequest


class Failure(StrEnum):
    """A kind of failure of a worker, as metrics name it."""

    DIED = "died"
    ENGINE = "engine"
    STUCK = "stuck"


class WorkerStuckError(Exception):
    """A worker that did not answer in time."""


def failure_of(error: Exception) -> Failure:
    """The kind of an error that came instead of a worker's reply. What is OURS is raised."""
    if isinstance(error, WorkerStuckError):
        return Failure.STUCK
    if isinstance(error, RayTaskError) and not isinstance(error, RayActorError):
        if isinstance(error.cause, VideoSegError | ConfigError):
            raise error.cause
        return Failure.ENGINE
    return Failure.DIED


def failed(assignment: RolloutRequest, reason: str) -> Trajectory:
    """The trajectory of an episode that was given up."""
    task, step, sibling = assignment.task, assignment.step, assignment.sibling
    return Trajectory(assignment.trajectory_id, task, step, sibling, stop_reason=StopReason.ERROR, error=reason)
