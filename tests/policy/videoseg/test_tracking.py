"""Whole videos through SAM 2's memory: two objects as one target, none at all, frames of another size."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from configs.load import load_config
from cot_data.moving_shapes.render import background, draw_scene, scene_masks
from cot_data.moving_shapes.scene import Scene, Shape
from cot_data.traces.dialogue import to_trajectory
from cot_data.traces.write import write_trace
from env.actions import parse_action
from env.frames import FrameCache, FrameCaches, probe
from env.rle import decode_tracklet, encode, is_empty, union
from env.types import Action, Answer, Decision, Interval, Observation, StopReason, Task, Trajectory, Turn, VideoRef
from policy import SHIPPED
from policy.sam.losses import binary_masks, mask_losses
from policy.sam.prompts import MaskPrompt
from policy.videoseg.checkpoint import load_policy
from policy.videoseg.model import SegPolicy
from policy.videoseg.tracking import _MaskWriter, propagate, track, with_masks
from rl.evaluation.trajectory_metrics import measure
from tests.helpers.sam_parts import track_videos

SIDE, NUM_FRAMES, KEY = 128, 12, 5
TWO_SEGS = (
    "<think>Step 1: both. Step 2: both. Step 3: both. Action: answer.</think>\n"
    '<answer><VTG>{"start": 0, "end": 11, "keyframe": 5}</VTG>, <RefSeg>[SEG][SEG]</RefSeg></answer>'
)


@cache
def scene() -> Scene:
    """Three shapes that never meet, at twice the size of Moving Shapes."""
    way_T = np.linspace(0, 1, NUM_FRAMES)[:, None]
    present_T = np.ones(NUM_FRAMES, bool)
    red = np.array([28, 30]) + way_T * [40, 0]
    blue = np.array([96, 96]) - way_T * [0, 26]
    green = np.array([30, 98]) + way_T * [6, 0]
    shapes = (
        Shape("red", "dark", "circle", 22.0, red, present_T),
        Shape("blue", "light", "square", 22.0, blue, present_T),
        Shape("green", "light", "cross", 20.0, green, present_T),
    )
    return Scene(NUM_FRAMES, SIDE, shapes)


@cache
def gold_NTHW() -> np.ndarray:
    """Visible masks [objects, frames, SIDE, SIDE]."""
    return scene_masks(scene())[0]


def write_video(folder: Path, side: int) -> VideoRef:
    """Write the scene as PNG files of `side` pixels, averaged down from its own size."""
    folder.mkdir()
    for at, frame in enumerate(draw_scene(scene(), background(np.random.default_rng(0), SIDE))):
        Image.fromarray(frame).resize((side, side), Image.Resampling.BOX).save(folder / f"{at:05d}.png")
    return probe(folder)


def answered(video: VideoRef, gold_THW: np.ndarray, decision: Decision | None = None) -> Trajectory:
    """Return a trajectory of one turn, whose decision is an answer with the key frame if none is given."""
    task = Task("set/v/0", video, "the shapes", tuple(encode(mask) if mask.any() else None for mask in gold_THW))
    turn = Turn(Observation(()), Action(""), decision or Answer(Interval(0, NUM_FRAMES), KEY))
    return Trajectory("-1/set/v/0/0", task, -1, 0, [turn], StopReason.ANSWERED)


def masks_THW(trajectory: Trajectory) -> np.ndarray:
    video = trajectory.task.video
    return decode_tracklet([trajectory.masks[at] for at in range(video.num_frames)], (video.height, video.width))


@pytest.fixture(scope="module")
def policy() -> SegPolicy:
    return load_policy(SHIPPED).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> VideoRef:
    return write_video(tmp_path_factory.mktemp("segment") / "large", SIDE)


def learn(losses: Callable[[torch.Tensor], torch.Tensor], policy: SegPolicy, steps: int) -> torch.Tensor:
    """Return a prompt [C] that makes `losses` small; the policy's trainable parameters are trained with it."""
    prompt_1C = torch.zeros(1, policy.sam.hidden_dim, requires_grad=True)
    decoder = {"params": [p for p in policy.sam.parameters() if p.requires_grad], "lr": 1e-3}
    optimizer = torch.optim.Adam([{"params": [prompt_1C], "lr": 0.1}, decoder])
    for _ in range(steps):
        optimizer.zero_grad()
        losses(prompt_1C).sum().backward()
        optimizer.step()
    return prompt_1C.detach()[0]


def prompt_for(policy: SegPolicy, video: VideoRef, target_HW: np.ndarray) -> torch.Tensor:
    """Return a prompt [C] for which SAM 2, unchanged, gives `target_HW` on the key frame, which may be empty."""
    features, gold_1HW = policy.sam.encode_frames([FrameCache().full(video, KEY)]), torch.tensor(target_HW)[None]

    def losses(prompt_1C: torch.Tensor) -> torch.Tensor:
        masks = policy.sam.decode(features, MaskPrompt.language(prompt_1C))
        return sum_of(mask_losses(masks.logits_NHW, masks.presence_N, gold_1HW))

    return learn(losses, policy, 120)


