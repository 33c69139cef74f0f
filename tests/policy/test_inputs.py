"""Inputs of the language model: patches, tokens, sequences and adapters, each against the original or by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Qwen2VLImageProcessor

from configs.policy_schema import PolicyConfig, SamConfig
from env.types import Action, Answer, FrameRef, Interval, Observation, Select, Task, Trajectory, Turn, VideoRef
from policy.videoseg.checkpoint import build_small
from policy.vlm.batch import pack, to_sequence
from policy.vlm.chat_tokens import ChatTokens, expand_image_pads
from policy.vlm.patches import PatchLayout
from policy.vlm.tokenizer import TAGS, train_tokenizer
from tests.helpers.closeness import FEW_STEPS, assert_close_to_scale, relative_difference

SAM = SamConfig(image_size=64, hidden=32, embed=16)
TRACE = (
    "<think>Step 1: red circle 3 to 17. Step 2: frame 12 upper left. Step 3: red circle. Action: answer.</think>\n"
    '<answer><VTG>{"start": 3, "end": 17, "keyframe": 12}</VTG>, <RefSeg>[SEG]</RefSeg></answer>'
)


@pytest.fixture(scope="module")
def chat() -> ChatTokens:
    return ChatTokens(train_tokenizer([TRACE, "the red circle that moves to the left"], 700))


# ---- patches and tokens ----


@pytest.mark.parametrize(("patch", "temporal", "size"), [(8, 1, (32, 48)), (8, 1, (64, 16)), (16, 2, (64, 96))])
def test_patches_equal_those_of_the_image_processor(patch: int, temporal: int, size: tuple[int, int]):
    layout = PatchLayout(patch, 2, temporal)
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    sizes = {"patch_size": patch, "merge_size": 2, "temporal_patch_size": temporal}
    processor = Qwen2VLImageProcessor(**sizes, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_resize=False)  # pyright: ignore
    wanted = processor(images=[frame], return_tensors="pt")
    assert_close_to_scale(layout.patchify(frame), wanted["pixel_values"], FEW_STEPS)
    assert list(layout.grid(*size)) == wanted["image_grid_thw"][0].tolist()
    assert layout.num_tokens(*size) == wanted["image_grid_thw"][0].prod() // 4


def test_a_frame_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"40x32 pixels: sides must be multiples of 16 \(env.size_factor\)"):
        PatchLayout(8, 2, 1).patchify(np.zeros((32, 40, 3), np.uint8))


def test_image_pads_are_expanded_in_order():
    assert expand_image_pads([7, 9, 8, 9], [2, 3], 9) == [7, 9, 9, 8, 9, 9, 9]
    assert expand_image_pads([7, 8], [], 9) == [7, 8]
    with pytest.raises(ValueError, match="2 image pads for 1 frames"):
        expand_image_pads([9, 9], [4], 9)


def test_tags_digits_and_frame_indices_are_single_tokens(chat: ChatTokens):
    tags = [text for tag in TAGS for text in (f"<{tag}>", f"</{tag}>")]
    for text in (*tags, "[SEG]", '{"start":', ', "end":', ', "keyframe":'):
        assert len(chat.encode(text)) == 1, text
    for number in range(160):
        in_json, in_text = chat.encode(f'{{"start": {number}, "end": 7}}'), chat.encode(f" {number}")
        assert in_json[1] == in_text[0], "one token everywhere, so that it can be copied"
        assert len(chat.encode(str(number))) == 1
        assert len(chat.encode(f" {number}")) == 1
        assert [chat.tokenizer.decode(token) for token in chat.encode(f"frame {number}.")][-2:] == [f" {number}", "."]


def test_an_action_survives_its_tokens(chat: ChatTokens):
    ids = chat.action_ids(TRACE)
    assert ids[-1] == chat.end_id and ids.count(chat.seg_id) == 1
    assert chat.decode_action(ids) == TRACE
    odd = 'caf\u00e9 <b> \u4e2d {"x": 1}  two  spaces\n'
    assert chat.decode_action(chat.action_ids(odd)) == odd
    assert not set(chat.banned_ids) & {chat.seg_id, chat.end_id}


# ---- sequences ----


def three_turns(chat: ChatTokens) -> Trajectory:
    """Three turns in raw ids: frames of 2, 1 and 4 tokens; the second turn was cut off before its [SEG]."""
    video = VideoRef("/none", "v", ("0", "1"), 2, 32, 32)
    pad, seg, end = chat.image_pad_id, chat.seg_id, chat.end_id
    answer = Answer(Interval(0, 2), 1)

    def turn(frames: list[tuple[int, int]], before: tuple[int, ...], after: tuple[int, ...]) -> Turn:
        refs = tuple(FrameRef(0, width, height, "strip") for width, height in frames)
        return Turn(Observation(refs), Action("", after, (0.0,) * len(after)), answer, before)

    turns = [
        turn([(32, 16)], (40, pad, 41), (50, seg, end)),
        turn([(16, 16)], (42, pad), (51,)),
        turn([(32, 32), (16, 16)], (pad, 43, pad, 44), (52, 53, seg, end)),
    ]
    turns[0].decision = Select(Interval(0, 2), 1)
    return Trajectory("0/t/0", Task("t", video, "q", ()), 0, 0, turns)


def test_three_turns_as_one_sequence(chat: ChatTokens):
    pad, seg, end = chat.image_pad_id, chat.seg_id, chat.end_id
    sequence = to_sequence(three_turns(chat), chat, PatchLayout(8, 2, 1))
    first = [40, pad, pad, 41, 50, seg, end]
    second = [42, pad, 51]
    third = [pad, pad, pad, pad, 43, pad, 44, 52, 53, seg, end]
    assert list(sequence.ids) == first + second + third
    assert list(sequence.turn_idx) == [-1] * 4 + [0] * 3 + [-1] * 2 + [1] + [-1] * 7 + [2] * 4
    assert [at for at, trained in enumerate(sequence.loss_mask) if trained] == [4, 5, 6, 9, 17, 18, 19, 20]
    assert sequence.seg_positions == (5, 19)
    assert sequence.seg_turns == (0, 2)
    assert [(frame.width, frame.height) for frame in sequence.frames] == [(32, 16), (16, 16), (32, 32), (16, 16)]


def test_a_sequence_whose_pads_and_frames_disagree_is_refused(chat: ChatTokens):
    trajectory = three_turns(chat)
    trajectory.turns[1].observation = Observation(())
    with pytest.raises(ValueError, match="1 image pads for 0 frames"):
        to_sequence(trajectory, chat, PatchLayout(8, 2, 1))
    trajectory = three_turns(chat)
    forged = replace(trajectory.turns[1].action, token_ids=(chat.image_pad_id,))
    trajectory.turns[1].action = forged
    with pytest.raises(ValueError, match="0/t/0, turn 1: the action holds an image pad"):
        to_sequence(trajectory, chat, PatchLayout(8, 2, 1))


def test_packing_keeps_every_row_and_the_limit():
    assert pack([5, 9, 2, 4], 10) == [[1], [0, 3], [2]]
    assert pack([5, 9, 2, 4], 1) == [[1], [0], [3], [2]]
    assert pack([5, 9, 2, 4], 36) == [[1, 0, 3, 2]]


# ---- LoRA ----


def test_lora_trains_adapters_only_and_exports_them_merged():
    config = PolicyConfig(vocab_size=700, hidden=64, layers=1, vision_hidden=32, vision_layers=1, sam=SAM)
    plain = build_small(config, [TRACE], seed=0)
    adapted = build_small(replace(config, lora_rank=2, lora_alpha=6), [TRACE], seed=0)
    trained = [name for name, parameter in adapted.vlm.named_parameters() if parameter.requires_grad]
    assert trained and all(".lora_" in name for name in trained)
    assert not [name for name in trained if "visual" in name]
    parts = dict(adapted.vlm.named_parameters())
    name = "model.language_model.layers.0.self_attn.q_proj"
    low, high = parts[f"{name}.lora_A.default.weight"], parts[f"{name}.lora_B.default.weight"]
    with torch.no_grad():
        high.normal_(generator=torch.Generator().manual_seed(5))
    before, after = plain.export_weights(), adapted.export_weights()
    assert before.keys() == after.keys()
    assert_close_to_scale(after[f"{name}.weight"], before[f"{name}.weight"] + 3 * high @ low, FEW_STEPS)
    assert relative_difference(before[f"{name}.weight"] + 2.99 * high @ low, after[f"{name}.weight"]) > 10 * FEW_STEPS
    assert [key for key in before if not torch.equal(before[key], after[key])] == [f"{name}.weight"]
