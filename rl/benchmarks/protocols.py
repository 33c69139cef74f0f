"""The protocols of the eight benchmarks: which frames count, what is averaged and rounded how. Pure.

To add one: an entry of `BENCHMARKS`. Everywhere a missing prediction is an empty one, which scores on frames without
the target; some of the released evaluators give such an expression 0, others leave it out or fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Row = Mapping[str, Any]  # of one expression: "subset", "has_target", "is_empty", "is_missing" and its figures
Figures = dict[str, float | None]


@dataclass(frozen=True)
class BenchmarkProtocol:
    """How the rows of a benchmark's expressions become its figures."""

    about: str  # which code it follows, and where it differs
    figures: tuple[str, ...] = ("j", "f")  # of one expression; keys of `rl.benchmarks.expression_scores.FIGURES`
    frames: Callable[[int], Sequence[int]] = range  # of a video of so many frames, those that count
    percent_digits: int | None = None  # to which each expression's percentages are rounded before they are averaged
    overall: tuple[str, ...] = ()  # subsets whose means are averaged, each alike; () averages all expressions
    by_annotator: bool = False  # whether `rl.benchmarks.ref_davis17` gives a second figure
    zip_folder: str = ""  # where the video folders lie in the archive for the server that knows the gold masks


def twenty_frames(num_frames: int) -> list[int]:
    """Twenty evenly spaced frames, both ends among them, cut to whole numbers; a short video's are repeated."""
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
        "Masks are binary: where two overlap, their scores tie, and the object of the lower number has the pixel.",
        by_annotator=True,
    ),
    "revos": BenchmarkProtocol(
        "ReVOS, eval_revos.py: percentages of an expression rounded to 2 decimals; overall is the mean of referring "
        "and reasoning, hallucination stands apart. A and R count in 8 bits there; here overlapping annotations are "
        "one mask.",
        figures=("j", "f", "a", "r"),
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
        figures=("j", "f", "tiou", "viou"),
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
    """Group ("overall", then each subset) -> "n" and figures 0..1; with what is missing, N-acc and T-acc.

    Overall is None where one of the subsets that it is made of has no expression.
    """
    subsets = sorted({row["subset"] for row in rows} - {""})
    groups = {name: _means(protocol, [row for row in rows if row["subset"] == name]) for name in subsets}
    if protocol.overall:
        parts = [groups.get(name, {}) for name in protocol.overall]
        count = sum(row["subset"] in protocol.overall for row in rows)
        overall = {"n": count, **{name: _mean([part.get(name) for part in parts]) for name in protocol.figures}}
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
    def value(row: Row, figure: str) -> float:
        digits = protocol.percent_digits
        return row[figure] if digits is None else round(100 * row[figure], digits) / 100

    return {"n": len(rows), **{name: _mean([value(row, name) for row in rows]) for name in protocol.figures}}


def _mean(values: Sequence[float | None]) -> float | None:
    """None where there is no value, or one of them is None."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
