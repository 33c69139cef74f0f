"""A rollout engine with weights that are not finite: every episode fails, and its error names the weights."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from configs.load import load_config
from cot_data.datasets import load_tasks
from env.frames import FrameCache
from policy.engines import build_sampler
from policy.vlm.load import load_chat
from rl.rollout.episode_runner import EpisodeRunner
from rl.rollout.request import RolloutRequest
from tests.helpers.rl_parts import Micro

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("kind", ["hf", "vllm"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_every_episode_fails_and_says_why(micro: Micro, tmp_path: Path, kind: str, value: float):
    folder = Path(shutil.copytree(micro.policy / "vlm", tmp_path / "vlm"))
    weights = load_file(folder / "model.safetensors")
    weights["model.language_model.layers.0.mlp.down_proj.weight"][0] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = load_config("smoke", [*micro.overrides(tmp_path), f"sampler.kind={kind}", "env.max_action_tokens=8"])
    sampler = build_sampler(config.sampler, folder, config.env.max_context_tokens, 0)
    try:
        episodes = EpisodeRunner(sampler, *load_chat(folder), FrameCache(), config.env)
        tasks = list(load_tasks("mevis", micro.data))[:3]
        found = list(episodes.run([RolloutRequest(task, 0, 0, 0, 1.0) for task in tasks]))
    finally:
        sampler.close()
    assert len(found) == 3 and all(item.has_failed for item in found)
    assert {item.error for item in found} == {"the engine's log-probs are not finite: its weights (version -1) are bad"}
