"""Segment one object in one video: `python -m rl.predict --video V --query Q --checkpoint C --out DIR`.

Writes `masks/<frame>.png` (0/255), `masks.json` (COCO RLE per frame), `overlay.mp4` and the trajectory, which
`python -m env.replay DIR` shows. The video is a folder of JPEGs or PNGs, or a video file.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from configs.load import add_config_arguments, check_command_line, config_from_args

if __name__ == "__main__":
    check_command_line()  # a mistake ends the command here, before the imports below load torch

from rich.console import Console

from configs.schema import RunConfig
from env.errors import command
from env.frames import FrameCache, FrameCaches, probe
from env.rle import is_empty
from env.store import TrajectoryStore
from env.terminal import shown
from env.types import StopReason, Task, Trajectory
from rl.families import family_of, require_checkpoint
from rl.report.overlay_video import write_masks, write_overlay


def predict(config: RunConfig, video: Path, query: str, checkpoint: Path, out: Path) -> Trajectory:
    """Segment what `query` refers to, greedily, and write masks, overlay and trajectory.

    Args:
        config: Of the run.
        video: Folder of frames, or a video file.
        query: The sentence.
        checkpoint: Folder of a model of any family.
        out: Folder to write to.

    Returns:
        The trajectory with its masks.

    Raises:
        DataError: The video cannot be read.
    """
    require_checkpoint(checkpoint, "--checkpoint")
    family = family_of(checkpoint, config.policy.kind)
    task = Task(f"predict/{video.name}/0", probe(video), query, gold=())
    frames = FrameCache()
    with closing(family.segmenter(config, checkpoint, FrameCaches(frames, frames))) as segmenter:
        (trajectory,) = segmenter.segment([task], 0.0, config.seed)
    out.mkdir(parents=True, exist_ok=True)
    store = TrajectoryStore(out / "trajectories")
    store.drop_from(-1)
    store.append([trajectory])
    write_masks(trajectory, out)
    write_overlay(trajectory, frames, out / "overlay.mp4")
    return trajectory


def summary_line(trajectory: Trajectory) -> str:
    """Return in one line how the episode ended."""
    if trajectory.stop_reason is StopReason.SINGLE_PASS:
        return "segmented in a single pass"
    if trajectory.stop_reason is StopReason.ERROR:
        return f"error: {trajectory.error}"
    return f"{trajectory.stop_reason} after {len(trajectory.turns)} turns: {trajectory.decision}"


@command
def main() -> None:
    parser = argparse.ArgumentParser(description="Segment the object that a sentence refers to in a video.")
    add_config_arguments(parser)
    parser.add_argument("--video", type=Path, required=True, help="folder of frames, or a video file")
    parser.add_argument("--query", required=True, help="the sentence")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of a model, with its policy.json")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    args = parser.parse_args()
    trajectory = predict(config_from_args(args), args.video, args.query, args.checkpoint, args.out)
    console = Console()
    console.print(shown(summary_line(trajectory)))
    num_masks = sum(not is_empty(mask) for mask in trajectory.masks.values())
    console.print(shown(f"mask on {num_masks} of {trajectory.task.video.num_frames} frames; see {args.out}"))


if __name__ == "__main__":
    main()
