"""Convert checkpoints from and to the layout that VideoSEG-O3 publishes (that of Sa2VA).

    python -m policy.convert_sa2va videoseg_o3_2b runs/o3        # published layout -> ours, which every command reads
    python -m policy.convert_sa2va --back runs/o3 videoseg_o3    # ours -> published layout

In the published layout one Hugging Face folder holds everything: Qwen3-VL under `model.`, with an untied head and as
many tokens as its tokenizer has; the projection as `text_hidden_fcs`; SAM 2.0 Hiera-L as
`grounding_encoder.sam2_model`, in which the layer scale `gamma` of the memory encoder is called `g_weight`.
`config.json` is that of Qwen3-VL with another `model_type`. Its entries for the published model class (`auto_map`) are
kept in our layout and written back; the Python files of that class have to be copied by hand.

The published class takes the best of SAM 2's three masks and keeps masks of objects that SAM 2 predicts to be absent
(`SamConfig.masks` and `.presence`). A converted checkpoint does the same. A policy that was trained in another way says
so in an entry of `config.json`, which this program reads and the published class does not.
Source: github.com/Dmmm1997/VideoSEG-O3, tools/convert_to_hf.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from configs.policy_schema import SamConfig
from env.errors import CheckpointError, command
from env.files import replace_folder, write_json
from policy.checkpoint_io import read_folder, read_json, reading, require_finite, require_fit
from policy.folder_kinds import RELEASED_TYPE
from policy.sam.build import build_sam
from policy.videoseg.checkpoint import load_policy, processor_of, save_policy, saved_sam
from policy.videoseg.model import SegPolicy
from policy.vlm.load import load_tokenizer, record_tying

# Entries of a published config.json beside those of Qwen3-VL, for policies that were not read from one.
CLASSES = {
    "architectures": ["Sa2VAChatModelQwen"],
    "auto_map": {
        "AutoConfig": "configuration_sa2va_chat.Sa2VAChatConfigQwen",
        "AutoModel": "modeling_sa2va_qwen.Sa2VAChatModelQwen",
        "AutoModelForCausalLM": "modeling_sa2va_qwen.Sa2VAChatModelQwen",
    },
    "template": "",
}
KEPT = "released"  # the key of our config.json that holds them; under `auto_map` other tools would look for the files
OWN = "videoseg_rl"  # the key of a published config.json that holds how its SAM 2 gives masks
SAM = SamConfig(variant="sam2_hiera_l", masks="best_of_three", presence="memory")
SHARD = "5GB"


def released_name(name: str) -> str:
    """Return the published name of a weight of `SegPolicy.state_dict()`."""
    if name.startswith("vlm."):
        return "model." + name.removeprefix("vlm.")
    if name.startswith("sam."):
        renamed = name[: -len("gamma")] + "g_weight" if name.endswith(".gamma") else name
        return "grounding_encoder.sam2_model." + renamed.removeprefix("sam.")
    return name


def empty_policy(config: Qwen3VLConfig, tokenizer: Any, sam: SamConfig = SAM) -> SegPolicy:
    """Build a policy whose weights have no storage (meta device).

    Args:
        config: Sizes of Qwen3-VL.
        tokenizer: The tokenizer of the published folder.
        sam: The SAM 2 in it.
    """
    with init_empty_weights():
        vlm = Qwen3VLForConditionalGeneration(config)
        return SegPolicy(vlm, tokenizer, build_sam(sam))


def fill(policy: SegPolicy, weights: Mapping[str, Tensor], where: object) -> None:
    """Put published weights into an empty policy. Raises CheckpointError, which names `where`, if they do not fit."""
    state = policy.state_dict()
    names = {released_name(name): name for name in state}
    expected = {name: state[ours] for name, ours in names.items()}
    require_fit(expected, weights, where, "Expected a VideoSEG-O3 checkpoint: Qwen3-VL, text_hidden_fcs and SAM 2.0")
    policy.load_state_dict({names[name]: tensor for name, tensor in weights.items()}, assign=True)
    record_tying(policy.vlm)


def read_config(folder: Path) -> Qwen3VLConfig:
    """Return the Qwen3-VL configuration in a published `config.json`. Raises CheckpointError if it is not one."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder}: no config.json; expected a published VideoSEG-O3 folder")
    values = read_json(path)
    values.pop(OWN, None)
    found = values.pop("model_type", None)
    if found != RELEASED_TYPE:
        raise CheckpointError(
            f"{path}: expected model_type {RELEASED_TYPE!r}, found {found!r}; is it converted already?"
        )
    values[KEPT] = {name: values.pop(name) for name in CLASSES if name in values}
    with reading(path):
        return Qwen3VLConfig(**values)


