"""Published checkpoints: folders of VideoSEG-O3 and files of SAM 2, compared with the names of their own classes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from huggingface_hub import save_torch_state_dict
from hydra import compose
from hydra.utils import instantiate
from safetensors.torch import load_file, save_file
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from configs.load import ConfigError, load_config
from configs.policy_schema import PolicyConfig, SamConfig
from env.errors import CheckpointError
from env.types import FrameRef, VideoRef
from policy.checkpoint_io import INDEX, read_folder
from policy.convert_sa2va import (
    empty_policy,
    fill,
    other_masks,
    read_released,
    read_sam,
    released_name,
    write_released,
)
from policy.sam.build import VARIANTS, build_sam
from policy.videoseg.checkpoint import build_small, load_policy, save_policy
from policy.videoseg.model import SegPolicy
from policy.vlm.chat_tokens import expand_image_pads
from policy.vlm.tokenizer import train_tokenizer
from tests.helpers.closeness import FORWARD, assert_close_to_scale, relative_difference
from tests.helpers.published_sizes import TEXT, full_size
from tests.helpers.sampler_parts import CORPUS, frame

SAM = SamConfig(image_size=64, hidden=32, embed=16)


def stock_sam(variant: str) -> SAM2VideoPredictor:
    """Return the model that the sam2 package itself builds."""
    tree = compose(config_name=f"configs/{variant.partition('_')[0]}/{variant}.yaml")
    return instantiate(tree.model, _recursive_=True, _target_="sam2.sam2_video_predictor.SAM2VideoPredictor")


def published(size: str) -> dict[str, Tensor]:
    """Return names and shapes of the published folder, from the classes that it was saved from."""
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
    # Qwen3-VL with a tied table of 151936 has 2.13 and 4.44 billion parameters; then come a head and SAM 2 (0.22).
    assert sum(weight.numel() for weight in policy.parameters()) / 1e9 == pytest.approx(billions + 0.23, abs=0.01)


def test_a_published_folder_that_lacks_or_adds_a_weight_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    policy, weights = empty_policy(full_size("2B"), tokenizer), published("2B")
    lost = weights.pop("text_hidden_fcs.2.bias")
    weights["model.extra"] = lost
    with pytest.raises(CheckpointError, match=r"text_hidden_fcs\.2\.bias is missing; weight model\.extra is not expec"):
        fill(policy, weights, "published")


class OneFrame:
    """A `FrameSource` of one picture."""

    def __init__(self, pixels_HWC: np.ndarray):
        self.pixels_HWC = pixels_HWC

    def pixels(self, video: VideoRef, frame: FrameRef) -> np.ndarray:
        return self.pixels_HWC

    def full(self, video: VideoRef, frame_idx: int) -> np.ndarray:
        return self.pixels_HWC


@torch.no_grad()
def seen_and_shown(policy: SegPolicy, image_HW3: np.ndarray) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return logits for a text with a picture, and mask and presence logits prompted by the last token's state."""
    video = VideoRef("/none", "v", ("0",), 1, *image_HW3.shape[:2])
    chat, layout = policy.chat, policy.layout
    ids = chat.encode("the red circle <|vision_start|><|image_pad|><|vision_end|> moves left [SEG]")
    ids = expand_image_pads(ids, [layout.num_tokens(*image_HW3.shape[:2])], chat.image_pad_id)
    ids_1L = torch.tensor([ids])
    out = policy.vlm(
        input_ids=ids_1L,
        pixel_values=torch.tensor(layout.patchify(image_HW3)),
        image_grid_thw=torch.tensor([layout.grid(*image_HW3.shape[:2])]),
        mm_token_type_ids=(ids_1L == chat.image_pad_id).int(),
        output_hidden_states=True,
    )
    prompts_1C = policy.text_hidden_fcs(out.hidden_states[-1][0, -1:].float())
    return out.logits, *policy.decode_masks(prompts_1C, [(0, video, 0)], OneFrame(image_HW3))


def test_a_policy_survives_the_published_layout(small: SegPolicy, tmp_path: Path) -> None:
    small = small.eval()
    write_released(small, tmp_path / "o3")
    again = read_released(tmp_path / "o3", SAM)
    assert json.loads((tmp_path / "o3" / "config.json").read_text())["model_type"] == "sa2va_chat"
    wanted = small.state_dict()
    assert again.state_dict().keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in again.state_dict().items())
    save_policy(again, tmp_path / "ours")
    ours = load_policy(tmp_path / "ours").eval()
    assert not ours.vlm.config.tie_word_embeddings
    first, blank = seen_and_shown(small, frame(1)), seen_and_shown(small, np.zeros_like(frame(1)))
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(first[:2], blank[:2], strict=True)), "the picture must matter"
    for policy in (again, ours):
        logits, masks, presence = seen_and_shown(policy, frame(1))
        assert_close_to_scale(logits, first[0], FORWARD)
        assert_close_to_scale(masks, first[1], FORWARD)
        assert presence is not None and first[2] is not None
        assert presence.item() == pytest.approx(first[2].item(), abs=FORWARD)  # one number, smaller than its terms
    with torch.no_grad():
        ours.vlm.model.language_model.layers[0].mlp.down_proj.weight[0] += 0.05
    planted = seen_and_shown(ours, frame(1))
    assert all(relative_difference(*each) > 10 * FORWARD for each in zip(planted[:2], first[:2], strict=True))


