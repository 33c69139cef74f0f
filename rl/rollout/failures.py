"""The failures of a rollout, and what follows from each. (`rl.learner.data_parallel` handles a lost learner rank.)

    the model's mistake   malformed, too long, out of turns: a stop reason of the trajectory, scored like any other
    DATA                  a frame or mask cannot be read, in the rollout or in the learner, or an episode takes too
                          long: the trajectory ends in an error with the reason, is counted, and is left out of the
                          loss; its siblings continue. A task whose record cannot be read is passed over
    NUMBERS               the engine's or the learner's log-probs are not finite: likewise; a loss or a gradient that is
                          not finite skips the optimizer step (`rl.runtime.skipped_updates`)
    DIED                  a worker's process is gone (killed, out of memory, node lost)
    ENGINE                an engine raised, so its state is unknown and its worker is replaced; or the weights did not
                          arrive within `sampler.transfer_seconds`
    STUCK                 a worker has been silent for longer than `sampler.stall_seconds`: it is killed and replaced
    LATE                  a rollout took longer than `grpo.max_rollout_seconds`: unfinished episodes end in an error
    OURS                  an error of this program or of its user (a checkpoint that does not fit, a wrong setting):
                          a second try would fail too, so the run ends

The episodes that a worker had in flight when it DIED, raised (ENGINE) or got STUCK are run again, at most
`grpo.max_attempts` times in all, the last time alone (`rl.rollout.dispatcher`). A group is trained on if at least
`grpo.min_group` of its trajectories are valid. A run ends with one sentence when more than `grpo.max_failed_share` of a
step has failed, or when the disk is full; what was stored before stays, and `--resume` continues from it and tries
again what failed.
"""

from __future__ import annotations

from enum import StrEnum

from ray.exceptions import RayActorError, RayTaskError

from configs.load import ConfigError
from env.errors import VideoSegError
from env.types import StopReason, Trajectory
from rl.rollout.request import RolloutRequest


class Failure(StrEnum):
    """A kind of worker failure, as metrics name it."""

    DIED = "died"
    ENGINE = "engine"
    STUCK = "stuck"


class WorkerStuckError(Exception):
    """The silence of a worker for longer than its limit."""


def failure_of(error: Exception) -> Failure:
    """Return the kind of an error that came in place of a worker's answer; errors of the kind OURS are raised."""
    if isinstance(error, WorkerStuckError):
        return Failure.STUCK
    if isinstance(error, RayTaskError) and not isinstance(error, RayActorError):
        if isinstance(error.cause, VideoSegError | ConfigError):
            raise error.cause
        return Failure.ENGINE
    return Failure.DIED


def failed(request: RolloutRequest, reason: str) -> Trajectory:
    """Return the trajectory of an episode that is not tried again: it ended in an error, for this reason."""
    task, step, sibling = request.task, request.step, request.sibling
    return Trajectory(request.trajectory_id, task, step, sibling, stop_reason=StopReason.ERROR, error=reason)
