"""Checkpoints as VideoSEG-O3 publishes them (Sa2VA layout), read and written.

    python -m policy.convert_sa2va videoseg_o3_2b runs/o3        # published folder -> ours, which every command takes
    python -m policy.convert_sa2va --back runs/o3 videoseg_o3    # ours -> published layout

One Hugging Face folder holds everything: Qwen3-VL under `model.`, with a head of its own and as many tokens as its
tokenizer has; the projection as `text_hidden_fcs`; SAM 2.0 Hiera-L as `grounding_encoder.sam2_model`, in which the
layer scale `gamma` of the memory encoder is called `g_weight`. `config.json` is Qwen3-VL's under another type; what it
says for the published model class (`auto_map`) is kept on the way through our layout, and the class's own Python files
are to be copied beside it.
(github.com/Dmmm1997/VideoSEG-O3, tools/convert_to_hf.py.)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from configs.schema import SamConfig
from env.errors import CheckpointError, command
from policy.checkpoint_io import read_folder, read_json, require_fit
from policy.sam.build import build_sam
from policy.videoseg.checkpoint import RELEASED_TYPE, load_policy, processor_of, save_policy
from policy.videoseg.model import SegPolicy
from policy.vlm.load import load_tokenizer

# What a published config.json says beyond Qwen3-VL's, where none was read: for its own Python files.
CLASSES = {
    "architectures": ["Sa2VAChatModelQwen"],
    "auto_map": {
        "AutoConfig": "configuration_sa2va_chat.Sa2VAChatConfigQwen",
        "AutoModel": "modeling_sa2va_qwen.Sa2VAChatModelQwen",
        "AutoModelForCausalLM": "modeling_sa2va_qwen.Sa2VAChatModelQwen",
    },
    "template": "",
}
KEPT = "released"  # key of our config.json that carries them: as `auto_map` itself, others would look for those files
SAM = SamConfig(variant="sam2_hiera_l")
SHARD = "5GB"


def released_name(name: str) -> str:
    """What a weight of `SegPolicy.state_dict()` is called in a published folder."""
    if name.startswith("vlm."):
        return "model." + name.removeprefix("vlm.")
    if name.startswith("sam."):
        renamed = name[: -len("gamma")] + "g_weight" if name.endswith(".gamma") else name
        return "grounding_encoder.sam2_model." + renamed.removeprefix("sam.")
    return name


def empty_policy(config: Qwen3VLConfig, tokenizer: Any, sam: SamConfig = SAM) -> SegPolicy:
    """The policy of a published folder, its weights without storage (on the meta device)."""
    with init_empty_weights():
        vlm = Qwen3VLForConditionalGeneration(config)
        return SegPolicy(vlm, tokenizer, build_sam(sam))


def fill(policy: SegPolicy, weights: Mapping[str, Tensor], where: object) -> None:
    """Put published weights into an empty policy; CheckpointError where names or shapes differ."""
    state = policy.state_dict()
    names = {released_name(name): name for name in state}
    expected = {name: state[ours] for name, ours in names.items()}
    require_fit(expected, weights, where, "Expected a VideoSEG-O3 checkpoint: Qwen3-VL, text_hidden_fcs and SAM 2.0")
    policy.load_state_dict({names[name]: tensor for name, tensor in weights.items()}, assign=True)


def read_config(folder: Path) -> Qwen3VLConfig:
    """Qwen3-VL's configuration out of a published `config.json`."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder}: no config.json here; expected a published VideoSEG-O3 folder")
    values = read_json(path)
    found = values.pop("model_type", None)
    if found != RELEASED_TYPE:
        raise CheckpointError(f"{path}: expected model_type {RELEASED_TYPE!r}, found {found!r}; is it ours already?")
    values[KEPT] = {name: values.pop(name) for name in CLASSES if name in values}
    return Qwen3VLConfig(**values)


def read_released(folder: Path, sam: SamConfig = SAM) -> SegPolicy:
    """The policy of a published folder, in the precision it is stored in."""
    policy = empty_policy(read_config(folder), load_tokenizer(folder), sam)
    fill(policy, read_folder(folder), folder)
    return policy.eval()


def write_released(policy: SegPolicy, folder: Path) -> None:
    """Write `policy` (without adapters: `save_policy` merges them) in the published layout."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {released_name(name): tensor.detach().cpu() for name, tensor in policy.state_dict().items()}
    if policy.vlm.config.tie_word_embeddings:  # the published layout always has a head of its own
        weights["model.lm_head.weight"] = weights["model.lm_head.weight"].clone()
    values = policy.vlm.config.to_dict()
    values.pop("_name_or_path", None)  # where this machine read it from
    values |= CLASSES | values.pop(KEPT, {}) | {"model_type": RELEASED_TYPE, "tie_word_embeddings": False}
    values["text_config"]["tie_word_embeddings"] = False
    processor_of(policy).save_pretrained(folder)
    save_torch_state_dict(weights, folder, max_shard_size=SHARD)
    (folder / "config.json").write_text(json.dumps(values, indent=2))


@command
def main() -> None:
    parser = argparse.ArgumentParser(description="Convert checkpoints from and to the layout VideoSEG-O3 publishes.")
    parser.add_argument("source", type=Path, help="folder to read")
    parser.add_argument("target", type=Path, help="folder to write")
    parser.add_argument("--back", action="store_true", help="from our layout to the published one")
    args = parser.parse_args()
    if args.back:
        write_released(load_policy(args.source), args.target)
    else:
        save_policy(read_released(args.source), args.target)
    print(f"{args.target}: written")


if __name__ == "__main__":
    main()
