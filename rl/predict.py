"""Segment one object in one video: `python -m rl.predict --video V --query Q --checkpoint C --out DIR`.

Writes `masks/<frame>.png` (0/255), `masks.json` (COCO RLE per frame), `overlay.mp4` and the trajectory, which
`python -m env.replay DIR` shows. The video is a folder of JPEGs or PNGs, or a video file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from configs.load import add_config_arguments, check_command_line, config_from_args

if __name__ == "__main__":
    check_command_line()  # a mistake ends the command here, before the imports below load torch

from rich.console import Console

from configs.schema import PolicyConfig, RunConfig
from env.errors import command
from env.frames import FrameCache, FrameCaches, probe
from env.rle import is_empty
from env.store import TrajectoryStore
from env.types import Task, Trajectory
from policy.engines import build_sampler
from policy.engines.env import set_engine_env
from policy.videoseg.checkpoint import load_policy
from rl.report.overlay_video import write_masks, write_overlay
from rl.rollout.segmenter import Segmenter


def predict(config: RunConfig, video: Path, query: str, checkpoint: Path, out: Path) -> Trajectory:
    """Play one greedy episode, propagate its mask and write everything to `out`."""
    ref = probe(video)
    task = Task(f"predict/{video.name}/0", ref, query, gold=())
    policy = load_policy(checkpoint, PolicyConfig(sam=config.policy.sam, compute_dtype=config.policy.compute_dtype))
    sampler = build_sampler(config.sampler, checkpoint / "vlm", config.env.max_context_tokens, config.seed)
    frames = FrameCache()
    (trajectory,) = Segmenter(policy, sampler, FrameCaches(frames, frames), config.env).segment(
        [task], 0.0, config.seed
    )
    sampler.close()
    out.mkdir(parents=True, exist_ok=True)
    store = TrajectoryStore(out / "trajectories")
    store.drop_from(-1)
    store.append([trajectory])
    write_masks(trajectory, out)
    write_overlay(trajectory, frames, out / "overlay.mp4")
    return trajectory


@command
def main() -> None:
    parser = argparse.ArgumentParser(description="Segment the object that a sentence refers to in a video.")
    add_config_arguments(parser)
    parser.add_argument("--video", type=Path, required=True, help="folder of frames, or a video file")
    parser.add_argument("--query", required=True, help="the sentence")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder with vlm/, seg.safetensors, policy.json")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    args = parser.parse_args()
    config = config_from_args(args)
    set_engine_env()
    trajectory = predict(config, args.video, args.query, args.checkpoint, args.out)
    console = Console()
    console.print(f"{trajectory.stop_reason} after {len(trajectory.turns)} turns: {trajectory.decision}", markup=False)
    num_masks = sum(not is_empty(mask) for mask in trajectory.masks.values())
    console.print(f"mask on {num_masks} of {trajectory.task.video.num_frames} frames; see {args.out}")


if __name__ == "__main__":
    main()
