"""A checkpoint folder: what is saved is what was built, other tools open it, and what is broken is named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)

from configs.load import load_config
from configs.policy_schema import PolicyConfig, SamConfig
from env.errors import CheckpointError
from policy import SHIPPED
from policy.sam.build import build_sam
from policy.videoseg import checkpoint as build
from policy.videoseg.checkpoint import build_small, load_policy, save_policy
from policy.videoseg.model import SegPolicy
from policy.vlm.chat_tokens import expand_image_pads
from policy.vlm.tokenizer import train_tokenizer
from tests.helpers.closeness import FEW_STEPS, assert_close_to_scale
from tests.helpers.published_sizes import full_size
from tests.helpers.sampler_parts import CORPUS, SAM, frame

SHIPPED_FILES = sorted(str(path.relative_to(SHIPPED)) for path in SHIPPED.rglob("*") if path.is_file())
TEXT_ONLY = ("README.md", "vlm/chat_template.jinja")  # no program of ours reads them, and any beginning is a text


@pytest.fixture(scope="module")
def small() -> SegPolicy:
    return build_small(PolicyConfig(vocab_size=420, sam=SAM), CORPUS, seed=0)


@pytest.fixture(scope="module")
def folder(small: SegPolicy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("folder") / "policy"
    save_policy(small, out)
    return out


# ---- what is saved is what was built ----


def test_a_policy_saved_by_another_config_still_loads(small: SegPolicy, folder: Path, tmp_path: Path):
    """A run whose config knows another SAM 2 loads a folder, and writes folders that load."""
    other = PolicyConfig(freeze_vision=True, sam=replace(SamConfig(variant="sam2_hiera_l"), inject_every_frame=False))
    loaded = load_policy(folder, other)
    assert loaded.sam.built_from == replace(SAM, inject_every_frame=False)
    save_policy(loaded, tmp_path / "again")
    again = load_policy(tmp_path / "again")
    assert again.sam.built_from == loaded.sam.built_from
    wanted = small.state_dict()
    assert again.state_dict().keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in again.state_dict().items())


def test_the_file_of_sam_2_weights_is_not_part_of_what_was_built(tmp_path: Path):
    torch.save({"model": build_sam(SAM).state_dict()}, tmp_path / "sam.pt")
    assert build_sam(replace(SAM, checkpoint=str(tmp_path / "sam.pt"))).built_from == SAM


def test_the_shipped_folder_was_saved_with_more_and_loads(small: SegPolicy):
    assert "vocab_size" in json.loads((SHIPPED / "policy.json").read_text())
    assert load_policy(SHIPPED).sam.built_from == load_config("tiny").policy.sam


def test_a_plain_qwen3_vl_asks_for_the_sam_2_that_the_recipe_names(folder: Path, tmp_path: Path):
    recipe = load_config("videoseg_o3/2b_grpo").policy
    assert recipe.sam.variant == "sam2_hiera_l"
    with pytest.raises(CheckpointError, match=r"vlm: a plain Qwen3-VL.*policy\.sam\.checkpoint.* of sam2_hiera_l "):
        load_policy(folder / "vlm", recipe)
    torch.save({"model": build_sam(SAM).state_dict()}, tmp_path / "sam.pt")
    unfit = replace(recipe, sam=replace(recipe.sam, variant="sam2.1_hiera_t", checkpoint=str(tmp_path / "sam.pt")))
    with pytest.raises(CheckpointError, match=r"sam\.pt: .*Does policy\.sam\.variant \(sam2\.1_hiera_t\) name"):
        load_policy(folder / "vlm", unfit)
    joined = load_policy(folder / "vlm", replace(recipe, sam=replace(SAM, checkpoint=str(tmp_path / "sam.pt"))))
    save_policy(joined, tmp_path / "joined")
    assert load_policy(tmp_path / "joined").sam.built_from == SAM


# ---- other tools open it ----


def test_hugging_face_opens_the_folder_and_prepares_what_we_prepare(small: SegPolicy, folder: Path):
    tokenizer, processor = AutoTokenizer.from_pretrained(folder / "vlm"), AutoProcessor.from_pretrained(folder / "vlm")
    assert isinstance(processor, Qwen3VLProcessor)
    assert tokenizer.get_vocab() == small.chat.tokenizer.get_vocab()
    image = frame(1)
    parts: Any = [{"type": "text", "text": "the red circle"}, {"type": "image", "image": image}]
    text = str(processor.apply_chat_template([{"role": "user", "content": parts}], tokenize=False))
    inputs: Any = processor(text=[text], images=[image], return_tensors="pt")  # pyright: ignore
    layout, chat = small.layout, small.chat
    one_pad = chat.encode(text)
    assert one_pad.count(chat.image_pad_id) == 1
    wanted = expand_image_pads(one_pad, [layout.num_tokens(*image.shape[:2])], chat.image_pad_id)
    assert inputs["input_ids"][0].tolist() == wanted
    assert inputs["image_grid_thw"][0].tolist() == list(layout.grid(*image.shape[:2]))
    assert_close_to_scale(layout.patchify(image), inputs["pixel_values"], FEW_STEPS)


def write_hollow(weights: dict[str, Tensor], path: Path) -> None:
    """A safetensors file whose numbers are a hole in the file: names, types and shapes are all that it holds."""
    header, end = {}, 0
    for name, tensor in weights.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


@pytest.mark.parametrize(("size", "is_tied"), [("2B", True), ("2B", False), ("4B", False)])
def test_a_full_size_policy_saves_and_loads_every_weight(
    size: str, is_tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Qwen3-VL and SAM 2 Hiera-L on the meta device: real folders and real loaders, without the numbers."""
    tokenizer = train_tokenizer(CORPUS, 420)
    from_pretrained = Qwen3VLForConditionalGeneration.from_pretrained
    monkeypatch.setattr(Qwen3VLForConditionalGeneration, "from_pretrained", partial(from_pretrained, device_map="meta"))
    monkeypatch.setattr(build, "compute_device", lambda: torch.device("meta"))
    monkeypatch.setattr(build, "write_safetensors", write_hollow)
    with init_empty_weights():
        vlm = Qwen3VLForConditionalGeneration(full_size(size, is_tied))
        policy = SegPolicy(vlm, tokenizer, build_sam(SamConfig(variant="sam2_hiera_l")))
        save_policy(policy, tmp_path)
        loaded = load_policy(tmp_path, load_config("videoseg_o3/2b_grpo").policy)
    wanted = {name: tuple(tensor.shape) for name, tensor in policy.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in loaded.state_dict().items()} == wanted
    assert all(parameter.is_meta for parameter in loaded.parameters())
    assert loaded.sam.built_from == policy.sam.built_from
    with safe_open(tmp_path / "vlm" / "model.safetensors", "pt") as file:
        assert ("lm_head.weight" in file.keys()) != is_tied  # noqa: SIM118 (no mapping)
    assert loaded.vlm.config.tie_word_embeddings == is_tied


