"""What the rollout workers did in a step, as numbers for the journal and as gauges for Ray's dashboard."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Gauge

from rl.failures import Failure
from rl.worker import Tally


def worker_metrics(tallies: Mapping[int, Tally], failures: Mapping[Failure, int]) -> dict[str, float]:
    """What each worker did, how much of all prompts the prefix cache spared, and failures of the run so far."""
    metrics = {f"rollout/failures_{kind}": float(failures.get(kind, 0)) for kind in Failure}
    prompts = sum(tally.prompt_tokens for tally in tallies.values())
    metrics["rollout/cached_tokens/share"] = sum(tally.cached_tokens for tally in tallies.values()) / max(1, prompts)
    for worker, tally in sorted(tallies.items()):
        metrics |= {f"worker_{worker}/{name}": value for name, value in _figures(tally).items()}
    return metrics


class WorkerGauges:
    """The same figures in Ray's own metrics, `ray_videoseg_worker_*` with the worker's number as tag.

    Ray exports them to Prometheus, which its dashboard reads (docs.ray.io, "Collecting and monitoring metrics").
    """

    def __init__(self) -> None:
        self._gauges = {
            name: Gauge(f"videoseg_worker_{name.replace('/', '_')}", "rollout worker, last step", tag_keys=("worker",))
            for name in _figures(Tally())
        }

    def show(self, tallies: Mapping[int, Tally]) -> None:
        for worker, tally in tallies.items():
            for name, value in _figures(tally).items():
                self._gauges[name].set(value, tags={"worker": str(worker)})


def _figures(tally: Tally) -> dict[str, float]:
    """Tokens per second are of the time that the worker spent on the work, not of the step."""
    return {
        "turns": float(tally.turns),
        "tokens_per_s": tally.written_tokens / max(1e-9, tally.seconds),
        "cached_tokens/share": tally.cached_tokens / max(1, tally.prompt_tokens),
        "queue/max": float(tally.most_live),
        "restarts": float(tally.restarts),
    }