def read_sam(folder: Path, sam: SamConfig = SAM) -> SamConfig:
    """Return `sam`, with masks given as the `config.json` of a published folder says. Raises CheckpointError."""
    path = folder / "config.json"
    entry = read_json(path).get(OWN, {})
    if not isinstance(entry, dict) or not entry.keys() <= {"masks", "presence"}:
        raise CheckpointError(f"{path}: {OWN}: expected masks and presence, found {entry!r}")
    return saved_sam(sam, entry, f"{path}: {OWN}")


def other_masks(sam: SamConfig) -> str:
    """Return the sentence about a policy whose masks the published class gives in another way; empty: it does not."""
    if (sam.masks, sam.presence) == (SAM.masks, SAM.presence):
        return ""
    return (
        f"its SAM 2 was trained with masks: {sam.masks} and presence: {sam.presence}; the published class takes the "
        f"{SAM.masks} and presence: {SAM.presence}, so its masks differ from this program's"
    )


def read_released(folder: Path, sam: SamConfig = SAM) -> SegPolicy:
    """Load a published folder, in the precision that it is stored in. Raises CheckpointError."""
    policy = empty_policy(read_config(folder), load_tokenizer(folder), read_sam(folder, sam))
    fill(policy, read_folder(folder), folder)
    return policy.eval()


def write_released(policy: SegPolicy, folder: Path) -> None:
    """Write `policy` in the published layout. It must not have adapters; `save_policy` merges them."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {released_name(name): tensor.detach().cpu() for name, tensor in policy.state_dict().items()}
    require_finite(weights, folder)
    weights["model.lm_head.weight"] = weights["model.lm_head.weight"].clone()  # always a head of its own there
    values = policy.vlm.config.to_dict()
    values.pop("_name_or_path", None)  # a path on this machine
    values |= CLASSES | values.pop(KEPT, {}) | {"model_type": RELEASED_TYPE, "tie_word_embeddings": False}
    values["text_config"]["tie_word_embeddings"] = False
    values[OWN] = {"masks": policy.sam.built_from.masks, "presence": policy.sam.built_from.presence}
    processor_of(policy).save_pretrained(folder)
    save_torch_state_dict(weights, folder, max_shard_size=SHARD)
    write_json(folder / "config.json", values, indent=2)


@command
def main() -> None:
    parser = argparse.ArgumentParser(description="Convert checkpoints from and to the layout VideoSEG-O3 publishes.")
    parser.add_argument("source", type=Path, help="folder to read")
    parser.add_argument("target", type=Path, help="folder to write")
    parser.add_argument("--back", action="store_true", help="convert from our layout to the published one")
    args = parser.parse_args()
    if args.target.is_dir() and any(args.target.iterdir()):
        raise CheckpointError(f"{args.target}: expected a new folder, found one with files in it; name another")
    with replace_folder(args.target) as draft:
        if args.back:
            policy = load_policy(args.source)
            write_released(policy, draft)
            if differs := other_masks(policy.sam.built_from):
                print(f"{args.target}: {differs}")
        else:
            save_policy(read_released(args.source), draft)
    print(f"{args.target}: written")


if __name__ == "__main__":
    main()
