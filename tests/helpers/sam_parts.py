"""A small SAM 2, frames for it, and the package's own video predictor with the same weights."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from hydra import compose
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch import Tensor

from configs.policy_schema import SamConfig
from policy.sam.build import build_sam, small_overrides
from policy.sam.model import SegSam2
from policy.sam.prompts import MaskPrompt
from policy.sam.tracking import iter_tracks
from policy.sam.video_features import VideoFeatures

SAM = SamConfig(image_size=64, hidden=32, embed=16)


def small_sam() -> SegSam2:
    """SAM 2 of 64 pixels with random weights that never predicts an object absent, which would blank all masks."""
    torch.manual_seed(0)
    model = build_sam(SAM)
    with torch.no_grad():
        model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.add_(20)  # pyright: ignore
    return model


def noise_frames(count: int, side: int = 64) -> list[np.ndarray]:
    """Return frames of a bright square that moves over noise, at SAM 2's own size: nothing is resized."""
    rng, unit = np.random.default_rng(1), side // 64
    frames = [rng.integers(0, 80, (side, side, 3), dtype=np.uint8) for _ in range(count)]
    for at, frame in enumerate(frames):
        left = 4 * at % 44
        frame[20 * unit : 40 * unit, left * unit : (left + 20) * unit] = (220, 60, 40)
    return frames


def write_frames(folder: Path, count: int, side: int = 64) -> list[np.ndarray]:
    """Write `noise_frames` as the JPEG files that the predictor reads; return them as they are read back."""
    for at, frame in enumerate(noise_frames(count, side)):
        Image.fromarray(frame).save(folder / f"{at:05d}.jpg")
    return [np.asarray(Image.open(folder / f"{at:05d}.jpg")) for at in range(count)]


def stock_predictor(sam: SegSam2) -> SAM2VideoPredictor:
    """Build the package's own video predictor with the weights of `sam`, all options for ambiguous clicks off."""
    predictor = published_predictor(sam)
    predictor.multimask_output_in_sam = predictor.multimask_output_for_tracking = False
    return predictor


def published_predictor(sam: SegSam2) -> SAM2VideoPredictor:
    """Build the package's own video predictor as its config file says, with the size and the weights of `sam`."""
    config = sam.built_from
    is_small = config.variant == "small"
    overrides = ["++model._target_=sam2.sam2_video_predictor.SAM2VideoPredictor"]
    overrides += small_overrides(config) if is_small else []
    name = "sam2.1_hiera_t" if is_small else config.variant
    tree = compose(config_name=f"configs/{name.partition('_')[0]}/{name}.yaml", overrides=overrides)
    OmegaConf.resolve(tree)
    predictor = instantiate(tree.model, _recursive_=True).eval()
    predictor.load_state_dict(sam.state_dict())
    plain = predictor.memory_attention.forward
    # Its bfloat16 memories meet float32 weights where a frame attends to no object pointer, which are float32.
    predictor.memory_attention.forward = lambda memory, **others: plain(memory=memory.float(), **others)
    return predictor


@torch.inference_mode()
def stock_logits(
    predictor: SAM2VideoPredictor, folder: Path, prompts: Mapping[int, MaskPrompt], reverse_too: bool = True
) -> Tensor:
    """Run the predictor as published: all prompts first, then forwards, then backwards in the same state.

    Args:
        predictor: The predictor; its attributes say how it tracks.
        folder: JPEG frames of 64 x 64 pixels.
        prompts: Conditioning frame -> prompts of B objects.
        reverse_too: Whether to go backwards from the first conditioning frame after the way forward.

    Returns:
        Mask logits [T, B, 64, 64].
    """
    state = predictor.init_state(str(folder))
    plain = predictor.sam_prompt_encoder.forward
    for at, prompt in prompts.items():
        for row in range(len(prompt)):
            one = of_object(prompt, row)
            predictor.sam_prompt_encoder.forward = with_tokens(plain, one)
            if one.mask_BHW is not None:
                predictor.add_new_mask(state, at, row, one.mask_BHW[0])
            elif one.points_BP2 is not None and one.labels_BP is not None:
                predictor.add_new_points_or_box(state, at, row, one.points_BP2[0] * 64, one.labels_BP[0])
            else:  # one point that is none: what SAM 2 itself puts in where there is no point
                predictor.add_new_points_or_box(state, at, row, np.zeros((1, 2)), np.array([-1]))
    predictor.sam_prompt_encoder.forward = plain
    found = {}
    for reverse in (False, True)[: 1 + reverse_too]:
        start = min(prompts) if reverse_too else 0
        for at, _, logits in predictor.propagate_in_video(state, start_frame_idx=start, reverse=reverse):
            found[at] = logits[:, 0]
    return torch.stack([found[at] for at in sorted(found)])


