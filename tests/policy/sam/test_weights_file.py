"""Files of SAM 2's weights as they come: those that load, and one true sentence for every other."""

from __future__ import annotations

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
from transformers.models.sam2_video.configuration_sam2_video import (
    Sam2VideoMaskDecoderConfig,
    Sam2VideoPromptEncoderConfig,
)

from env.errors import CheckpointError
from policy.sam.build import build_sam
from policy.sam.model import SegSam2
from policy.sam.prompts import MaskPrompt
from tests.helpers.closeness import relative_difference
from tests.helpers.sam_parts import SAM

CLOSE = 1e-5
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
    "NumPy numbers": (lambda weights: {"model": weights, "loss": np.float64(3)}, "holds the Python object numpy"),
    "a whole module": (lambda weights: torch.nn.Linear(2, 2), "holds the Python object torch.nn.modules.linear.Linear"),
    "another model": (lambda weights: {"model": other_model(weights)}, "no SAM 2: none of its weights belongs"),
    "other entries": (lambda weights: {"epoch": 3, "ema": [1]}, "expected .* found entries 'epoch', 'ema'"),
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


# ---- a SAM 2 of transformers ----

WIDE = replace(SAM, hidden=128)  # transformers' class has no other width of memories than that of full size


@pytest.fixture(scope="module")
def of_transformers() -> Any:
    """Transformers' own class at the sizes of `WIDE`, with random weights."""
    backbone = {
        "hidden_size": 16,
        "image_size": [64, 64],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [16, 32, 64, 128],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [8, 4, 8, 4],
        "window_positional_embedding_background_size": [7, 7],
        "global_attention_blocks": [3],
    }
    vision = {
        "backbone_config": {"model_type": "sam2_hiera_det_model", **backbone},
        "backbone_channel_list": [128, 64, 32, 16],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 128,
    }
    config = Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(hidden_size=128, image_size=64),
        mask_decoder_config=Sam2VideoMaskDecoderConfig(hidden_size=128),
        image_size=64,
        memory_attention_hidden_size=128,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=512,
        memory_attention_rope_feat_sizes=[4, 4],
        memory_encoder_hidden_size=128,
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=512,
        num_maskmem=7,
        enable_occlusion_spatial_embedding=True,
        enable_temporal_pos_encoding_for_object_pointers=True,
    )
    torch.manual_seed(5)
    model = Sam2VideoModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape))
        model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(20)  # present, so that no mask is blank
        twin = model.prompt_encoder.shared_embedding.positional_embedding
        twin.copy_(model.shared_image_embedding.positional_embedding)
    return model


@torch.no_grad()
def test_a_sam_2_of_transformers_loads_and_gives_its_masks(of_transformers: Any, tmp_path: Path) -> None:
    """Its folder and its file; features, memories and attention to them equal those of transformers."""
    theirs = of_transformers
    theirs.save_pretrained(tmp_path)
    sam = build_sam(replace(WIDE, checkpoint=str(tmp_path)))
    again = build_sam(replace(WIDE, checkpoint=str(tmp_path / "model.safetensors")))
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in sam.state_dict().items())
    random = torch.Generator().manual_seed(6)
    features = sam.encode_images(torch.randn(1, 3, 64, 64, generator=random))
    wanted = theirs.get_image_features(torch.randn(1, 3, 64, 64, generator=random.manual_seed(6))).fpn_hidden_states
    flat = [level.flatten(2).permute(2, 0, 1) for level in features.levels]  # [h w, 1, c]
    assert all(relative_difference(*pair) < CLOSE for pair in zip(flat, wanted, strict=True))

    click = MaskPrompt(points_BP2=torch.tensor([[[0.3, 0.6]]]), labels_BP=torch.ones(1, 1))
    levels = [*features.levels[:2], features.levels[2] + sam.no_mem_embed.view(1, -1, 1, 1)]
    decoded = theirs._single_frame_forward(
        input_points=torch.tensor([[[[0.3 * 64, 0.6 * 64]]]]),
        input_labels=torch.ones(1, 1, 1, dtype=torch.int32),
        image_embeddings=levels,
    )
    found = sam.decode(features, click, multimask=True)
    assert relative_difference(found.logits_NHW[0], decoded.pred_masks.view(16, 16)) < CLOSE
    assert relative_difference(found.presence_N, decoded.object_score_logits.view(1)) < CLOSE

    mask_11HW = torch.rand(1, 1, 64, 64, generator=random)
    memory_1CHW, _ = theirs.memory_encoder(features.levels[2], mask_11HW)
    ours = sam.memory_encoder(features.levels[2], mask_11HW, skip_mask_sigmoid=True)
    assert relative_difference(ours["vision_features"], memory_1CHW) < CLOSE

    places = features.positions[2].flatten(2).permute(2, 0, 1)
    memory = torch.randn(18, 1, 64, generator=random)  # of one frame, and the two parts of an object pointer
    memory_places = torch.randn(18, 1, 64, generator=random)
    found = sam.memory_attention(flat[2], memory, places, memory_places, num_obj_ptr_tokens=2)
    wanted = theirs.memory_attention(flat[2], memory, places, memory_places, num_object_pointer_tokens=2)
    assert relative_difference(found, wanted.reshape(found.shape)) < CLOSE


def test_a_sam_2_of_transformers_for_images_alone_is_named(of_transformers: Any, tmp_path: Path) -> None:
    weights = {name: each for name, each in of_transformers.state_dict().items() if "memory" not in name}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"for images alone \(Sam2Model\), without the memory that tracking needs"
    ):
        build_sam(replace(SAM, checkpoint=str(tmp_path)))
    weights = dict(of_transformers.state_dict())
    weights["shared_image_embedding.positional_embedding"] = weights["shared_image_embedding.positional_embedding"] + 1
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"positional_embedding differs from its copy in the same file"):
        build_sam(replace(SAM, checkpoint=str(tmp_path)))