def trained_prompt(policy: SegPolicy, video: VideoRef, target_THW: np.ndarray) -> torch.Tensor:
    """Return a prompt [C] for `target_THW`; prompt and mask decoder are trained on three tracked frames."""
    frames = [0, KEY, NUM_FRAMES - 1]
    features = policy.sam.encode_frames([FrameCache().full(video, at) for at in frames])
    gold_THW = torch.tensor(target_THW[frames])
    policy.sam.sam_mask_decoder.requires_grad_(True)  # after the features, two levels of which pass through it

    def losses(prompt_1C: torch.Tensor) -> torch.Tensor:
        ((logits_Thw, presence_T),) = track_videos(policy.sam, [features], prompt_1C, [1])
        return sum_of(mask_losses(logits_Thw, presence_T, gold_THW)) / len(frames)

    return learn(losses, policy, 20)


def sum_of(losses: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """BCE, dice and presence losses of all masks."""
    return torch.stack(losses).sum()


def recalls_T(found_THW: np.ndarray, object_THW: np.ndarray) -> np.ndarray:
    """Return the part of an object's pixels that is found, by frame."""
    return (found_THW & object_THW).sum((1, 2)) / object_THW.sum((1, 2))


def test_one_object_is_followed_and_no_other(policy: SegPolicy, video: VideoRef):
    red_THW, blue_THW, _ = gold_NTHW()
    trajectory = answered(video, red_THW)
    propagate(policy, [(trajectory, prompt_for(policy, video, red_THW[KEY]))], FrameCache())
    assert trajectory.turns[-1].key_mask == trajectory.masks[KEY]
    assert measure(trajectory)["j"] > 0.9
    assert recalls_T(masks_THW(trajectory), blue_THW).max() < 0.05


def test_two_objects_are_one_target(policy: SegPolicy, video: VideoRef):
    """One [SEG] for both. The shipped SAM 2 knows single shapes only, so a copy of it is trained on three of the
    twelve frames."""
    red_THW, blue_THW, green_THW = gold_NTHW()
    parts = [(encode(red), encode(blue)) for red, blue in zip(red_THW, blue_THW, strict=True)]
    trajectory = answered(video, red_THW | blue_THW)
    assert trajectory.task.gold == tuple(union(pair) for pair in parts)
    trained = copy.deepcopy(policy)
    prompt_C = trained_prompt(trained, video, red_THW | blue_THW)
    propagate(trained, [(trajectory, prompt_C)], FrameCache())
    found_THW = masks_THW(trajectory)
    assert min(recalls_T(found_THW, red_THW).min(), recalls_T(found_THW, blue_THW).min()) > 0.9
    assert recalls_T(found_THW, green_THW).max() < 0.05
    assert measure(trajectory)["j"] > 0.9


def test_a_turn_with_two_segs_is_no_prompt(policy: SegPolicy, video: VideoRef):
    decision = parse_action(TWO_SEGS, NUM_FRAMES)
    trajectory = answered(video, gold_NTHW()[0] | gold_NTHW()[1], decision)
    list(with_masks(policy, [trajectory], FrameCaches(FrameCache(), FrameCache())))
    assert (trajectory.masks, trajectory.turns[-1].key_mask) == ({}, None)
    row = measure(trajectory)
    assert (row["jf"], row["format"]) == (0.0, 0.0)


def test_a_prompt_that_nothing_answers_to_gives_empty_masks(policy: SegPolicy, video: VideoRef):
    nothing_THW = np.zeros((NUM_FRAMES, SIDE, SIDE), bool)
    trajectory = answered(video, nothing_THW)
    propagate(policy, [(trajectory, prompt_for(policy, video, nothing_THW[KEY]))], FrameCache())
    assert sorted(trajectory.masks) == list(range(NUM_FRAMES))
    assert all(is_empty(mask) for mask in trajectory.masks.values())
    assert is_empty(trajectory.turns[-1].key_mask)
    assert measure(trajectory)["jf"] == 1.0


def spoken(policy: SegPolicy, video: VideoRef, shape_idx: int) -> Trajectory:
    """Return the prediction for a written answer about one shape: the policy's own [SEG], then SAM 2."""
    side = video.width
    gold_THW = gold_NTHW()[shape_idx].reshape(NUM_FRAMES, side, SIDE // side, side, SIDE // side).mean((2, 4)) > 0.5
    caption = scene().shapes[shape_idx].caption
    gold = tuple(encode(mask) for mask in gold_THW)
    task = Task(f"set/v/{shape_idx}", video, f"the {caption} shape", gold, "appearance", caption=caption)
    env = load_config("tiny").env
    trajectory = to_trajectory(write_trace(task, env, np.random.default_rng(0), "brief"), task, env)
    (segmented,) = with_masks(policy, [trajectory], FrameCaches(FrameCache(), FrameCache()))
    return segmented


def intersection_over_union(first_THW: np.ndarray, second_THW: np.ndarray) -> float:
    return float((first_THW & second_THW).sum() / (first_THW | second_THW).sum())


@pytest.mark.parametrize("shape_idx", range(3))
def test_masks_are_stable_under_another_frame_size(policy: SegPolicy, video: VideoRef, shape_idx: int, tmp_path: Path):
    """The policy is shown frames of the same size in both cases; SAM 2 gets the frames of 64 pixels enlarged."""
    small = write_video(tmp_path / "small", SIDE // 2)
    large_THW, small_THW = (masks_THW(spoken(policy, ref, shape_idx)) for ref in (video, small))
    grown_THW = small_THW.repeat(2, 1).repeat(2, 2)
    assert intersection_over_union(large_THW, grown_THW) > 0.9
    assert intersection_over_union(large_THW, gold_NTHW()[shape_idx]) > 0.9


# ---- memory ----


def long_video(folder: Path, count: int) -> VideoRef:
    folder.mkdir()
    for at in range(count):
        pixels = np.full((SIDE, SIDE, 3), 90, np.uint8)
        pixels[20:60, at : at + 40] = (220, 30, 30)
        Image.fromarray(pixels).save(folder / f"{at}.png")
    return probe(folder)


def tracked(policy: SegPolicy, video: VideoRef, keys: list[int]) -> list[Trajectory]:
    gold_THW = np.zeros((video.num_frames, SIDE, SIDE), bool)
    trajectories = [answered(video, gold_THW, Answer(Interval(0, 5), key)) for key in keys]
    generator = torch.Generator().manual_seed(0)
    prompts = [2 * torch.randn(policy.sam.hidden_dim, generator=generator) for _ in keys]
    return list(track(policy, trajectories, prompts, FrameCache()))


def test_a_long_video_has_the_masks_of_a_short_one(policy: SegPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With little memory: objects are tracked one at a time, and two chunks are kept."""
    video = long_video(tmp_path / "long", 24)
    keys = [0, 12, 23]
    whole = tracked(policy, video, keys)
    monkeypatch.setattr("policy.videoseg.tracking.MAX_PIXELS", 16 * policy.sam.image_size**2)
    lengths: list[int] = []
    propagated = propagate

    def counted(policy: SegPolicy, prompted: list, frames: FrameCache) -> None:
        lengths.append(len(prompted))
        propagated(policy, prompted, frames)

    monkeypatch.setattr("policy.videoseg.tracking.propagate", counted)
    for one, other in zip(whole, tracked(policy, video, keys), strict=True):
        assert list(one.masks) == list(other.masks) == list(range(24))
        differing = (masks_THW(one) != masks_THW(other)).mean()
        assert differing < 1e-4, "other objects beside it change the last bits of logits"
    assert lengths == [1, 1, 1]
    assert any(not is_empty(mask) for one in whole for mask in one.masks.values())


def test_features_and_masks_do_not_pile_up(policy: SegPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a long video, two chunks of features and a few waiting masks live at once, whatever its length."""
    most = {"features": 0, "waiting": 0}
    encode_frames, add = policy.sam.encode_frames, _MaskWriter.add
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()

    def encoded(frames: list[np.ndarray]):
        features = encode_frames(frames)
        alive.add(features.levels[0])
        most["features"] = max(most["features"], len(alive))
        return features

    def added(writer: _MaskWriter, *logits) -> None:
        add(writer, *logits)
        most["waiting"] = max(most["waiting"], len(writer._waiting))

    monkeypatch.setattr(policy.sam, "encode_frames", encoded)
    monkeypatch.setattr(_MaskWriter, "add", added)
    monkeypatch.setattr("policy.videoseg.tracking.MAX_PIXELS", 32 * policy.sam.image_size**2)
    monkeypatch.setattr("policy.videoseg.tracking.MASK_PIXELS", 3 * SIDE**2)
    tracked(policy, long_video(tmp_path / "long", 70), [44])
    assert most == {"features": 2, "waiting": 2}  # the third mask is encoded at once


@pytest.mark.parametrize("size", [(48, 80), (97, 61), (16, 16)])
def test_masks_encoded_a_few_at_a_time_are_those_of_all_at_once(size: tuple[int, int], monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits, presence = torch.randn(7, 32, 32, generator=generator), torch.tensor([1.0, -1, 2, 0, 3, 1, 1])
    expected = binary_masks(logits, presence, *size).numpy()
    video = VideoRef("", "v", (), 7, *size)
    for at_once in (1, 2, 3, 100):
        monkeypatch.setattr("policy.videoseg.tracking.MASK_PIXELS", at_once * size[0] * size[1])
        writer = _MaskWriter(video, lambda presence_N: presence_N)
        for at in (3, 3, 4, 2, 5, 1, 6, 0):
            writer.add(at, logits[at], presence[at])
        found = writer.finish()
        assert list(found) == list(range(7))
        assert all(found[at] == encode(expected[at]) for at in range(7))
