"""Masks of a checkpoint as it was trained: one or the best of three, and the three ways to handle the object score.

Held against the predictors of the `sam2` package, as their config files build them, with the same weights and with a
language token put in. Official sizes have random weights in official shapes.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sam2.sam2_image_predictor import SAM2ImagePredictor
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch import Tensor

from configs.load import ConfigError
from configs.policy_schema import SamConfig
from policy.sam.build import MASKS, PRESENCE, build_sam
from policy.sam.losses import binary_masks, mask_losses
from policy.sam.model import DecodedMasks, SegSam2
from policy.sam.prompts import MaskPrompt
from policy.sam.track_state import TrackSettings
from policy.sam.tracking import track_objects
from tests.helpers.sam_parts import (
    SAM,
    filled,
    noise,
    published_predictor,
    stock_logits_apart,
    track_videos,
    with_tokens,
    write_frames,
)

CLOSE = 1e-4  # of the largest logit
LENGTH = {"small": 5, "sam2_hiera_t": 2}  # tracking a frame at official size takes seconds


class Parts:
    """A SAM 2 of one size with its frames, and the package's own predictor with the same weights."""

    def __init__(self, variant: str, folder: Path):
        self.sam = filled(build_sam(SAM if variant == "small" else SamConfig(variant=variant)), seed=3)
        self.side = self.sam.image_size
        self.folder = folder
        self.frames = write_frames(folder, LENGTH[variant], self.side)
        self.tokens_NC = noise("tokens", (3 if variant == "small" else 2, self.sam.hidden_dim), 5)
        with torch.no_grad():
            self.features = self.sam.encode_frames(self.frames)
            self._centre_score()
        self.predictor = published_predictor(self.sam)
        self._tracks: dict[tuple[int, str, str], Tensor] = {}
        self.key = LENGTH[variant] // 2 if variant == "small" else 0
        encode = self.predictor.forward_image
        known: dict[float, dict[str, Any]] = {}

        def forward_image(image: Tensor) -> dict[str, Any]:
            key = image.sum().item()
            if key not in known:
                known[key] = encode(image)
            return dict(known[key])

        self.predictor.forward_image = forward_image  # pyright: ignore[reportAttributeAccessIssue]

    def _centre_score(self) -> None:
        """Shift the object score so that half of the objects are present in the first frame."""
        score: Any = self.sam.sam_mask_decoder.pred_obj_score_head
        score.layers[-1].bias.sub_(self.decoded("single").presence_N.median() + 1e-3)

    def of(self, masks: str, presence: str = "blank") -> SegSam2:
        """Return the SAM 2 as that of a checkpoint with these properties."""
        self.sam.built_from = replace(self.sam.built_from, masks=masks, presence=presence)
        return self.sam

    @torch.no_grad()
    def decoded(self, masks: str, presence: str = "blank") -> DecodedMasks:
        """Decode every token on the first frame."""
        features = self.features.pick(torch.zeros(len(self.tokens_NC), dtype=torch.long))
        return self.of(masks, presence).decode(features, MaskPrompt.language(self.tokens_NC))

    @torch.no_grad()
    def tracked(self, row: int, masks: str, presence: str) -> Tensor:
        """Logits [T, side, side] of one object tracked both ways from the key frame, with the predictor's precision."""
        if (row, masks, presence) not in self._tracks:
            self._tracks[row, masks, presence] = self._track(self.tokens_NC[row], masks, presence)
        return self._tracks[row, masks, presence]

    def _track(self, token_C: Tensor, masks: str, presence: str) -> Tensor:
        sam = self.of(masks, presence)
        settings = replace(TrackSettings.of(sam.built_from), memory_dtype=torch.bfloat16)
        found = track_objects(sam, self.features, {self.key: MaskPrompt.language(token_C[None])}, settings)
        low_T1hw = torch.stack([each.logits_NHW for each in found])
        return F.interpolate(low_T1hw, (self.side, self.side), mode="bilinear", align_corners=False)[:, 0]


@pytest.fixture(scope="module", params=LENGTH)
def parts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts("small", tmp_path_factory.mktemp("frames"))


