"""What the rollout workers did in a step, as numbers. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from rl.failures import Failure
from rl.worker import Tally


def worker_metrics(tallies: Mapping[int, Tally], failures: Mapping[Failure, int]) -> dict[str, float]:
    """Per worker what it did, over all how much of the prompts the prefix cache spared, and failures of the run so far.

    Tokens per second are of the time that the worker spent on the work, not of the step.
    """
    metrics = {f"rollout/failures_{kind}": float(failures.get(kind, 0)) for kind in Failure}
    prompts = sum(tally.prompt_tokens for tally in tallies.values())
    metrics["rollout/cached_tokens/share"] = sum(tally.cached_tokens for tally in tallies.values()) / max(1, prompts)
    for worker, tally in sorted(tallies.items()):
        metrics |= {
            f"worker_{worker}/turns": float(tally.turns),
            f"worker_{worker}/tokens_per_s": tally.written_tokens / max(1e-9, tally.seconds),
            f"worker_{worker}/cached_tokens/share": tally.cached_tokens / max(1, tally.prompt_tokens),
            f"worker_{worker}/queue/max": float(tally.most_live),
            f"worker_{worker}/restarts": float(tally.restarts),
        }
    return metrics
