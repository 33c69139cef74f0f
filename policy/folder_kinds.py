"""Say what a folder is that was given as a checkpoint, where it is not one that can be loaded."""

from __future__ import annotations

from pathlib import Path

from env.errors import CheckpointError
from policy.checkpoint_io import read_json

PLAIN_TYPE = "qwen3_vl"  # `model_type` of the language models that policies are built on
RELEASED_TYPE = "sa2va_chat"  # `model_type` of a checkpoint as VideoSEG-O3 publishes it (`policy.convert_sa2va`)
EXPECTED = "expected policy.json (a checkpoint of this program) or config.json (a Qwen3-VL folder)"


def require_plain(folder: Path) -> None:
    """Raise CheckpointError, which says what `folder` is and what to do, unless it is a plain Qwen3-VL folder."""
    if problem := _problem(folder):
        raise CheckpointError(f"{folder}: {problem}")


def require_trained(folder: Path) -> None:
    """Raise CheckpointError unless `folder` is a checkpoint of this program, whose [SEG] has been trained."""
    if (folder / "policy.json").is_file():
        return
    require_plain(folder)
    if (folder.parent / "policy.json").is_file():
        raise CheckpointError(f"{folder}: the language model of a checkpoint; give the checkpoint, {folder.parent}")
    raise CheckpointError(
        f"{folder}: a plain Qwen3-VL, which has no [SEG] and no SAM 2 yet; train it first "
        "(rl.sft_coldstart with policy.path and policy.sam.checkpoint)"
    )


def _problem(folder: Path) -> str:
    """Return what is wrong with a folder that has no policy.json; empty if it is a plain Qwen3-VL."""
    if not folder.is_dir():
        return f"{'a file' if folder.exists() else 'not found'}; {EXPECTED}"
    if (folder / "adapter_config.json").is_file():
        return _adapters(folder)
    if (folder / "vlm" / "config.json").is_file():
        return "a checkpoint of this program without its policy.json; copy the folder again, whole"
    if (folder / "config.json").is_file():
        return _other_model(folder)
    if (folder / "snapshots").is_dir():
        return f"a model's folder in the cache of Hugging Face; give one of its snapshots, {_snapshot(folder)}"
    if (folder / "policy" / "policy.json").is_file():
        return f"holds a checkpoint; give {folder / 'policy'}"
    if saved := sorted(folder.glob("checkpoints/step-*/policy/policy.json")):
        return f"the folder of a run; give one of its checkpoints, such as {saved[-1].parent}"
    return EXPECTED


def _adapters(folder: Path) -> str:
    base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    of = f" for {base}" if isinstance(base, str) and base else ""
    return (
        f"low-rank adapters of PEFT{of}, without the model that they adapt; merge them into it "
        "(merge_and_unload of PEFT, then save_pretrained of model and tokenizer) and give the folder with the result"
    )


def _other_model(folder: Path) -> str:
    found = read_json(folder / "config.json").get("model_type")
    if found == RELEASED_TYPE:
        return f"has the layout that VideoSEG-O3 publishes; convert it: python -m policy.convert_sa2va {folder} OUT"
    return "" if found == PLAIN_TYPE else f"config.json: expected model_type {PLAIN_TYPE!r}, found {found!r}"


def _snapshot(folder: Path) -> Path:
    """Return the snapshot that the cache calls `main`, or else the newest by name."""
    main = folder / "refs" / "main"
    if main.is_file() and (folder / "snapshots" / main.read_text(errors="replace").strip()[:100]).is_dir():
        return folder / "snapshots" / main.read_text(errors="replace").strip()[:100]
    return max((folder / "snapshots").iterdir(), default=folder / "snapshots")