@pytest.mark.parametrize(
    ("masks", "presence"), [("single", "blank"), ("best_of_three", "memory"), ("single", "ignore")]
)
def test_how_masks_are_given_goes_there_and_back(masks: str, presence: str, tmp_path: Path) -> None:
    config = PolicyConfig(vocab_size=420, sam=replace(SAM, masks=masks, presence=presence))
    policy = build_small(config, CORPUS, seed=0)
    save_policy(policy, tmp_path / "ours")
    loaded = load_policy(tmp_path / "ours")
    assert loaded.sam.built_from == config.sam
    write_released(loaded, tmp_path / "o3")
    again = read_released(tmp_path / "o3", SAM)
    assert again.sam.built_from == config.sam
    save_policy(again, tmp_path / "back")
    back = load_policy(tmp_path / "back", load_config("tiny").policy)
    assert back.sam.built_from == config.sam, "the checkpoint goes before the config of the run"
    shown = [seen_and_shown(policy, frame(1))[:2] for policy in (back, loaded)]
    assert all(torch.equal(*each) for each in zip(*shown, strict=True))
    assert bool(other_masks(config.sam)) == (presence != "memory")


def test_a_folder_of_the_release_runs_as_the_release(small: SegPolicy, tmp_path: Path) -> None:
    """Its config has no entry of ours. Neither has a policy.json from before there were such entries."""
    write_released(small, tmp_path / "o3")
    path = tmp_path / "o3" / "config.json"
    values = json.loads(path.read_text())
    del values["videoseg_rl"]
    path.write_text(json.dumps(values))
    found = read_sam(tmp_path / "o3")
    assert (found.variant, found.masks, found.presence) == ("sam2_hiera_l", "best_of_three", "memory")
    recipe = load_config("videoseg_o3/2b_grpo").policy.sam
    assert (recipe.variant, recipe.masks, recipe.presence) == (found.variant, found.masks, found.presence)
    save_policy(small, tmp_path / "old")
    card = json.loads((tmp_path / "old" / "policy.json").read_text())
    del card["sam"]["masks"], card["sam"]["presence"]
    (tmp_path / "old" / "policy.json").write_text(json.dumps(card))
    old = load_policy(tmp_path / "old", load_config("videoseg_o3/2b_grpo").policy).sam.built_from
    assert (old.masks, old.presence) == ("single", "blank")
    values["videoseg_rl"] = {"masks": "four", "presence": "memory"}
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"config\.json: videoseg_rl: policy\.sam\.masks: unknown 'four'"):
        read_sam(tmp_path / "o3")


def test_what_the_published_class_needs_goes_there_and_back(
    small: SegPolicy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_released(small, tmp_path / "o3")
    path = tmp_path / "o3" / "config.json"
    values = json.loads(path.read_text())
    assert values["auto_map"]["AutoModel"].endswith(".Sa2VAChatModelQwen")
    values |= {"auto_map": {"AutoModel": "modeling_other.Other"}, "architectures": ["Other"], "template": "a template"}
    path.write_text(json.dumps(values))
    capsys.readouterr()
    save_policy(read_released(tmp_path / "o3", SAM), tmp_path / "ours")
    assert "custom code" not in capsys.readouterr().out, "nobody is asked to run what comes with a folder"
    ours = load_policy(tmp_path / "ours")
    assert "auto_map" not in json.loads((tmp_path / "ours" / "vlm" / "config.json").read_text())
    save_policy(ours, tmp_path / "trained")
    write_released(load_policy(tmp_path / "trained"), tmp_path / "back")
    again = json.loads((tmp_path / "back" / "config.json").read_text())
    assert again == values


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_published_file_that_was_cut_off_is_named(name: str, small: SegPolicy, tmp_path: Path) -> None:
    write_released(small, tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=rf"{name}: .*cut off.*copy it again"):
        read_released(tmp_path, SAM)


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
    index = tmp_path / INDEX
    index.write_text(index.read_text()[:-100])
    with pytest.raises(CheckpointError, match=rf"{INDEX}: not JSON, or cut off"):
        read_folder(tmp_path)
    index.write_text('{"metadata": {}}')
    with pytest.raises(CheckpointError, match=rf"{INDEX}: expected 'weight_map'"):
        read_folder(tmp_path)


def test_the_published_layout_is_not_mistaken_for_a_plain_folder(small: SegPolicy, tmp_path: Path) -> None:
    write_released(small, tmp_path)
    with pytest.raises(CheckpointError, match=r"python -m policy\.convert_sa2va"):
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
    with pytest.raises(CheckpointError, match=r"cut off.*; download it again"):
        build_sam(SamConfig(variant="sam2_hiera_t", checkpoint=str(path)))
    with pytest.raises(ConfigError, match=r"policy\.sam\.variant: unknown .*; known are small, sam2_hiera_t"):
        build_sam(SamConfig(variant="sam3"))
