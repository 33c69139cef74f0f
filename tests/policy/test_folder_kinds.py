"""Checkpoints as they come: folders that load, and one true sentence for every other."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLForConditionalGeneration

from configs.load import load_config
from configs.schema import PolicyConfig
from env.errors import CheckpointError
from env.frames import FrameCache, FrameCaches
from policy.checkpoint_io import INDEX, read_folder
from policy.engines.hf import HfSampler
from policy.videoseg.checkpoint import build_small, load_policy, save_policy
from policy.vlm.load import load_chat, load_vlm
from rl.families import family_of
from tests.helpers.sampler_parts import CORPUS, SAM, make_sampler


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("folder") / "policy"
    save_policy(build_small(PolicyConfig(vocab_size=420, layers=2, sam=SAM), CORPUS, seed=0), out)
    return out


def as_cached(folder: Path, cache: Path) -> Path:
    """Lay a folder out as Hugging Face's cache does, with links into `blobs`; return its snapshot."""
    snapshot = cache / "snapshots" / "0123abc"
    (cache / "blobs").mkdir(parents=True)
    for at, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        blob, link = cache / "blobs" / f"{at:040x}", snapshot / path.relative_to(folder)
        shutil.copy(path, blob)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0123abc")
    return snapshot


# ---- what loads ----


def test_a_snapshot_of_links_into_a_cache_loads(folder: Path, tmp_path: Path) -> None:
    snapshot = as_cached(folder, tmp_path / "models--us--policy")
    wanted = load_policy(folder).state_dict()
    found = load_policy(snapshot).state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())
    make_sampler("hf", snapshot / "vlm").close()
    with pytest.raises(CheckpointError, match=rf"give one of its snapshots, {snapshot}$"):
        load_policy(tmp_path / "models--us--policy")


def test_a_plain_folder_in_shards_of_links_is_joined_with_sam_2(folder: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(folder / "vlm", plain)
    weights = load_file(plain / "model.safetensors")
    (plain / "model.safetensors").unlink()
    save_torch_state_dict(weights, plain, max_shard_size="500KB")
    assert len(list(plain.glob("*.safetensors"))) > 2
    policy = load_policy(as_cached(plain, tmp_path / "cache"), PolicyConfig(sam=SAM))
    assert all(torch.equal(tensor, policy.vlm.state_dict()[name]) for name, tensor in weights.items())


# ---- what does not, and what it is ----


def adapters(folder: Path, out: Path) -> None:
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder / "vlm")
    config = LoraConfig(r=2, target_modules=["q_proj"], base_model_name_or_path="Qwen/Qwen3-VL-2B-Instruct")
    get_peft_model(model, config).save_pretrained(out)  # pyright: ignore[reportArgumentType]
    edit(out / "adapter_config.json", base_model_name_or_path="Qwen/Qwen3-VL-2B-Instruct")


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def without_card(folder: Path, out: Path) -> None:
    shutil.copytree(folder, out)
    (out / "policy.json").unlink()


def a_run(folder: Path, out: Path) -> None:
    for step in (10, 20):
        shutil.copytree(folder, out / "checkpoints" / f"step-{step:06d}" / "policy")


def another_model(folder: Path, out: Path) -> None:
    shutil.copytree(folder / "vlm", out)
    edit(out / "config.json", model_type="qwen2_5_vl")


FOREIGN: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "adapters": (adapters, r"adapters of PEFT for Qwen/Qwen3-VL-2B-Instruct, without .*; merge them into it .*folder"),
    "no policy.json": (without_card, "without its policy.json; copy the folder again, whole"),
    "a step of a run": (
        lambda folder, out: shutil.copytree(folder, out / "policy"),
        "holds a checkpoint; give .*policy",
    ),
    "a run": (a_run, "the folder of a run; give one of its checkpoints, such as .*step-000020/policy"),
    "another model": (another_model, "config.json: expected model_type 'qwen3_vl', found 'qwen2_5_vl'"),
    "a cache": (as_cached, "give one of its snapshots, .*0123abc"),
    "nothing": (lambda folder, out: None, "not found; expected policy.json"),
    "an empty folder": (lambda folder, out: out.mkdir(), "expected policy.json"),
    "a file": (lambda folder, out: out.write_text(""), "a file; expected policy.json"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_folder_is_named_in_one_sentence(kind: str, folder: Path, tmp_path: Path) -> None:
    make, problem = FOREIGN[kind]
    make(folder, tmp_path / "given")
    with pytest.raises(CheckpointError, match=rf"given: .*{problem}") as error:
        load_policy(tmp_path / "given")
    assert "\n" not in str(error.value)


def test_evaluating_a_language_model_alone_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    config, frames = load_config("tiny", ["sampler.kind=hf"]), FrameCaches(FrameCache(), FrameCache())
    segmenter = family_of(folder / "vlm").segmenter
    with pytest.raises(
        CheckpointError, match=rf"vlm: the language model of a checkpoint; give the checkpoint, {folder}"
    ):
        segmenter(config, folder / "vlm", frames)
    shutil.copytree(folder / "vlm", tmp_path / "plain")
    with pytest.raises(
        CheckpointError, match=r"plain: a plain Qwen3-VL, which has no \[SEG\] and no SAM 2 yet; train it"
    ):
        segmenter(config, tmp_path / "plain", frames)


# ---- names in an index ----


@pytest.mark.parametrize(
    "name", ["../../x.safetensors", "/elsewhere/x.safetensors", "a/b.safetensors", "..", "", "x.bin", "."]
)
def test_an_index_names_files_of_its_folder_alone(name: str, folder: Path, tmp_path: Path) -> None:
    """Libraries join the name to the folder; the file that it leads to is there and fits."""
    given = tmp_path / "a" / "b" / "given"
    shutil.copytree(folder / "vlm", given)
    weights = load_file(given / "model.safetensors")
    (given / "model.safetensors").rename(tmp_path / "a" / "x.safetensors")
    (given / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, name)}))
    if name == "../../x.safetensors":
        opened = Qwen3VLForConditionalGeneration.from_pretrained(given)
        assert torch.equal(
            opened.state_dict()["model.language_model.norm.weight"], weights["model.language_model.norm.weight"]
        )
    config = load_config("tiny").sampler
    for read in (load_vlm, load_chat, read_folder, load_policy, lambda path: HfSampler(config, path, 64)):
        with pytest.raises(CheckpointError, match=rf"{INDEX}: expected shards .* in the same folder, found '{name}'"):
            read(given)


# ---- numbers that are not finite ----


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_not_saved(number: float, folder: Path, tmp_path: Path) -> None:
    for part in ("vlm.model.language_model.norm.weight", "text_hidden_fcs.0.weight", "sam.no_mem_embed"):
        policy = load_policy(folder)
        with torch.no_grad():
            policy.get_parameter(part).view(-1)[3] = number
        with pytest.raises(CheckpointError, match=rf"weight \S*{part.split('.')[-2]}\S* has 1 of \d+ numbers that are"):
            save_policy(policy, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_large_finite_numbers_are_weights(folder: Path, tmp_path: Path) -> None:
    """Their sum overflows."""
    shutil.copytree(folder, tmp_path / "policy")
    path = tmp_path / "policy" / "seg.safetensors"
    weights = load_file(path)
    weights["text_hidden_fcs.0.weight"].fill_(3e38)
    save_file(weights, path)
    assert load_policy(tmp_path / "policy").text_hidden_fcs[0].weight.min() > 2e38  # pyright: ignore
