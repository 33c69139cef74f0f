"""Measure the memory that a prediction takes above the loaded models, by length and size of the video.

    python -m tests.bench.video_memory --size 1920x1080 --seconds 2 8 30

Each video is written with libx264 at 30 frames per second and predicted by `rl.predict` (policy/tiny, the Hugging Face
sampler) in a process of its own. Its peak is counted from the moment at which the models are loaded (VmHWM, which Linux
resets there). Every frame gets a mask: the process answers in the policy's place.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RATE = 30


def status(key: str) -> float:
    """Return a field of /proc/self/status in MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def write_clip(path: Path, width: int, height: int, count: int) -> None:
    """Write a clip of a square that moves over noise; it is encoded frame by frame."""
    import av
    import numpy as np

    ground = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "crf": "35"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for at in range(count):
            pixels = ground.copy()
            left = at * 7 % (width - height // 3)
            pixels[height // 3 : 2 * height // 3, left : left + height // 3] = (220, 30, 30)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def predict_one(video: Path, out: Path) -> None:
    """Predict a video, and print the memory with the models loaded, the peak after that, and seconds."""
    from configs.load import load_config
    from env.frames import FrameCaches
    from env.types import Action, Answer, Interval, Observation, StopReason, Trajectory, Turn
    from policy import SHIPPED
    from rl import families, predict

    made = families.FAMILIES["videoseg"].segmenter
    loaded: list[float] = []

    def segmenter(config: Any, checkpoint: Path, frames: FrameCaches) -> Any:
        import torch

        found: Any = made(config, checkpoint, frames)
        generator = torch.Generator().manual_seed(0)
        prompt_C = 2 * torch.randn(found.policy.sam.hidden_dim, generator=generator)

        def tracked(finished: list[Trajectory]) -> Any:
            from policy.videoseg.tracking import track

            for trajectory in finished:
                answer = Answer(Interval(0, trajectory.task.video.num_frames), trajectory.task.video.num_frames // 2)
                trajectory.turns = [*trajectory.turns[:-1], Turn(Observation(()), Action(""), answer)]
                trajectory.stop_reason = StopReason.ANSWERED
            return track(found.policy, finished, [prompt_C] * len(finished), found.frames.sam)

        found.track = tracked
        Path("/proc/self/clear_refs").write_text("5")
        loaded.append(status("VmRSS"))
        return found

    families.FAMILIES["videoseg"] = families.Family(**{**vars(families.FAMILIES["videoseg"]), "segmenter": segmenter})
    begun = time.monotonic()
    trajectory = predict.predict(load_config("tiny", ["sampler.kind=hf"]), video, "the red square", SHIPPED, out)
    assert len(trajectory.masks) == trajectory.task.video.num_frames, trajectory.error
    print(f"{loaded[0]:.0f} {status('VmHWM'):.0f} {time.monotonic() - begun:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1920x1080", help="width x height (default: %(default)s)")
    parser.add_argument("--seconds", type=float, nargs="+", default=[2, 8, 30])
    parser.add_argument("--one", type=Path, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        predict_one(*args.one)
        return
    width, height = map(int, args.size.split("x"))
    print("| video | frames | models, MiB | above, MiB | s |\n|---|---|---|---|---|")
    for seconds in args.seconds:
        with tempfile.TemporaryDirectory() as folder:
            video = Path(folder, "clip.mp4")
            write_clip(video, width, height, round(seconds * RATE))
            command = [sys.executable, "-m", "tests.bench.video_memory", "--one", str(video), str(Path(folder, "out"))]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            models, peak, took = map(float, done.stdout.split()[-3:])
        print(
            f"| {args.size} | {round(seconds * RATE)} | {models:.0f} | {peak - models:.0f} | {took:.0f} |", flush=True
        )


if __name__ == "__main__":
    main()
