"""Read files of SAM 2's weights as they come: published, written by its trainer, or saved in other ways."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from env.errors import CheckpointError
from policy.checkpoint_io import SINGLE, read_pickle, read_safetensors, require_finite
from policy.sam.transformers_names import FIRST as OF_TRANSFORMERS
from policy.sam.transformers_names import from_transformers

HOLDERS = ("model", "state_dict", "model_state_dict")  # entries that hold the weights; the first in published files
PREFIXES = ("module.", "_orig_mod.")  # put before names by DistributedDataParallel and by torch.compile
OWN_PART = "image_encoder."  # names of the sam2 package begin so
PUBLISHED = "give the file that SAM 2 is published in, such as sam2_hiera_large.pt"


def read_sam_weights(path: Path) -> dict[str, Tensor]:
    """Return the weights in a file of SAM 2, under the names of the sam2 package.

    Such a file is a `.pt` with the weights under "model", as SAM 2 is published and as its trainer writes it (with
    further entries), a `.pt` of the weights alone, or a `.safetensors`, also of transformers' `Sam2VideoModel`, whose
    folder may be named too. Prefixes of wrappers are removed.

    Raises:
        CheckpointError: It is another file, or damaged.
    """
    if path.is_dir() and (path / SINGLE).is_file():
        path = path / SINGLE
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder; policy.sam.checkpoint names one file: {PUBLISHED}")
    if not path.is_file():
        raise CheckpointError(f"{path}: not found; policy.sam.checkpoint names a published SAM 2 file (.pt)")
    if path.suffix == ".safetensors":
        weights: Any = read_safetensors(path)
    else:
        weights = _held(read_pickle(path, "download it again"))
    if not _are_weights(weights):
        raise CheckpointError(
            f"{path}: expected a dictionary with the weights under 'model', as SAM 2 is published, found "
            f"{_content(weights)}; {PUBLISHED}"
        )
    named = _without_prefixes({str(name): tensor for name, tensor in weights.items()})
    if any(name.startswith(OF_TRANSFORMERS) for name in named):
        named = from_transformers(named, path)
    if not any(name.startswith(OWN_PART) for name in named):
        raise CheckpointError(f"{path}: no SAM 2: none of its weights belongs to an {OWN_PART[:-1]}; {PUBLISHED}")
    require_finite(named, path)
    return named


def _held(loaded: Any) -> Any:
    """Return the entry of a file that holds the weights, or the whole of it."""
    if isinstance(loaded, Mapping):
        for name in HOLDERS:
            if isinstance(loaded.get(name), Mapping):
                return loaded[name]
    return loaded


def _are_weights(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(part, Tensor) for part in value.values())


def _without_prefixes(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES * 2:  # in either order
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _content(value: Any) -> str:
    if not isinstance(value, Mapping):
        return f"a {type(value).__name__}"
    names = ", ".join(repr(name) for name in list(value)[:4])
    return f"entries {names}" if value else "an empty dictionary"
