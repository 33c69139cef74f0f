"""Damaged and foreign files of a checkpoint: each is one sentence that names what to mend, whatever a library does."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from configs.schema import PolicyConfig
from env.errors import CheckpointError
from policy.videoseg.checkpoint import build_small, load_policy, save_policy
from rl.runtime.checkpoint import load_state
from tests.helpers.sampler_parts import CORPUS, SAM

pytestmark = pytest.mark.timeout(120)  # a damaged number must not make a library work without end

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "policy"
    save_policy(build_small(PolicyConfig(vocab_size=420, layers=2, sam=SAM), CORPUS, seed=0), out)
    return out


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "policy")
    return tmp_path / "policy"


def text(content: str) -> Damage:
    return lambda path: path.write_text(content)


def content(data: bytes) -> Damage:
    return lambda path: path.write_bytes(data)


def edited(*keys: str, value: Any) -> Damage:
    """Set a value at a place in a JSON file."""

    def damage(path: Path) -> None:
        values = whole = json.loads(path.read_text())
        for key in keys[:-1]:
            values = values[key]
        values[keys[-1]] = value
        path.write_text(json.dumps(whole))

    return damage


def without(*keys: str) -> Damage:
    """Remove an entry of a JSON file."""

    def damage(path: Path) -> None:
        values = whole = json.loads(path.read_text())
        for key in keys[:-1]:
            values = values[key]
        del values[keys[-1]]
        path.write_text(json.dumps(whole))

    return damage


def tensors(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Damage:
    return lambda path: save_file(change(load_file(path)), path, metadata={"format": "pt"})


def first_as(value: float) -> Damage:
    """Set one number of one weight."""

    def change(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        name = max(weights, key=lambda name: weights[name].numel())
        weights[name].view(-1)[7] = value
        return weights

    return tensors(change)


class Opens:
    """What would run a command when it is read."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch was_run",)


