"""Updates that lack weights, each for an engine of its own: later updates may lack what the first one lacks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from configs.schema import PolicyConfig
from policy.engines.base import Sampler
from policy.engines.env import set_engine_env
from policy.engines.weight_update import LowRank
from policy.videoseg.checkpoint import load_policy
from policy.vlm.chat_tokens import ChatTokens
from policy.vlm.load import load_chat
from tests.helpers.sampler_parts import exported, load_plain, make_model, make_sampler, play, shake, worst_difference

TOLERANCE = 1e-4  # float32


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def chat(model_dir: Path) -> ChatTokens:
    return load_chat(model_dir)[0]


@pytest.fixture(params=["vllm", "hf"])
def sampler(request: pytest.FixtureRequest, model_dir: Path) -> Iterator[Sampler]:
    set_engine_env()
    made = make_sampler(request.param, model_dir)
    yield made
    made.close()


@pytest.mark.parametrize("sampler", ["vllm"], indirect=True)
def test_a_frozen_vision_tower_keeps_encoded_frames_over_a_sync(
    sampler: Sampler, model_dir: Path, chat: ChatTokens, monkeypatch: pytest.MonkeyPatch
):
    """Language weights alone are enough then; frames that were encoded before are reused, new ones are encoded."""
    plain = load_plain(model_dir)
    play(sampler, chat, count=4)
    shake(plain, seed=4, names="language_model")
    sampler.load_weights({name: tensor for name, tensor in exported(plain).items() if "visual" not in name}, version=4)
    for salt in (0, 5):
        assert worst_difference(plain, chat, play(sampler, chat, count=4, salt=salt))[0] <= TOLERANCE
    # A change of the tower without clearing the cache shows that frames were indeed kept.
    monkeypatch.setattr("policy.engines.vllm.changes_vision", lambda update: False)
    shake(plain, seed=5, names="visual")
    sampler.load_weights(exported(plain), version=5)
    assert worst_difference(plain, chat, play(sampler, chat, count=4))[0] > 1e-2


def test_of_low_rank_changes_only_the_factors_are_sent(sampler: Sampler, model_dir: Path, chat: ChatTokens):
    policy = load_policy(model_dir.parent, PolicyConfig(lora_rank=2, lora_alpha=6, lora_modules_to_save=("norm",)))
    plain = load_plain(model_dir)
    for version in range(3):
        generator = torch.Generator().manual_seed(version)
        with torch.no_grad():
            for parameter in policy.vlm.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        moved = policy.weight_update()
        assert {type(value) for name, value in moved.items() if "norm" not in name} == {LowRank}
        assert moved.keys() == {"model.language_model.norm.weight"} | {
            name for name in exported(plain) if "language_model" in name and "proj" in name
        }
        sampler.load_weights(moved, version)
        assert worst_difference(plain, chat, play(sampler, chat, count=4))[0] > 1e-3, "the sync must change the policy"
        plain.load_state_dict(policy.export_weights(), strict=False)
        assert worst_difference(plain, chat, play(sampler, chat, count=4))[0] <= TOLERANCE
