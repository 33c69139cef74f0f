"""Real clips through the real commands: a few steps of cold start and GRPO, then a prediction that can be replayed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from cot_data.clips import convert_clips
from env.rle import decode
from tests.helpers.rl_parts import read_lines

pytestmark = pytest.mark.timeout(900)

FEW = (
    "cold_start.stages=[{kind: masks, steps: 2, batch_size: 2}, {kind: dialogue, steps: 2, batch_size: 2}]",
    "cold_start.log_every=1",
    "grpo.steps=2",
    "grpo.tasks_per_step=2",
    "grpo.group_size=2",
    "grpo.save_every=2",
    "sampler.memory_gb=0.25",
    "env.max_action_tokens=24",
)


def command(module: str, *arguments: str, sets: tuple[str, ...]) -> None:
    flags = [word for text in sets for word in ("--set", text)]
    done = subprocess.run(
        [sys.executable, "-m", module, "--config", "clips", *arguments, *flags], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def test_cold_start_grpo_and_prediction_on_real_clips(clips: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    convert_clips(clips, data)
    sets = (f"data.train_root={data}", f"data.eval_root={data}", *FEW)

    command("rl.sft_coldstart", sets=(f"run_dir={tmp_path / 'cold'}", *sets))
    records = read_lines(tmp_path / "cold" / "stage-1-dialogue" / "metrics.jsonl")
    assert all(np.isfinite(record["loss/tokens"]) and record["loss/masks"] > 0 for record in records)

    policy = tmp_path / "cold" / "policy"
    command("rl.grpo", sets=(f"run_dir={tmp_path / 'grpo'}", f"policy.path={policy}", *sets))
    steps = read_lines(tmp_path / "grpo" / "metrics.jsonl")
    assert [record["step"] for record in steps] == [0, 1]
    assert max(record["rollout/mismatch/max"] for record in steps) < 1e-3

    out = tmp_path / "prediction"
    video = clips / "dogs-jump" / "frames"
    query = "a white dog with black patches"
    arguments = ("--video", str(video), "--query", query, "--checkpoint", str(policy), "--out", str(out))
    command("rl.predict", *arguments, sets=sets)
    _check_prediction(out, num_frames=66, size=(432, 240))
    replay = subprocess.run([sys.executable, "-m", "env.replay", str(out)], capture_output=True, text=True)
    assert replay.returncode == 0, replay.stderr
    assert "dogs-jump" in replay.stdout or "frames" in replay.stdout


def _check_prediction(out: Path, num_frames: int, size: tuple[int, int]) -> None:
    masks = sorted((out / "masks").glob("*.png"))
    assert len(masks) == num_frames
    rles = json.loads((out / "masks.json").read_text())["masks"]
    assert sorted(rles) == [path.stem for path in masks]
    for path in masks:
        image = Image.open(path)
        assert image.size == size
        pixels = np.asarray(image)
        assert set(np.unique(pixels)) <= {0, 255}
        rle = rles[path.stem]
        assert (decode(rle) if rle else np.zeros_like(pixels, bool)).tolist() == (pixels > 0).tolist()
    with av.open(str(out / "overlay.mp4")) as container:
        frames = list(container.decode(video=0))
    assert (len(frames), frames[0].width, frames[0].height) == (num_frames, *size)
