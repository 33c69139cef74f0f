"""Read and write the files of a checkpoint, and compare names and shapes with those of the module to load.

Every fault raises CheckpointError, which names the file, the first wrong entries and what to do. Files of a checkpoint
may be links, as in Hugging Face's cache. A name of a file inside another file never leads out of the folder.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from configs.load import ConfigError
from env.errors import CheckpointError, VideoSegError
from env.files import replace_path
from env.json_text import parse_json

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_NAMED = 3  # most names in a message


@contextmanager
def reading(where: object, advice: str = "copy it again") -> Iterator[None]:
    """Raise what libraries raise about files that do not fit as CheckpointError, in one sentence.

    The libraries behind a checkpoint raise nearly every class for a damaged file: ImportError for a tokenizer class
    that is none, KeyError, TypeError, and tokenizers (written in Rust) a PanicException that is no Exception.

    Args:
        where: File or folder that the error names.
        advice: What to do about it.
    """
    try:
        yield
    except (VideoSegError, ConfigError, MemoryError, torch.OutOfMemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # an interrupt
        raise CheckpointError(f"{where}: cannot be read ({_first_line(error)}); {advice}") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}".removesuffix(": ")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises CheckpointError where it is missing, cut off or not an object."""
    if not path.is_file():
        raise CheckpointError(f"{path}: not found; the checkpoint folder is incomplete, copy it again")
    try:
        value = parse_json(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON, or cut off ({error}); copy it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(value).__name__}; copy it again")
    return value


def read_folder(folder: Path) -> dict[str, Tensor]:
    """Return all weights of a Hugging Face folder, in one file or in shards. Raises CheckpointError."""
    weight_map = read_index(folder)
    if weight_map is None:
        return read_safetensors(folder / SINGLE)
    weights: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        weights |= read_safetensors(folder / shard)
    lost = sorted(weight_map.keys() - weights.keys())
    if lost:
        raise CheckpointError(f"{folder}: {_several(lost, 'listed in the index but in no shard')}; download it again")
    return weights


def read_index(folder: Path) -> dict[str, str] | None:
    """Return weight -> shard of the index in a Hugging Face folder; None where it has no index.

    All who load a folder call this first, libraries too: these join the names in an index to the folder unchecked.
    Raises CheckpointError where a shard is not a plain file name.
    """
    if not (folder / INDEX).is_file():
        return None
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{folder / INDEX}: expected 'weight_map', the shard of every weight; copy it again")
    for shard in weight_map.values():
        if not re.fullmatch(r"[^/\\\0]+\.safetensors", shard):
            raise CheckpointError(
                f"{folder / INDEX}: expected shards such as 'model-00001-of-00002.safetensors' in the same folder, "
                f"found {shard!r}; download it again"
            )
    return weight_map


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights in a Hugging Face folder; only headers are read. Raises CheckpointError."""
    weight_map = read_index(folder)
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted({SINGLE} if weight_map is None else set(weight_map.values())):
        path = folder / file
        if not path.is_file():
            raise CheckpointError(f"{path}: not found; the checkpoint folder is incomplete, copy it again")
        with reading(f"{path}: not a safetensors file, or cut off"), safe_open(path, framework="pt") as weights:
            shapes |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    return shapes


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the weights in a safetensors file.

    Raises CheckpointError where it is missing, cannot be read, or has numbers that are not finite.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: not found; the checkpoint folder is incomplete, copy it again")
    with reading(f"{path}: not a safetensors file, or cut off"):
        weights = load_file(path)
    require_finite(weights, path)
    return weights


def read_pickle(path: Path, advice: str) -> Any:
    """Return what `torch.save` wrote, which may hold tensors and plain values alone.

    Args:
        path: The file. Nothing in it is executed.
        advice: What to do about a file that cannot be read.

    Raises:
        CheckpointError: It is cut off, another file, or holds other Python objects.
    """
    with reading(f"{path}: not a PyTorch checkpoint, or cut off", advice):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if found := re.search(r"GLOBAL (\S+)", str(error)):
                raise CheckpointError(
                    f"{path}: holds the Python object {found[1]}, which could run code; expected tensors, numbers and "
                    f"texts alone"
                ) from error
            raise


def write_safetensors(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write weights from any device, with the metadata that Hugging Face expects."""
    with replace_path(path) as draft:
        save_file({name: each.cpu().contiguous() for name, each in weights.items()}, draft, metadata={"format": "pt"})


def require_finite(weights: Mapping[str, Tensor], where: object) -> None:
    """Raise CheckpointError, which names `where` and the first such weight, if a number is infinite or NaN."""
    for name, tensor in weights.items():
        # The sum of finite numbers may overflow, but a sum is finite only if all its terms are. It is the quicker test.
        if not (tensor.is_floating_point() and not tensor.is_meta) or tensor.sum(dtype=torch.float32).isfinite():
            continue
        if not (is_finite := tensor.isfinite()).all():
            bad = int(is_finite.logical_not().sum())
            raise CheckpointError(
                f"{where}: weight {name} has {bad} of {tensor.numel()} numbers that are infinite or NaN; "
                "take an earlier checkpoint"
            )


def require_fit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], where: object, advice: str = "") -> None:
    """Raise CheckpointError unless two sets of weights have the same names and shapes.

    Args:
        expected: Weights of the module.
        found: Weights of the checkpoint.
        where: File or folder that the error names.
        advice: Last sentence of the error.
    """
    misshapen = [
        f"weight {name} has shape {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & found.keys())
        if found[name].shape != expected[name].shape
    ]
    require_names(expected.keys() - found.keys(), found.keys() - expected.keys(), where, advice, misshapen)


def require_names(
    missing: Iterable[str], unexpected: Iterable[str], where: object, advice: str = "", misshapen: Iterable[str] = ()
) -> None:
    """Raise CheckpointError, with the first names of each kind, if a weight is missing, unexpected or misshapen.

    Args:
        missing: Names that the module has and the checkpoint lacks.
        unexpected: Names that only the checkpoint has.
        where: File or folder that the error names.
        advice: Last sentence of the error.
        misshapen: A sentence for each weight of the wrong shape.
    """
    kinds = ((sorted(missing), "missing"), (sorted(unexpected), "not expected"))
    faults = [_several(names, what) for names, what in kinds if names] + list(misshapen)[:_NAMED]
    if faults:
        raise CheckpointError(f"{where}: " + "; ".join(faults) + (f". {advice}" if advice else ""))


def _several(names: list[str], what: str) -> str:
    if len(names) == 1:
        return f"weight {names[0]} is {what}"
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} weights are {what}: {', '.join(names[:_NAMED])}{more}"
