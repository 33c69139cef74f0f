"""Bad input ends with an error that names the place and the remedy; a broken video fails only its own episodes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from configs.load import load_config
from env.errors import CheckpointError
from env.frames import FrameCache
from env.types import StopReason
from policy.engines import build_sampler
from policy.videoseg.checkpoint import load_policy
from policy.vlm.load import load_chat
from rl import grpo, sft_coldstart
from rl.rollout.episode_runner import EpisodeRunner
from rl.rollout.request import RolloutRequest
from rl.rollout.task_stream import items_for_step
from rl.runtime.checkpoint import latest_checkpoint, restore
from tests.helpers.rl_parts import Micro

ROOT = Path(__file__).parents[2]
RUN = """
import runpy, sys
module, *sys.argv[1:] = sys.argv[1:]
try:
    runpy.run_module(module, run_name="__main__")
except SystemExit as end:
    print(end.code)
print("loaded:", *(name for name in ("torch", "transformers", "vllm", "ray") if name in sys.modules))
"""


def run_with_a_wrong_name(module: str, folder: Path) -> list[str]:
    """Run a command with a config that names no known loss; return the lines that it prints."""
    out = ["--out", str(folder / "out")]
    more = {
        "rl.evaluate": ["--checkpoint", "nowhere", *out],
        "rl.predict": ["--checkpoint", "nowhere", "--video", "nowhere", "--query", "it", *out],
        "cot_data.build": ["nowhere", *out],
    }.get(module, [])
    command = [sys.executable, "-c", RUN, module, "--config", "tiny", "--set", "grpo.loss=dapoo", *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout.splitlines() or [done.stderr]


def commands_with_a_config() -> list[str]:
    files = [file for file in ROOT.glob("*/**/*.py") if "add_config_arguments(parser)" in file.read_text()]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    return sorted(name for name in names if not name.startswith(("tests.", "configs.")))


@pytest.mark.parametrize("module", commands_with_a_config())
def test_a_command_ends_at_a_wrong_name_before_it_loads_torch(module: str, tmp_path: Path) -> None:
    error, loaded = run_with_a_wrong_name(module, tmp_path)
    assert "grpo.loss: unknown 'dapoo'" in error and error.endswith("did you mean dapo?")
    assert loaded == "loaded:"


def test_the_run_above_sees_a_planted_import(tmp_path: Path) -> None:
    (tmp_path / "heavy.py").write_text("import torch\n")
    command = [sys.executable, "-c", RUN, "heavy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines() == ["loaded: torch"]


def test_resume_on_an_empty_folder_is_refused(tmp_path: Path) -> None:
    config = load_config("smoke", [f"run_dir={tmp_path}"])
    with pytest.raises(CheckpointError, match="start without --resume"):
        grpo.train(config, resume=True)
    with pytest.raises(CheckpointError, match="start without --resume"):
        sft_coldstart.train(config, resume=True)


def test_a_half_written_checkpoint_is_not_resumed_from(tmp_path: Path) -> None:
    partial = tmp_path / "checkpoints" / "step-000004.partial"
    partial.mkdir(parents=True)
    (partial / "state.pt").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="checkpoints/step"):
        latest_checkpoint(tmp_path)


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"{tmp_path}.*policy.json"):
        load_policy(tmp_path)


def test_a_checkpoint_of_another_shape_names_the_weight(micro: Micro, tmp_path: Path) -> None:
    copied = tmp_path / "policy"
    shutil.copytree(micro.policy, copied)
    weights = load_file(copied / "seg.safetensors")
    name = "text_hidden_fcs.0.weight"
    weights[name] = weights[name][:, :-1].contiguous()
    save_file(weights, copied / "seg.safetensors")
    with pytest.raises(CheckpointError, match=rf"{name} has shape \(96, 95\), expected \(96, 96\)"):
        load_policy(copied)


def test_a_checkpoint_without_a_weight_names_it(micro: Micro, tmp_path: Path) -> None:
    copied = tmp_path / "policy"
    shutil.copytree(micro.policy, copied)
    vlm = copied / "vlm" / "model.safetensors"
    weights = load_file(vlm)
    name = "model.language_model.norm.weight"
    del weights[name]
    save_file(weights, vlm, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_policy(copied)


def test_training_state_of_another_shape_names_the_weight(micro: Micro) -> None:
    policy = load_policy(micro.policy)
    state = policy.state_dict()
    name = "text_hidden_fcs.2.bias"
    state[name] = state[name][:-1]
    with pytest.raises(CheckpointError, match=f"{name} has shape"):
        restore(policy, state, "run")


def test_fewer_tasks_than_a_step_needs() -> None:
    with pytest.raises(ValueError, match=r"at least grpo\.tasks_per_step = 3 tasks, found 2"):
        items_for_step(["a", "b"], ["", ""], 3, 0, 0)


def test_a_broken_video_ends_only_its_own_episodes(micro: Micro, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(micro.data, root)
    broken, *_ = sorted((root / "JPEGImages").iterdir())
    config = load_config("smoke", [*micro.overrides(tmp_path / "run"), f"data.train_root={root}"])
    from cot_data.datasets import load_tasks

    tasks = list(load_tasks("mevis", root))
    for path in broken.iterdir():
        path.write_bytes(path.read_bytes()[:200])  # truncated after the loader read the folder
    chat, layout = load_chat(micro.policy / "vlm")
    sampler = build_sampler(config.sampler, micro.policy / "vlm", config.env.max_context_tokens, 0)
    rollout = EpisodeRunner(sampler, chat, layout, FrameCache(), config.env)
    trajectories = list(rollout.run([RolloutRequest(task, 0, 0, 0, 1.0) for task in tasks]))
    sampler.close()
    assert len(trajectories) == len(tasks)
    for trajectory in trajectories:
        is_broken = trajectory.task.video.path.endswith(broken.name)
        assert (trajectory.stop_reason is StopReason.ERROR) == is_broken
        assert (broken.name in trajectory.error) == is_broken


def test_the_policy_card_names_its_sam(micro: Micro) -> None:
    card = json.loads((micro.policy / "policy.json").read_text())
    assert card["sam"]["image_size"] == 64