@torch.inference_mode()
def stock_logits_apart(
    predictor: SAM2VideoPredictor, folder: Path, key: int, prompt: MaskPrompt, every_frame: bool
) -> Tensor:
    """Run the predictor forwards and, in another state, backwards from the prompt of one object on one key frame.

    Args:
        predictor: The predictor; its attributes say how it tracks.
        folder: JPEG frames of 64 x 64 pixels.
        key: The key frame.
        prompt: Language tokens.
        every_frame: Whether the tokens also prompt the tracked frames.

    Returns:
        Mask logits [T, 1, 64, 64].
    """
    found = {}
    plain = predictor.sam_prompt_encoder.forward
    for reverse in (False, True):
        state = predictor.init_state(str(folder))
        predictor.sam_prompt_encoder.forward = with_tokens(plain, prompt)
        predictor.add_new_points_or_box(state, key, 0, np.zeros((1, 2)), np.array([-1]))
        predictor.sam_prompt_encoder.forward = with_tokens(plain, prompt) if every_frame else plain
        for at, _, logits in predictor.propagate_in_video(state, start_frame_idx=key, reverse=reverse):
            found[at] = logits[:, 0]
    predictor.sam_prompt_encoder.forward = plain
    return torch.stack([found[at] for at in sorted(found)])


def of_object(prompt: MaskPrompt, row: int) -> MaskPrompt:
    """Return the prompt of one object alone."""
    parts = (prompt.tokens_BNC, prompt.points_BP2, prompt.labels_BP, prompt.mask_BHW)
    tokens, points, labels, mask = (None if part is None else part[row : row + 1] for part in parts)
    return MaskPrompt(tokens, prompt.mode, points, labels, mask)


def with_tokens(plain, prompt: MaskPrompt):
    """Return the forward of a stock prompt encoder with the language tokens of `prompt`."""

    def forward(points, boxes, masks):
        sparse, dense = plain(points=points, boxes=boxes, masks=masks)
        if prompt.tokens_BNC is None:
            return sparse, dense
        return prompt.tokens_BNC if prompt.mode == "replace" else torch.cat([sparse, prompt.tokens_BNC], dim=1), dense

    return forward


def noise(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Return the noise of this name from which weights and inputs of the released code were made."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def filled_sam(width: int, memory_layers: int, seed: int) -> SegSam2:
    """Return a small SAM 2 with the weights that the numbers of the released code were made with."""
    return filled(build_sam(SamConfig(image_size=128, hidden=width, embed=32, memory_layers=memory_layers)), seed)


@torch.no_grad()
def filled(sam: SegSam2, seed: int) -> SegSam2:
    """Return `sam` with weights of noise, scaled so that every layer matters."""
    for name, tensor in sam.state_dict().items():
        values = noise(name, tuple(tensor.shape), seed)
        if tensor.dim() == 0:
            tensor.fill_(0.25)
        elif name.endswith("gaussian_matrix"):
            tensor.copy_(values)
        elif name.endswith("weight") and tensor.dim() >= 2 and "embed" not in name.split(".")[-2]:
            tensor.copy_(values / np.prod(tensor.shape[1:]) ** 0.5)
        elif name.endswith("weight") and tensor.dim() == 1:
            tensor.copy_(1 + 0.1 * values)
        else:
            tensor.copy_(0.1 * values)
    return sam


def track_videos(
    sam: SegSam2, videos: Sequence[VideoFeatures], prompts_NC: Tensor, key_frames: Sequence[int]
) -> list[tuple[Tensor, Tensor | None]]:
    """Track one object through each of N videos, and keep all that `iter_tracks` yields.

    Returns:
        Mask logits [T, h, w] and presence logits [T] for each video; None for these unless they blank masks
        (`SamConfig.presence`).
    """
    logits: list[dict[int, Tensor]] = [{} for _ in videos]
    presence: list[dict[int, Tensor]] = [{} for _ in videos]
    for video, at, logits_HW, presence_1 in iter_tracks(sam, videos, prompts_NC, key_frames):
        logits[video][at] = logits_HW
        presence[video][at] = presence_1
    return [
        (
            torch.stack([masks[at] for at in sorted(masks)]),
            sam.blanking(torch.stack([scores[at] for at in sorted(scores)])),
        )
        for masks, scores in zip(logits, presence, strict=True)
    ]