def difference(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, as a part of the largest logit that is no blank."""
    shown = wanted[wanted > -1000]
    return ((found - wanted).abs().max() / (shown.abs().max() if len(shown) else 1)).item()


# ---- one mask or the best of three ----


@torch.inference_mode()
def by_image_predictor(parts: Parts, token_C: Tensor, masks: str) -> Tensor:
    """Low-resolution logits [h, w] of the package's image predictor; its best mask where it gives three."""
    predictor = SAM2ImagePredictor(parts.predictor)
    predictor._bb_feat_sizes = [(parts.side // stride, parts.side // stride) for stride in (4, 8, 16)]
    plain = parts.predictor.sam_prompt_encoder.forward
    parts.predictor.sam_prompt_encoder.forward = with_tokens(plain, MaskPrompt.language(token_C[None]))
    predictor.set_image(parts.frames[0])
    _, scores, low = predictor.predict(np.zeros((1, 2)), np.array([-1]), multimask_output=masks == "best_of_three")
    parts.predictor.sam_prompt_encoder.forward = plain
    return torch.from_numpy(low[scores.argmax()])


@pytest.mark.parametrize("masks", MASKS)
def test_decoded_masks_equal_the_image_predictor(parts: Parts, masks: str) -> None:
    """It ignores the object score, as a decoded frame's logits do in every way to handle it."""
    ways = PRESENCE if parts.side < 1024 else ["memory"]
    found = {presence: parts.decoded(masks, presence).logits_NHW for presence in ways}
    other_NHW = parts.decoded(next(name for name in MASKS if name != masks)).logits_NHW
    for row, token_C in enumerate(parts.tokens_NC):
        wanted = by_image_predictor(parts, token_C, masks)
        assert wanted.abs().max() < 32, "the predictor cuts its logits there"
        for logits_NHW in found.values():
            assert difference(logits_NHW[row], wanted) < CLOSE
        assert difference(other_NHW[row], wanted) > 100 * CLOSE


# ---- the object score, and tracking ----


def released_heads(predictor: SAM2VideoPredictor):
    """Return `_forward_sam_heads` of the release (models_qwen3vl/sam2.py), whose lines that blank masks are comments.

    The package's own function leaves masks and pointers alone where `pred_obj_scores` is off.
    """
    plain = type(predictor)._forward_sam_heads

    def heads(**inputs: Any):
        predictor.pred_obj_scores = False
        *masks, obj_ptr, object_score_logits = plain(predictor, **inputs)
        predictor.pred_obj_scores = True
        is_appearing = (object_score_logits > 0).float()
        return *masks, is_appearing * obj_ptr + (1 - is_appearing) * predictor.no_obj_ptr, object_score_logits

    return heads


def by_video_predictor(parts: Parts, token_C: Tensor, masks: str, presence: str, monkeypatch: Any) -> Tensor:
    """Logits [T, side, side] of the package's video predictor."""
    predictor = parts.predictor
    with monkeypatch.context() as patch:
        patch.setattr(predictor, "multimask_output_in_sam", masks == "best_of_three")
        patch.setattr(predictor, "multimask_output_for_tracking", masks == "best_of_three")
        if presence == "ignore":  # the package's own switch
            patch.setattr(predictor, "pred_obj_scores", False)
            patch.setitem(predictor._parameters, "no_obj_embed_spatial", None)
        if presence == "memory":
            patch.setattr(predictor, "_forward_sam_heads", released_heads(predictor))
        return stock_logits_apart(predictor, parts.folder, parts.key, MaskPrompt.language(token_C[None]), True)[:, 0]


@pytest.mark.parametrize("presence", PRESENCE)
@pytest.mark.parametrize("masks", MASKS)
def test_tracks_equal_the_video_predictor(small: Parts, masks: str, presence: str, monkeypatch) -> None:
    others = [pair for pair in product(MASKS, PRESENCE) if pair != (masks, presence)]
    planted = dict.fromkeys(others, 0.0)
    for row, token_C in enumerate(small.tokens_NC):
        wanted = by_video_predictor(small, token_C, masks, presence, monkeypatch)
        assert difference(small.tracked(row, masks, presence), wanted) < CLOSE
        for pair in others:
            planted[pair] = max(planted[pair], difference(small.tracked(row, *pair), wanted))
    assert min(planted.values()) > 10 * CLOSE, planted


@pytest.mark.parametrize("masks", MASKS)
def test_tracks_at_official_size_equal_the_video_predictor(parts: Parts, masks: str, monkeypatch) -> None:
    absent = int(parts.decoded(masks).presence_N.argmin())
    wanted = by_video_predictor(parts, parts.tokens_NC[absent], masks, "memory", monkeypatch)
    assert wanted.min() > -1000, "no blanks"
    assert difference(parts.tracked(absent, masks, "memory"), wanted) < CLOSE


@torch.no_grad()
def test_videos_side_by_side_are_tracked_as_each_alone(small: Parts) -> None:
    for masks, presence in product(MASKS, PRESENCE):
        sam = small.of(masks, presence)
        for token_C in small.tokens_NC[:1]:
            ((logits_Thw, scores_T),) = track_videos(sam, [small.features], token_C[None], [small.key])
            settings = TrackSettings.of(sam.built_from)
            alone = track_objects(sam, small.features, {small.key: MaskPrompt.language(token_C[None])}, settings)
            assert difference(logits_Thw, torch.cat([each.logits_NHW for each in alone])) < CLOSE
            assert (scores_T is None) == (presence != "blank")


def test_a_mask_of_an_absent_object_is_blank_or_kept(small: Parts) -> None:
    found = small.decoded("single")
    is_absent_N = found.presence_N <= 0
    assert 0 < is_absent_N.sum() < len(is_absent_N)
    shown = (found.logits_NHW > 0).flatten(1).any(1)
    assert shown.all()
    for presence in PRESENCE:
        scores_N = small.of("single", presence).blanking(found.presence_N)
        masks = binary_masks(found.logits_NHW, scores_N, 40, 50).flatten(1).any(1)
        assert torch.equal(masks, ~is_absent_N if presence == "blank" else shown)


# ---- training ----


def trained_parts(sam: SegSam2, small: Parts, gold_NHW: Tensor) -> tuple[set[int], bool]:
    """Return the mask tokens whose masks get a gradient from the mask loss, and whether the object score gets one."""
    sam.zero_grad()
    features = small.features.pick(torch.zeros(len(small.tokens_NC), dtype=torch.long))
    found = sam.decode(features, MaskPrompt.language(small.tokens_NC))
    losses = mask_losses(found.logits_NHW, sam.blanking(found.presence_N), gold_NHW)
    sum((each.sum() for each in losses), torch.zeros(())).backward()
    decoder: Any = sam.sam_mask_decoder
    moved = {
        at
        for at, mlp in enumerate(decoder.output_hypernetworks_mlps)
        if any(part.grad is not None and part.grad.abs().max() > 0 for part in mlp.parameters())
    }
    score = [part.grad for part in decoder.pred_obj_score_head.parameters()]
    sam.zero_grad()
    return moved, any(each is not None and each.abs().max() > 0 for each in score)


@pytest.mark.parametrize("presence", PRESENCE)
@pytest.mark.parametrize("masks", MASKS)
def test_the_mask_that_is_shown_is_the_one_that_is_trained(small: Parts, masks: str, presence: str) -> None:
    sam = small.of(masks, presence)
    gold_NHW = torch.zeros(len(small.tokens_NC), 32, 32)
    gold_NHW[:, 8:20, 8:20] = 1
    moved, score = trained_parts(sam, small, gold_NHW)
    assert (moved == {0}) == (masks == "single")
    assert moved and (masks == "single" or moved <= {1, 2, 3})
    assert score == (presence == "blank")


@pytest.mark.parametrize("presence", PRESENCE)
def test_a_frame_without_the_target_trains_whatever_makes_its_mask_empty(small: Parts, presence: str) -> None:
    moved, score = trained_parts(small.of("single", presence), small, torch.zeros(len(small.tokens_NC), 32, 32))
    assert moved == (set() if presence == "blank" else {0})
    assert score == (presence == "blank")


def test_other_names_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"policy\.sam\.masks: unknown 'three'; known are single, best_of_three"):
        build_sam(replace(SAM, masks="three"))
    with pytest.raises(ConfigError, match=r"policy\.sam\.presence: unknown .*; known are blank, memory, ignore"):
        build_sam(replace(SAM, presence="released"))