# ---- what is broken is named ----


@pytest.mark.parametrize("kept", [0.0, 0.6])
@pytest.mark.parametrize("name", [name for name in SHIPPED_FILES if name not in TEXT_ONLY])
def test_a_file_that_was_cut_off_is_named(name: str, kept: float, tmp_path: Path):
    copied = tmp_path / "policy"
    shutil.copytree(SHIPPED, copied)
    whole = (copied / name).read_bytes()
    (copied / name).write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(CheckpointError, match=rf"{copied / name}: .*copy it again"):
        load_policy(copied)


@pytest.mark.parametrize("name", ["seg.safetensors", "vlm/config.json", "vlm/model.safetensors", "vlm/tokenizer.json"])
def test_a_file_that_is_lost_is_asked_for(name: str, tmp_path: Path):
    copied = tmp_path / "policy"
    shutil.copytree(SHIPPED, copied)
    (copied / name).unlink()
    with pytest.raises(CheckpointError, match=r"copy it again"):
        load_policy(copied)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "expected a JSON object, found list"),
        ('{"kind": "videoseg"}', "expected 'sam'"),
        ('{"sam": {"hiden": 3}}', r"sam: hiden: no such key; did you mean hidden\?.*later version"),
        ('{"sam": {"hidden": "wide"}}', "sam: hidden: expected a whole number"),
    ],
)
def test_a_card_that_says_something_else_is_refused(text: str, problem: str, folder: Path, tmp_path: Path):
    copied = tmp_path / "policy"
    shutil.copytree(folder, copied)
    (copied / "policy.json").write_text(text)
    with pytest.raises(CheckpointError, match=rf"policy\.json: {problem}"):
        load_policy(copied)


def test_weights_of_another_model_are_named_with_what_to_do(folder: Path, tmp_path: Path):
    copied = tmp_path / "policy"
    shutil.copytree(folder, copied)
    path = copied / "vlm" / "model.safetensors"
    weights = load_file(path)
    lost = [name for name in weights if "layers.3." in name]
    renamed = {name.replace("layers.3.", "layers.4."): tensor for name, tensor in weights.items()}
    save_file(renamed, path, metadata={"format": "pt"})
    few = rf"{len(lost)} weights are missing: .*layers\.3.* and {len(lost) - 3} more"
    with pytest.raises(CheckpointError, match=rf"vlm: {few}; {len(lost)} weights are not expected: .*layers\.4.*Copy"):
        load_policy(copied)
    shutil.copy(folder / "vlm" / "model.safetensors", path)
    card = json.loads((copied / "policy.json").read_text())
    card["sam"]["stages"] = [1, 1, 2, 1]
    (copied / "policy.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=r"seg\.safetensors: .*missing: .*saved with the policy\.json beside it"):
        load_policy(copied)
