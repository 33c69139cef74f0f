"""Checkpoints as VideoSEG-O3 publishes them (Sa2VA layout), read and written.

    python -m policy.released videoseg_o3_2b runs/o3        # published folder -> ours, which every command takes
    python -m policy.released --back runs/o3 videoseg_o3    # ours -> published layout

One Hugging Face folder holds everything: Qwen3-VL under `model.`, with a head of its own and as many tokens as its
tokenizer has; the projection as `text_hidden_fcs`; SAM 2.0 Hiera-L as `grounding_encoder.sam2_model`, in which the
layer scale `gamma` of the memory encoder is called `g_weight`. `config.json` is Qwen3-VL's under another type.
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
from transformers import AutoTokenizer, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from configs.schema import PolicyConfig, SamConfig
from env.errors import CheckpointError, command
from policy.build import RELEASED_TYPE, load_policy, processor_of, save_policy
from policy.model import SegPolicy
from policy.sam import build_sam
from policy.weights import read_folder, require_fit

ARCHITECTURE = "Sa2VAChatModelQwen"
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
    values = json.loads(path.read_text())
    if values.get("model_type") != RELEASED_TYPE:
        raise CheckpointError(f"{path}: expected model_type {RELEASED_TYPE!r}, found {values.get('model_type')!r}")
    foreign = ("model_type", "auto_map", "architectures", "template")
    return Qwen3VLConfig(**{name: value for name, value in values.items() if name not in foreign})


def read_released(folder: Path, sam: SamConfig = SAM) -> SegPolicy:
    """The policy of a published folder, in the precision it is stored in."""
    policy = empty_policy(read_config(folder), AutoTokenizer.from_pretrained(folder), sam)
    fill(policy, read_folder(folder), folder)
    return policy.eval()


def write_released(policy: SegPolicy, folder: Path) -> None:
    """Write `policy` (without adapters: `save_policy` merges them) in the published layout."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {released_name(name): tensor.detach().cpu() for name, tensor in policy.state_dict().items()}
    if policy.vlm.config.tie_word_embeddings:  # the published layout always has a head of its own
        weights["model.lm_head.weight"] = weights["model.lm_head.weight"].clone()
    values = policy.vlm.config.to_dict()
    values |= {
        "model_type": RELEASED_TYPE,
        "architectures": [ARCHITECTURE],
        "tie_word_embeddings": False,
        "template": "",
    }
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
        save_policy(read_released(args.source), args.target, PolicyConfig(sam=SAM))
    print(f"{args.target}: written")


if __name__ == "__main__":
    main()
