"""Weight files: reads them, and holds their names and shapes against those of the module that is to take them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from env.errors import CheckpointError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_NAMED = 3  # names that a message spells out


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All weights of a Hugging Face folder, in one file or in shards; CheckpointError where one cannot be read."""
    if not (folder / INDEX).is_file():
        return read_safetensors(folder / SINGLE)
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    weights: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        if Path(shard).name != shard:
            raise CheckpointError(f"{folder / INDEX}: the shard {shard!r} leads out of the folder")
        weights |= read_safetensors(folder / shard)
    lost = sorted(weight_map.keys() - weights.keys())
    if lost:
        raise CheckpointError(f"{folder}: {_several(lost, 'listed in the index but in no shard')}; download it again")
    return weights


def read_safetensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: not found; the checkpoint folder is incomplete")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: no safetensors file, or cut off ({error}); copy it again") from error


def read_sam_checkpoint(path: Path) -> dict[str, Tensor]:
    """The weights of a published SAM 2 `.pt` file: a dictionary with one entry, `model`."""
    if not path.is_file():
        raise CheckpointError(f"{path}: not found; policy.sam.checkpoint names a published SAM 2 file (.pt)")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: no PyTorch checkpoint, or cut off; download it again ({error})") from error
    if not isinstance(loaded, dict) or not isinstance(loaded.get("model"), dict):
        raise CheckpointError(f"{path}: expected a dictionary with the weights under 'model', as SAM 2 is published")
    return loaded["model"]


def require_fit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], where: object, advice: str = "") -> None:
    """CheckpointError, naming the first weights of each kind, unless names and shapes are the same."""
    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    misshapen = [
        f"weight {name} has shape {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & found.keys())
        if found[name].shape != expected[name].shape
    ]
    faults = [
        *([_several(missing, "missing")] if missing else []),
        *([_several(unexpected, "not expected")] if unexpected else []),
        *misshapen[:_NAMED],
    ]
    if faults:
        raise CheckpointError(f"{where}: " + "; ".join(faults) + (f". {advice}" if advice else ""))


def _several(names: list[str], what: str) -> str:
    if len(names) == 1:
        return f"weight {names[0]} is {what}"
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} weights are {what}: {', '.join(names[:_NAMED])}{more}"
