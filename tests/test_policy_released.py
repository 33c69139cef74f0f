"""Published checkpoints: VideoSEG-O3's folders and SAM 2's files, held to what their own classes call their weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from huggingface_hub import save_torch_state_dict
from hydra import compose
from hydra.utils import instantiate
from safetensors.torch import load_file, save_file
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from configs.load import ConfigError
from configs.schema import PolicyConfig, SamConfig
from env.errors import CheckpointError
from policy.build import build_small, load_policy, save_policy
from policy.model import SegPolicy
from policy.released import empty_policy, fill, read_released, released_name, write_released
from policy.sam import VARIANTS, build_sam
from policy.tokenizer import train_tokenizer
from policy.weights import read_folder
from tests.sampler_parts import CORPUS, SAM

# What the published Qwen3-VL-2B and 4B configs say; the table is as long as the tokenizer, and not tied.
TEXT = {
    "2B": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    "4B": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
}
VISION = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16}
VOCABULARY = 151674


def stock_sam(variant: str) -> SAM2VideoPredictor:
    """What the sam2 package itself builds."""
    tree = compose(config_name=f"configs/{variant.partition('_')[0]}/{variant}.yaml")
    return instantiate(tree.model, _recursive_=True, _target_="sam2.sam2_video_predictor.SAM2VideoPredictor")


def full_size(size: str) -> Qwen3VLConfig:
    text = TEXT[size] | {"vocab_size": VOCABULARY, "num_key_value_heads": 8, "head_dim": 128}
    vision = VISION | {"out_hidden_size": TEXT[size]["hidden_size"], "deepstack_visual_indexes": [5, 11, 17]}
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)


def published(size: str) -> dict[str, Tensor]:
    """Names and shapes of the published folder, put together from the classes it was saved from."""
    with init_empty_weights():
        qwen, sam = Qwen3VLForConditionalGeneration(full_size(size)), stock_sam("sam2_hiera_l")
        hidden = TEXT[size]["hidden_size"]
        head = torch.nn.Sequential(torch.nn.Linear(hidden, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 256))
    weights = {f"model.{name}": tensor for name, tensor in qwen.state_dict().items()}
    weights |= {f"text_hidden_fcs.{name}": tensor for name, tensor in head.state_dict().items()}
    for name, tensor in sam.state_dict().items():
        weights["grounding_encoder.sam2_model." + name.replace(".gamma", ".g_weight")] = tensor
    return weights


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(CORPUS, 420)


@pytest.fixture(scope="module")
def small() -> SegPolicy:
    return build_small(PolicyConfig(vocab_size=420, sam=SAM), CORPUS, seed=0)


@pytest.mark.parametrize(("size", "billions"), [("2B", 2.44), ("4B", 4.83)])
def test_every_weight_of_the_published_folder_has_its_place_at_full_size(
    size: str, billions: float, tokenizer: PreTrainedTokenizerFast
) -> None:
    policy = empty_policy(full_size(size), tokenizer)
    weights = published(size)
    fill(policy, weights, "published")
    taken = {released_name(name): tuple(tensor.shape) for name, tensor in policy.state_dict().items()}
    assert taken == {name: tuple(tensor.shape) for name, tensor in weights.items()}
    assert next(policy.vlm.parameters()).is_meta
    assert policy.vlm.lm_head.weight is not policy.vlm.model.language_model.embed_tokens.weight
    # Qwen3-VL with a tied table of 151936 is known as 2.13 and 4.44 billion; a head more, and SAM 2's 0.22.
    assert sum(weight.numel() for weight in policy.parameters()) / 1e9 == pytest.approx(billions + 0.23, abs=0.01)


def test_a_published_folder_that_lacks_or_adds_a_weight_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    policy, weights = empty_policy(full_size("2B"), tokenizer), published("2B")
    lost = weights.pop("text_hidden_fcs.2.bias")
    weights["model.extra"] = lost
    with pytest.raises(CheckpointError, match=r"text_hidden_fcs\.2\.bias is missing; weight model\.extra is not expec"):
        fill(policy, weights, "published")


def test_a_policy_survives_the_published_layout(small: SegPolicy, tmp_path: Path) -> None:
    write_released(small, tmp_path / "o3")
    again = read_released(tmp_path / "o3", SAM)
    assert json.loads((tmp_path / "o3" / "config.json").read_text())["model_type"] == "sa2va_chat"
    wanted = small.state_dict()
    assert again.state_dict().keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in again.state_dict().items())
    save_policy(again, tmp_path / "ours", PolicyConfig(sam=SAM))
    ours = load_policy(tmp_path / "ours")
    ids = torch.tensor([again.chat.encode("the red circle moves left frame 12")])
    with torch.no_grad():
        logits = [policy.vlm(input_ids=ids).logits for policy in (small, again, ours)]
    assert (logits[0] - logits[1]).abs().max() <= 1e-6
    assert (logits[0] - logits[2]).abs().max() <= 1e-6
    assert not ours.vlm.config.tie_word_embeddings


def test_shards_are_read_and_a_lost_one_is_named(small: SegPolicy, tmp_path: Path) -> None:
    weights = {released_name(name): tensor.clone() for name, tensor in small.state_dict().items()}
    save_torch_state_dict(weights, tmp_path, max_shard_size="2MB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    found = read_folder(tmp_path)
    assert all(torch.equal(tensor, found[name]) for name, tensor in weights.items())
    part = load_file(shards[1])
    dropped = next(iter(part))
    save_file({name: tensor for name, tensor in part.items() if name != dropped}, shards[1])
    with pytest.raises(CheckpointError, match=rf"{dropped} is listed in the index but in no shard"):
        read_folder(tmp_path)
    shards[0].write_bytes(shards[0].read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=rf"{shards[0].name}.*cut off"):
        read_folder(tmp_path)


def test_the_published_layout_is_not_mistaken_for_a_plain_folder(small: SegPolicy, tmp_path: Path) -> None:
    write_released(small, tmp_path)
    with pytest.raises(CheckpointError, match=r"python -m policy\.released"):
        load_policy(tmp_path)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "small"])
def test_every_published_sam_2_has_the_weights_of_the_packages_own(variant: str) -> None:
    with init_empty_weights():
        ours, stock = build_sam(SamConfig(variant=variant)), stock_sam(variant)
    wanted = {name: tuple(tensor.shape) for name, tensor in stock.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in ours.state_dict().items()} == wanted


def test_a_published_sam_2_file_loads_and_a_wrong_one_says_why(tmp_path: Path) -> None:
    stock = stock_sam("sam2_hiera_t")
    path = tmp_path / "sam2_hiera_tiny.pt"
    torch.save({"model": stock.state_dict()}, path)
    loaded = build_sam(SamConfig(variant="sam2_hiera_t", checkpoint=str(path)))
    wanted = stock.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in loaded.state_dict().items())
    with pytest.raises(CheckpointError, match=r"3 weights are missing: no_obj_embed.*variant \(sam2\.1_hiera_t"):
        build_sam(SamConfig(variant="sam2.1_hiera_t", checkpoint=str(path)))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cut off; download it again"):
        build_sam(SamConfig(variant="sam2_hiera_t", checkpoint=str(path)))
    with pytest.raises(ConfigError, match=r"policy\.sam\.variant: expected one of small, sam2_hiera_t"):
        build_sam(SamConfig(variant="sam3"))
