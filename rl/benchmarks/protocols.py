"""The protocols of the eight benchmarks: which frames count, and how scores are averaged and rounded. Pure.

To add a benchmark, add an entry to `BENCHMARKS`. A missing prediction counts as an empty one, which scores on frames
without the target. Some of the released evaluators give such an expression 0, others leave it out or fail. Where the
model failed, the expression counts as empty too, since a server takes no gaps; it is told apart from a missing one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Row = Mapping[str, Any]  # of one expression: "subset", "has_target", "is_empty", "is_missing" and its metrics


@dataclass(frozen=True)
class BenchmarkProtocol:
    """How the rows of a benchmark's expressions become its results."""

    about: str  # which code it follows, and where it differs
    metrics: tuple[str, ...] = ("j", "f")  # of one expression; keys of `rl.benchmarks.expression_scores.METRICS`
    frames: Callable[[int], Sequence[int]] = range  # number of frames of a video -> the frames that count
    percent_digits: int | None = None  # decimals to which percentages of an expression are rounded before averaging
    overall: tuple[str, ...] = ()  # subsets whose means are averaged with equal weight; () averages all expressions
    by_annotator: bool = False  # whether `rl.benchmarks.ref_davis17` computes a second result
    zip_folder: str = ""  # folder of the video folders in the archive for the evaluation server


def twenty_frames(num_frames: int) -> list[int]:
    """Return twenty evenly spaced frames with both ends, rounded down; frames of a short video are repeated."""
    return np.linspace(0, num_frames - 1, 20, dtype=int).tolist()


BENCHMARKS: dict[str, BenchmarkProtocol] = {
    "mevis": BenchmarkProtocol(
        "MeViS, eval_mevis.py: mean over all frames, then over expressions. There a missing video scores 0. N-acc and "
        "T-acc are those of MeViS v2."
    ),
    "ref_youtube_vos": BenchmarkProtocol(
        "Ref-YouTube-VOS: mean over all frames, then over expressions. Its server scores the valid split.",
        zip_folder="Annotations",
    ),
    "ref_davis17": BenchmarkProtocol(
        "Ref-DAVIS17 per expression (P2, as VISA and VideoSEG-O3): mean over all frames, then over expressions. P1 is "
        "the official protocol: an annotator's objects in one map, matched as in unsupervised DAVIS, mean of the four. "
        "Masks are binary: where two overlap, their scores tie, and the object with the lower number gets the pixel.",
        by_annotator=True,
    ),
    "revos": BenchmarkProtocol(
        "ReVOS, eval_revos.py: percentages of an expression rounded to 2 decimals; overall is the mean of referring "
        "and reasoning, hallucination stands apart. A and R count in 8 bits there; here overlapping annotations are "
        "one mask.",
        metrics=("j", "f", "a", "r"),
        percent_digits=2,
        overall=("referring", "reasoning"),
    ),
    "reason_vos": BenchmarkProtocol(
        "ReasonVOS, eval_reason_vos.py: mean over all frames, then over expressions. There a missing prediction is "
        "left out."
    ),
    "long_rvos": BenchmarkProtocol(
        "Long-RVOS, eval_static/dynamic/hybrid.py and eval_overall.py: overall is the mean over all expressions. "
        "There a missing video scores 0; VideoSEG-O3 leaves missing ones and video 71fb69bbcd out.",
        metrics=("j", "f", "tiou", "viou"),
    ),
    "ref_sav": BenchmarkProtocol(
        "Ref-SAV, eval_ref_sav.py: percentages of an expression rounded to 2 decimals; overall is the mean of long "
        "and short.",
        percent_digits=2,
        overall=("long", "short"),
    ),
    "groundmore": BenchmarkProtocol(
        "GroundMoRe, evaluate_groundmore.py: 20 evenly spaced frames, gold empty outside of the action, mean over "
        "questions. Frames are sorted, which there they are not.",
        frames=twenty_frames,
    ),
}


def summarise(protocol: BenchmarkProtocol, rows: Sequence[Row]) -> dict[str, Any]:
    """Average the rows of a benchmark.

    Args:
        protocol: Of the benchmark.
        rows: One per expression (`rl.benchmarks.expression_scores`).

    Returns:
        "groups": "overall", then each subset -> "n" and metrics 0..1, None where a subset of "overall" has no
        expression; "n_acc" and "t_acc"; "num_missing" and "num_missing_frames".
    """
    subsets = sorted({row["subset"] for row in rows} - {""})
    groups = {name: _means(protocol, [row for row in rows if row["subset"] == name]) for name in subsets}
    if protocol.overall:
        parts = [groups.get(name, {}) for name in protocol.overall]
        count = sum(row["subset"] in protocol.overall for row in rows)
        overall = {"n": count, **{name: _mean([part.get(name) for part in parts]) for name in protocol.metrics}}
    else:
        overall = _means(protocol, rows)
    groups = {"overall": overall, **groups}
    for group in groups.values():
        group["jf"] = _mean([group["j"], group["f"]])
    without = [float(row["is_empty"]) for row in rows if not row["has_target"]]
    return {
        "groups": groups,
        "n_acc": _mean(without),
        "t_acc": _mean([float(not row["is_empty"]) for row in rows if row["has_target"]]),
        "num_missing": sum(row["is_missing"] for row in rows),
        "num_missing_frames": sum(row["num_missing_frames"] for row in rows),
    }


def _means(protocol: BenchmarkProtocol, rows: Sequence[Row]) -> dict[str, Any]:
    def value(row: Row, metric: str) -> float:
        digits = protocol.percent_digits
        return row[metric] if digits is None else round(100 * row[metric], digits) / 100

    return {"n": len(rows), **{name: _mean([value(row, name) for row in rows]) for name in protocol.metrics}}


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean; None where there is no value, or one of them is None."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
