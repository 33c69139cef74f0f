"""A strip of frames before and after GRPO: all but the predicted mask dimmed, gold outlined.

    python -m tests.bench.arms_strip BEFORE AFTER --out strip.png

BEFORE and AFTER are folders of `rl.evaluate` over the same tasks. For each kind of task where exploring pays, it shows
the first task where one of the two policies zoomed and the other did not; none is chosen by its score.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from env.frames import FrameCache, sample_indices
from env.rle import mask_or_empty
from env.store import TrajectoryStore
from env.types import Interval, Select, Trajectory

NUM_FRAMES = 7
DIMMED = 0.4  # brightness outside the predicted mask; a tint could be mistaken for the colour of a shape
GOLD = (1.0, 0.2, 0.8)


def zooms(trajectory: Trajectory) -> bool:
    """Return whether a turn of the trajectory asks for a closer view."""
    return any(isinstance(turn.decision, Select) for turn in trajectory.turns)


def pick(before: dict[str, Trajectory], after: dict[str, Trajectory]) -> list[str]:
    """Return the ids of the tasks to show, at most one of each kind."""
    found: dict[str, str] = {}
    for task_id, trajectory in before.items():
        kind = trajectory.task.explore
        if kind and kind not in found and zooms(trajectory) != zooms(after[task_id]):
            found[kind] = task_id
    return list(found.values())


def actions_text(trajectory: Trajectory) -> str:
    """Describe the actions of the policy in words."""
    wanted = [turn.decision for turn in trajectory.turns if isinstance(turn.decision, Select)]
    shown = [f"zooms to {each.interval.start} to {each.interval.end - 1}, frame {each.key_frame}" for each in wanted]
    return ", then\n".join([*shown, "answers"])


def draw_row(axes: np.ndarray, trajectory: Trajectory, label: str, cache: FrameCache) -> None:
    """Draw frames of a trajectory with its masks.

    Args:
        axes: one axis per frame.
        trajectory: the trajectory.
        label: text to the left of the row.
        cache: reads the frames.
    """
    task = trajectory.task
    size = (task.video.height, task.video.width)
    for axis, frame_idx in zip(axes, sample_indices(Interval(0, task.video.num_frames), NUM_FRAMES), strict=True):
        pixels_HWC = cache.full(task.video, frame_idx) / 255
        mask_HW = mask_or_empty(trajectory.masks.get(frame_idx), *size)
        pixels_HWC[~mask_HW] *= DIMMED
        axis.imshow(pixels_HWC)
        gold_HW = mask_or_empty(task.gold[frame_idx], *size)
        if gold_HW.any():
            axis.contour(gold_HW, levels=[0.5], colors=[GOLD], linewidths=1.2)
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"frame {frame_idx}", fontsize=6, pad=2)
    axes[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=7, labelpad=6)


def read_evaluation(folder: Path) -> tuple[dict[str, Trajectory], dict[str, float]]:
    """Return the trajectory and the J&F of every task of an evaluation, by task id."""
    trajectories = {item.task.task_id: item for item in TrajectoryStore(folder / "trajectories").read()}
    rows = json.loads((folder / "results.json").read_text())["sighted"]["rows"]
    return trajectories, {row["task_id"]: row["jf"] for row in rows}


def strip(before: Path, after: Path, path: Path) -> None:
    """Write the figure: two rows per task, `before` above `after`.

    Args:
        before: folder of the evaluation of the cold start.
        after: folder of the evaluation after GRPO.
        path: PNG to write.
    """
    evaluations = {"cold start": read_evaluation(before), "GRPO": read_evaluation(after)}
    task_ids = pick(evaluations["cold start"][0], evaluations["GRPO"][0])
    if not task_ids:
        raise SystemExit(f"{before}, {after}: both zoom in the same tasks where exploring pays; nothing to show")
    figure = plt.figure(figsize=(9, 2.9 * len(task_ids)), layout="constrained")
    cache = FrameCache()
    for part, task_id in zip(figure.subfigures(len(task_ids), squeeze=False)[:, 0], task_ids, strict=True):
        for axes, (name, (trajectories, jf)) in zip(part.subplots(2, NUM_FRAMES), evaluations.items(), strict=True):
            trajectory = trajectories[task_id]
            part.suptitle(f"“{trajectory.task.expression}”", fontsize=9)
            draw_row(axes, trajectory, f"{name}\n{actions_text(trajectory)}\nJ&F {100 * jf[task_id]:.0f}", cache)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    strip(args.before, args.after, args.out)


if __name__ == "__main__":
    main()
