"""Segment one object in one video: `python -m rl.predict --video V --query Q --checkpoint C --out DIR`.

Writes `masks/<frame>.png` (0/255), `masks.json` (COCO RLE per frame), `overlay.mp4` and the trajectory, which
`python -m env.replay DIR` shows. The video is a folder of JPEGs or PNGs, or a video file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import av
import numpy as np
from PIL import Image
from rich.console import Console

from configs.load import add_config_arguments, config_from_args
from configs.schema import PolicyConfig, RunConfig
from env.errors import command
from env.frames import FrameCache, probe
from env.rle import is_empty, mask_or_empty
from env.store import TrajectoryStore
from env.types import Task, Trajectory
from policy.build import load_policy
from policy.engine_env import set_engine_env
from policy.engines import build_sampler
from rl.segment import Segmenter

COLOUR = np.array([255, 64, 64])


def predict(config: RunConfig, video: Path, query: str, checkpoint: Path, out: Path) -> Trajectory:
    """Play one greedy episode, propagate its mask and write everything to `out`."""
    ref = probe(video)
    task = Task(f"predict/{video.name}/0", ref, query, gold=())
    policy = load_policy(checkpoint, PolicyConfig(sam=config.policy.sam, compute_dtype=config.policy.compute_dtype))
    sampler = build_sampler(config.sampler, checkpoint / "vlm", config.env.max_context_tokens, config.seed)
    frames = FrameCache()
    (trajectory,) = Segmenter(policy, sampler, frames, frames, config.env).segment([task], 0.0, config.seed)
    sampler.close()
    out.mkdir(parents=True, exist_ok=True)
    store = TrajectoryStore(out / "trajectories")
    store.drop_from(-1)
    store.append([trajectory])
    _write_masks(trajectory, out)
    _write_overlay(trajectory, frames, out / "overlay.mp4")
    return trajectory


def _mask(trajectory: Trajectory, frame_idx: int) -> np.ndarray:
    video = trajectory.task.video
    return mask_or_empty(trajectory.masks.get(frame_idx), video.height, video.width)


def _write_masks(trajectory: Trajectory, out: Path) -> None:
    folder = out / "masks"
    folder.mkdir(exist_ok=True)
    video = trajectory.task.video
    names = video.frames or tuple(f"{at:05d}" for at in range(video.num_frames))
    for at, name in enumerate(names):
        Image.fromarray(_mask(trajectory, at).astype(np.uint8) * 255).save(folder / f"{name}.png")
    masks = {name: trajectory.masks.get(at) for at, name in enumerate(names)}
    (out / "masks.json").write_text(json.dumps({"query": trajectory.task.expression, "masks": masks}))


def _write_overlay(trajectory: Trajectory, frames: FrameCache, path: Path) -> None:
    video = trajectory.task.video
    height, width = video.height // 2 * 2, video.width // 2 * 2  # the codec wants even sides
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for at in range(video.num_frames):
            pixels = frames.full(video, at).copy()
            mask = _mask(trajectory, at)
            pixels[mask] = (pixels[mask] * 0.5 + COLOUR * 0.5).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:height, :width]), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


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
