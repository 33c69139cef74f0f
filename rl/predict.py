"""Segment one object in one or more videos: `python -m rl.predict --video V --query Q --checkpoint C --out DIR`.

Writes `masks/<frame>.png` (0/255), `masks.json` (COCO RLE per frame), `overlay.mp4` and the trajectory, which
`python -m env.replay DIR` shows; of several videos, each into `DIR/<name of the video>`. A video is a folder of JPEGs
or PNGs, or a video file. What a former prediction left in a folder is removed. A video that cannot be read or segmented
gets no masks, does not affect the others, and makes the exit status 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

from configs.load import ConfigError, add_config_arguments, check_command_line, config_from_args

if __name__ == "__main__":
    check_command_line()  # a mistake ends the command here, before the imports below load torch

from rich.console import Console

from configs.schema import RunConfig
from env.errors import DataError, command
from env.frames import FrameCache, FrameCaches, Probed, probe_with_notes
from env.rle import is_empty
from env.store import TrajectoryStore
from env.terminal import shown
from env.types import StopReason, Task, Trajectory
from policy.segmenter import Segmenter
from rl.families import as_trained, family_of, require_checkpoint
from rl.report.overlay_video import remove_prediction, write_masks, write_overlay
from rl.runtime.preflight import prepare_machine

CACHE_BYTES = 1 << 26  # each frame is read about twice, and long after the first time the second


def predict(config: RunConfig, video: Path, query: str, checkpoint: Path, out: Path) -> Trajectory:
    """Segment what `query` refers to, greedily, and write masks, overlay and trajectory.

    Args:
        config: Of the run.
        video: Folder of frames, or a video file.
        query: The sentence.
        checkpoint: Folder of a model of any family.
        out: Folder to write to.

    Returns:
        The trajectory with its masks. One that ended as `StopReason.ERROR` has none, and none are written.

    Raises:
        DataError: The video cannot be read.
    """
    (found,) = predict_each(config, {out: video}, query, checkpoint)
    if isinstance(found, DataError):
        raise found
    return found


def predict_each(
    config: RunConfig, videos: Mapping[Path, Path], query: str, checkpoint: Path
) -> Iterator[Trajectory | DataError]:
    """Segment what `query` refers to in each of several videos; the arguments are those of `predict`.

    Args:
        config: Of the run.
        videos: Folder to write to -> video.
        query: The sentence.
        checkpoint: Folder of a model of any family.

    Yields:
        For each video its trajectory, or the error for which it cannot be read.
    """
    require_checkpoint(checkpoint, "--checkpoint")
    family = family_of(checkpoint, config.policy.kind)
    config = as_trained(config, checkpoint)
    probed = {out: _probed(video, out) for out, video in videos.items()}
    if all(isinstance(found, DataError) for found in probed.values()):
        yield from (found for found in probed.values() if isinstance(found, DataError))
        return
    frames = FrameCache(max_bytes=CACHE_BYTES)
    with closing(family.segmenter(config, checkpoint, FrameCaches(frames, frames))) as segmenter:
        for out, found in probed.items():
            if isinstance(found, DataError):
                yield found
                continue
            for note in found.notes:
                _print(f"note: {videos[out]}: {note}", stderr=True)
            task = Task(f"predict/{videos[out].name}/0", found.video, query, gold=())
            try:
                yield _segment(segmenter, task, config.seed, out)
            except DataError as error:
                yield error


def _probed(video: Path, out: Path) -> Probed | DataError:
    """Return the video, or the error for which it cannot be read; then nothing of a former prediction stays."""
    try:
        return probe_with_notes(video)
    except DataError as error:
        remove_prediction(out)
        return error


def _segment(segmenter: Segmenter, task: Task, seed: int, out: Path) -> Trajectory:
    """Segment one video and write the prediction; no masks if it failed. DataError if a frame cannot be read."""
    remove_prediction(out)
    (trajectory,) = segmenter.segment([task], 0.0, seed)
    out.mkdir(parents=True, exist_ok=True)
    if trajectory.stop_reason is not StopReason.ERROR:
        write_overlay(trajectory, segmenter.frames.sam, out / "overlay.mp4")
        write_masks(trajectory, out)
    TrajectoryStore(out / "trajectories").append([trajectory])
    return trajectory


def summary_line(trajectory: Trajectory) -> str:
    """Return in one line how the episode ended."""
    if trajectory.stop_reason is StopReason.SINGLE_PASS:
        return "segmented in a single pass"
    if trajectory.stop_reason is StopReason.ERROR:
        return f"error: {trajectory.error}"
    return f"{trajectory.stop_reason} after {len(trajectory.turns)} turns: {trajectory.decision}"


def _report(video: Path, out: Path, found: Trajectory | DataError) -> bool:
    """Print how a prediction ended; return whether there is one."""
    if isinstance(found, DataError):
        _print(f"error: {found}")
        return False
    _print(summary_line(found))
    if found.stop_reason is StopReason.ERROR:
        _print(f"no masks are written for {video}")
        return False
    num_masks = sum(not is_empty(mask) for mask in found.masks.values())
    _print(f"mask on {num_masks} of {found.task.video.num_frames} frames; see {out}")
    return True


def _print(text: str, stderr: bool = False) -> None:
    """Print one line, without markup and whatever else a terminal would act on."""
    Console(stderr=stderr).print(shown(text), soft_wrap=True)


@command
def main() -> None:
    parser = argparse.ArgumentParser(description="Segment the object that a sentence refers to in a video.")
    add_config_arguments(parser)
    parser.add_argument(
        "--video", type=Path, required=True, nargs="+", help="folder of frames, or a video file; or several of them"
    )
    parser.add_argument("--query", required=True, help="the sentence")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of a model, with its policy.json")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    args = parser.parse_args()
    if len({video.name for video in args.video}) < len(args.video):
        raise ConfigError("--video: two videos have one name, which their folders below --out take; predict them apart")
    several = len(args.video) > 1
    videos = {args.out / video.name if several else args.out: video for video in args.video}
    config = config_from_args(args)
    with prepare_machine(args.out):
        predictions = predict_each(config, videos, args.query, args.checkpoint)
        are_there = [_report(video, out, it) for (out, video), it in zip(videos.items(), predictions, strict=True)]
    if not all(are_there):
        sys.exit(1)


if __name__ == "__main__":
    main()
