"""A head unlike the embeddings under `tie_word_embeddings: true`, which merged adapters leave behind.

Whether it is tied is decided by the tensors: what is loaded, saved, exported, sampled from and sent is one policy.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.schema import PolicyConfig
from env.errors import CheckpointError
from policy.convert_sa2va import read_released, write_released
from policy.engines.base import Sampler
from policy.engines.env import set_engine_env
from policy.engines.weight_sync import HEAD, FolderWeights
from policy.export_shipped import ship
from policy.videoseg.checkpoint import load_policy, save_policy
from policy.videoseg.model import SegPolicy
from policy.vlm.chat_tokens import ChatTokens
from policy.vlm.load import load_chat
from tests.helpers.sampler_parts import SAM, load_plain, make_model, make_sampler, play, worst_difference

TOLERANCE = 1e-4  # float32
EMBEDDING = "model.language_model.embed_tokens.weight"


def add_head(vlm: Path, scale: float) -> torch.Tensor:
    """Put a head beside the embeddings of a folder whose config says that they are tied; return it."""
    weights = load_file(vlm / "model.safetensors")
    noise = torch.randn(weights[EMBEDDING].shape, generator=torch.Generator().manual_seed(3))
    weights[HEAD] = weights[EMBEDDING] + scale * noise
    save_file(weights, vlm / "model.safetensors", metadata={"format": "pt"})
    assert json.loads((vlm / "config.json").read_text())["tie_word_embeddings"] is True
    return weights[HEAD]


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tied") / "policy"
    make_model(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tied: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a head of its own, as a program that merges adapters leaves it."""
    folder = tmp_path_factory.mktemp("own") / "policy"
    shutil.copytree(tied, folder)
    add_head(folder / "vlm", scale=0.1)
    return folder


def has_own_head(policy: SegPolicy, head: torch.Tensor) -> bool:
    is_tied = policy.vlm.lm_head.weight is policy.vlm.model.language_model.embed_tokens.weight
    config: Any = policy.vlm.config
    assert config.tie_word_embeddings == config.text_config.tie_word_embeddings == is_tied
    return not is_tied and torch.equal(policy.vlm.lm_head.weight, head)


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_the_head_survives_loading_saving_and_export(folder: Path, lora_rank: int, tmp_path: Path) -> None:
    head = load_file(folder / "vlm" / "model.safetensors")[HEAD]
    policy = load_policy(folder, PolicyConfig(lora_rank=lora_rank))
    assert has_own_head(policy, head)
    save_policy(policy, tmp_path / "initial")
    assert json.loads((tmp_path / "initial" / "vlm" / "config.json").read_text())["tie_word_embeddings"] is False
    assert has_own_head(load_policy(tmp_path / "initial"), head)
    ship(folder, tmp_path / "shipped")
    ship(tmp_path / "shipped", tmp_path / "again")
    for name in ("shipped", "again"):
        assert has_own_head(load_policy(tmp_path / name), head.half().float())
    write_released(load_policy(folder), tmp_path / "o3")
    assert has_own_head(read_released(tmp_path / "o3", SAM), head)
    values = json.loads((tmp_path / "o3" / "config.json").read_text()) | {"tie_word_embeddings": True}
    (tmp_path / "o3" / "config.json").write_text(json.dumps(values))
    assert has_own_head(read_released(tmp_path / "o3", SAM), head), "a published folder with the wrong entry"


def test_a_head_that_equals_the_embeddings_is_tied(tied: Path, tmp_path: Path) -> None:
    shutil.copytree(tied, tmp_path / "policy")
    head = add_head(tmp_path / "policy" / "vlm", scale=0.0)
    policy = load_policy(tmp_path / "policy")
    assert not has_own_head(policy, head)
    assert HEAD not in policy.export_weights() and HEAD not in policy.weight_update()
    engine = FolderWeights(tmp_path / "policy" / "vlm")
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is not a weight of the sampler's model"):
        engine.merged({HEAD: head})


def test_a_tied_policy_is_untied_only_by_its_tensors(tied: Path, tmp_path: Path) -> None:
    policy = load_policy(tied)
    policy.vlm.lm_head.weight = torch.nn.Parameter(policy.vlm.lm_head.weight.detach() + 1)
    head = policy.vlm.lm_head.weight.detach().clone()
    save_policy(policy, tmp_path / "policy")
    assert has_own_head(load_policy(tmp_path / "policy"), head)


@pytest.fixture(params=["vllm", "hf"])
def sampler(request: pytest.FixtureRequest, folder: Path) -> Iterator[Sampler]:
    set_engine_env()
    made = make_sampler(request.param, folder / "vlm")
    yield made
    made.close()


@pytest.fixture(scope="module")
def chat(folder: Path) -> ChatTokens:
    return load_chat(folder / "vlm")[0]


def test_the_sampler_runs_the_policy_that_learns(sampler: Sampler, folder: Path, chat: ChatTokens, tied: Path) -> None:
    """Before and after training has moved head and embeddings apart from each other."""
    policy = load_policy(folder)
    first = play(sampler, chat, count=4)
    assert worst_difference(policy.vlm, chat, first)[0] <= TOLERANCE
    assert worst_difference(load_plain(tied / "vlm"), chat, first)[0] > 1e-2, "the head of its own must matter"
    for version in (1, 2):
        generator = torch.Generator().manual_seed(version)
        with torch.no_grad():
            for name, parameter in policy.vlm.named_parameters():
                if "lm_head" in name or "embed_tokens" in name:
                    parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        update = policy.weight_update()
        assert {HEAD, EMBEDDING} <= update.keys()
        sampler.load_weights({name: value.clone() for name, value in update.items()}, version)
        talks = play(sampler, chat, count=4)
        assert worst_difference(policy.vlm, chat, talks)[0] <= TOLERANCE
    update = {name: value for name, value in policy.weight_update().items() if name != HEAD}
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is missing; an earlier sync has changed it"):
        sampler.load_weights(update, 3)
