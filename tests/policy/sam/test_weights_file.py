"""Files of SAM 2's weights as they come: those that load, and one true sentence for every other."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Sam2VideoConfig, Sam2VideoModel

from env.errors import CheckpointError
from policy.sam.build import build_sam
from policy.sam.model import SegSam2
from tests.helpers.sam_parts import SAM

Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def sam() -> SegSam2:
    torch.manual_seed(4)
    return build_sam(SAM)


def prefixed(weights: Weights, prefix: str) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


# As the trainer of SAM 2 writes it (sam2/training/trainer.py), with the state of its optimizer beside the weights.
TRAINER = {
    "optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-5}]},
    "epoch": 3,
    "loss": {"loss_fn": {"weight_dict": {"loss_mask": 20}}},
    "steps": {"train": 10, "val": 0},
    "time_elapsed": 12.5,
    "best_meter_values": {},
    "scaler": {"scale": 65536.0},
}
GOOD: dict[str, Callable[[Weights], Any]] = {
    "published": lambda weights: {"model": weights},
    "of the trainer": lambda weights: {"model": weights, **TRAINER},
    "of the trainer, ordered": lambda weights: {"model": OrderedDict(weights), **TRAINER},
    "of several processes": lambda weights: {"model": prefixed(weights, "module."), "epoch": 1},
    "compiled": lambda weights: {"model": prefixed(weights, "_orig_mod.")},
    "compiled, of several processes": lambda weights: {"state_dict": prefixed(weights, "module._orig_mod.")},
    "the weights alone": lambda weights: weights,
}


@pytest.mark.parametrize("form", GOOD)
def test_a_file_of_sam_2_loads_whatever_is_beside_the_weights(form: str, sam: SegSam2, tmp_path: Path) -> None:
    torch.save(GOOD[form](sam.state_dict()), tmp_path / "sam.pt")
    loaded = build_sam(replace(SAM, checkpoint=str(tmp_path / "sam.pt")))
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in sam.state_dict().items())


def test_a_safetensors_file_loads(sam: SegSam2, tmp_path: Path) -> None:
    save_file(sam.state_dict(), tmp_path / "sam.safetensors")
    loaded = build_sam(replace(SAM, checkpoint=str(tmp_path / "sam.safetensors")))
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in sam.state_dict().items())


def other_model(weights: Weights) -> Weights:
    return {"backbone.weight": torch.zeros(2), "head.bias": torch.zeros(1)}


BAD: dict[str, tuple[Callable[[Weights], Any], str]] = {
    "NumPy numbers": (lambda weights: {"model": weights, "loss": np.float64(3)}, "holds the Python object numpy.*expected"),
    "a whole module": (lambda weights: torch.nn.Linear(2, 2), "holds the Python object torch.nn.modules.linear.Linear"),
    "another model": (lambda weights: {"model": other_model(weights)}, "no SAM 2: none of its weights belongs to an ima"),
    "other entries": (lambda weights: {"epoch": 3, "ema": [1]}, "expected .* under 'model', .* found entries 'epoch', 'ema'"),
    "a list": (lambda weights: [1, 2], "expected .* found a list"),
    "no entries": (lambda weights: {}, "found an empty dictionary"),
    "numbers among the weights": (lambda weights: {"model": weights | {"epoch": 3}}, "expected a dictionary"),
    "a weight too few": (
        lambda weights: {"model": {name: each for name, each in weights.items() if name != "no_mem_embed"}},
        "weight no_mem_embed is missing. Does policy.sam.variant",
    ),
    "NaN": (
        lambda weights: {"model": weights | {"no_obj_ptr": torch.full_like(weights["no_obj_ptr"], float("nan"))}},
        "weight no_obj_ptr has 32 of 32 numbers that are infinite or NaN",
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", BAD)
def test_another_file_is_named_in_one_sentence(form: str, sam: SegSam2, tmp_path: Path) -> None:
    make, problem = BAD[form]
    torch.save(make(sam.state_dict()), tmp_path / "sam.pt")
    with pytest.raises(CheckpointError, match=rf"sam\.pt: .*{problem}") as error:
        build_sam(replace(SAM, checkpoint=str(tmp_path / "sam.pt")))
    assert "\n" not in str(error.value)


def test_a_sam_2_of_transformers_is_named(tmp_path: Path) -> None:
    config = Sam2VideoConfig()
    with torch.device("meta"):
        names = Sam2VideoModel(config).state_dict()
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam2_video"}))
    with pytest.raises(CheckpointError, match=r"a SAM 2 of transformers.*; give the file that SAM 2 is published in"):
        build_sam(replace(SAM, checkpoint=str(tmp_path / "model.safetensors")))
    with pytest.raises(
        CheckpointError, match=r"the folder of a sam2_video model of transformers.*; give|names one file"
    ):
        build_sam(replace(SAM, checkpoint=str(tmp_path)))
