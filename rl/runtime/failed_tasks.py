"""Failures of an evaluation: which tasks have no answer of the model, why, and what becomes of them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from env.errors import VideoSegError
from env.types import StopReason

Row = Mapping[str, Any]  # of `rl.evaluation.trajectory_metrics.measure`


class FailedTasksError(VideoSegError):
    """More tasks have failed than `eval.max_failed_share` allows."""


def failure_summary(reasons: Mapping[str, str], num_tasks: int, rule: str) -> dict[str, Any]:
    """Describe the tasks that failed, as `results.json` holds it.

    Args:
        reasons: Task id -> why it failed.
        num_tasks: All tasks, those that failed included.
        rule: "exclude" or "empty" (`eval.failed`).

    Returns:
        "rule", "n", "share" (0..1), "reasons" (reason -> number of tasks, the most frequent first) and "tasks" (task id
        -> reason).
    """
    counts = dict(Counter(reasons.values()).most_common())
    share = len(reasons) / max(1, num_tasks)
    return {"rule": rule, "n": len(reasons), "share": share, "reasons": counts, "tasks": dict(reasons)}


def failure_note(failed: Mapping[str, Any] | None, what: str) -> str:
    """Return a sentence on the failures for a table, or "" where nothing failed.

    Args:
        failed: A `failure_summary`; None in results of older versions.
        what: The tasks, such as "tasks".

    Returns:
        How many failed, what became of them, and the most frequent reasons.
    """
    if not failed or not failed["n"]:
        return ""
    rules = {"exclude": "left out of the means", "empty": "counted as empty masks"}
    reasons = "; ".join(f"{reason} ({count})" for reason, count in list(failed["reasons"].items())[:3])
    return f"{failed['n']} {what} failed and are {rules[failed['rule']]}: {reasons}"


def require_answers(results: Mapping[str, Any], max_share: float) -> None:
    """Raise FailedTasksError if a part of the results has too many failures.

    Args:
        results: What `results.json` holds.
        max_share: Largest share of tasks that may fail (`eval.max_failed_share`).
    """
    for part in ("sighted", "blind", "benchmark"):
        failed = results.get(part, {}).get("failed")
        if failed and failed["share"] > max_share:
            reason, count = next(iter(failed["reasons"].items()))
            raise FailedTasksError(
                f"{part}: {failed['n']} tasks failed, a share of {failed['share']:.2g} where eval.max_failed_share "
                f"allows {max_share:g}; {count} of them because of: {reason}; mend it and start the same command again,"
                " which tries them again"
            )


def answered(rows: Sequence[Row]) -> dict[str, Row]:
    """Return task id -> row of the tasks that did not fail."""
    return {row["task_id"]: row for row in rows if row.get("stop") != StopReason.ERROR}