ANY_JSON: dict[str, Damage] = {
    "empty": text(""),
    "cut": lambda path: path.write_text(path.read_text()[: len(path.read_text()) // 2]),
    "a list": text("[1, 2]"),
    "null": text("null"),
    "deep": text("[" * 100_000),
    "bytes": content(bytes(range(256))),
    "a pickle": content(pickle.dumps({"a": 1})),
}
CONFIG: dict[str, Damage] = {
    "no object": edited("text_config", value=5),
    "a text as a number": edited("text_config", "hidden_size", value="wide"),
    "a negative size": edited("text_config", "hidden_size", value=-128),
    "a huge size": edited("text_config", "hidden_size", value=10**9),
    "no heads": edited("text_config", "num_attention_heads", value=0),
    "endless layers": edited("text_config", "num_hidden_layers", value=10**9),
    "endless vision": edited("vision_config", "depth", value=10**9),
    "no vision": edited("vision_config", value=[]),
    "another activation": edited("text_config", "hidden_act", value="none of these"),
    "another type": edited("model_type", value="llama"),
    "a type that is none": edited("model_type", value=["qwen3_vl"]),
    "another precision": edited("dtype", value="float99"),
    "another rope": edited("text_config", "rope_parameters", value={"rope_type": "none"}),
    "quantised": edited("quantization_config", value={"quant_method": "none"}),
}
TOKENIZER: dict[str, Damage] = {
    "no model": without("model"),
    "another model": edited("model", value={"type": "None", "vocab": 3}),
    "no vocabulary": edited("model", "vocab", value={}),
    "merges of nothing": edited("model", "merges", value=[["none", "of these"]]),
    "tokens that are none": edited("added_tokens", value=[{"id": "x"}]),
    "a pattern that is none": edited("pre_tokenizer", value={"type": "Split", "pattern": {"Regex": "("}}),
}
TOKENIZER_CONFIG: dict[str, Damage] = {
    "a class of another library": edited("tokenizer_class", value="T5Tokenizer"),
    "a class that is a number": edited("tokenizer_class", value=5),
    "a limit that is a text": edited("added_tokens_decoder", value={"x": 3}),
}
WEIGHTS: dict[str, Damage] = {
    "empty": content(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "an endless header": content(struct.pack("<Q", 2**60) + b"{}"),
    "a header that is none": content(struct.pack("<Q", 4) + b"nope"),
    "a pickle": lambda path: torch.save({name: each.clone() for name, each in load_file(path).items()}, path),
    "a pickle that runs": content(pickle.dumps(Opens())),
    "NaN": first_as(float("nan")),
    "infinite": first_as(float("inf")),
    "no weights": tensors(lambda weights: {"none": torch.zeros(1)}),
    "other shapes": tensors(lambda weights: {name: tensor.flatten()[:1].clone() for name, tensor in weights.items()}),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}
CARD: dict[str, Damage] = {
    "no SAM 2": without("sam"),
    "another variant": edited("sam", "variant", value="sam3"),
    "a variant that is a path": edited("sam", "variant", value="../../sam2_hiera_t"),
    "three stages": edited("sam", "stages", value=[1, 1, 1]),
    "endless stages": edited("sam", "stages", value=[1, 1, 1, 10**9]),
    "stages of texts": edited("sam", "stages", value=["1", "1", "1", "1"]),
    "a width that no head divides": edited("sam", "hidden", value=33),
    "a huge width": edited("sam", "hidden", value=10**9),
    "an odd image": edited("sam", "image_size", value=63),
    "other masks": edited("sam", "masks", value="three"),
    "presence that is a number": edited("sam", "presence", value=0),
    "endless memory": edited("sam", "memory_layers", value=10**9),
    "another SAM 2": edited("sam", "variant", value="sam2_hiera_t"),
}
CASES: dict[str, dict[str, Damage]] = {
    "policy.json": ANY_JSON | CARD,
    "vlm/config.json": ANY_JSON | CONFIG,
    "vlm/tokenizer.json": ANY_JSON | TOKENIZER,
    "vlm/tokenizer_config.json": ANY_JSON | TOKENIZER_CONFIG,
    "vlm/model.safetensors": WEIGHTS,
    "seg.safetensors": WEIGHTS,
}


def one_sentence(error: pytest.ExceptionInfo[CheckpointError], where: Path) -> None:
    message = str(error.value)
    assert "\n" not in message and len(message) < 1000 + 3 * len(str(where)), message
    assert message.startswith((str(where), str(where.parent))), message


@pytest.mark.parametrize(("name", "form"), [(name, form) for name, forms in CASES.items() for form in forms])
def test_a_damaged_checkpoint_is_one_sentence(name: str, form: str, copied: Path, monkeypatch) -> None:
    monkeypatch.chdir(copied.parent)
    CASES[name][form](copied / name)
    with pytest.raises(CheckpointError) as error:
        load_policy(copied)
    one_sentence(error, copied / name)
    assert not (copied.parent / "was_run").exists()


STATE = {
    "step": 3,
    "policy": {"weight": torch.ones(3)},
    "optimizer": {"state": {}, "param_groups": []},
    "schedule": {},
    "rng": torch.get_rng_state(),
}


def saved(value: Any) -> Damage:
    return lambda path: torch.save(value, path)


STATES: dict[str, Damage] = {
    "empty": content(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:300]),
    "cut at its end": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "a text": text("step 3"),
    "zeros": content(bytes(1000)),
    "half a zip": content(b"PK\x03\x04" + bytes(100)),
    "a plain pickle": content(pickle.dumps(STATE["schedule"])),
    "a pickle of a module": content(b"\x80\x04cno_such_module\nThing\n."),
    "a pickle that runs": saved(Opens()),
    "an old pickle that runs": content(pickle.dumps(Opens(), protocol=2)),
    "a pickle with endless depth": content(b"\x80\x02" + b"]" * 100 + b"." + b"a" * 50),
    "a list": saved([1, 2]),
    "a tensor": saved(torch.ones(2)),
    "weights alone": saved(STATE["policy"]),
    "no step": saved({name: value for name, value in STATE.items() if name != "step"}),
    "a step that is a text": saved(STATE | {"step": "3"}),
    "weights that are a list": saved(STATE | {"policy": []}),
    "weights that are texts": saved(STATE | {"policy": {"weight": "1"}}),
    "no generator": saved(STATE | {"rng": 7}),
    "NaN": saved(STATE | {"policy": {"weight": torch.tensor([1.0, float("nan")])}}),
    "an infinite mean": saved(STATE | {"optimizer": {"state": {0: {"exp_avg": torch.tensor([float("-inf")])}}}}),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "nothing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("form", STATES)
def test_a_damaged_state_is_one_sentence(form: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(STATE, tmp_path / "state.pt")
    assert load_state(tmp_path)["step"] == 3
    STATES[form](tmp_path / "state.pt")
    with pytest.raises(CheckpointError) as error:
        load_state(tmp_path)
    one_sentence(error, tmp_path / "state.pt")
    assert not (tmp_path / "was_run").exists()
