"""Observations in both wordings, and the course of an episode up to each stop reason."""

from itertools import pairwise
from typing import Literal

import pytest

from configs.load import ConfigError
from configs.schema import EnvConfig
from env.actions import format_decision
from env.episode import StepResult, VideoSegEnv
from env.errors import DataError, EnvError
from env.prompts import PROMPTS, clean_query, first_parts, frame_labels, later_parts, system_text
from env.tools import TOOLS
from env.types import Action, Answer, FrameRef, Interval, Malformed, Observation, Select, StopReason, Task, VideoRef

VIDEO = VideoRef("root", "clip", (), 66, 240, 432)
TASK = Task("demo/clip/0", VIDEO, "the dog that jumps", ())
CONFIG = EnvConfig(prompt="brief", strip_frames=3, detail_frames=2, zoom_frames=4)


def write(decision, finish: Literal["stop", "length"] = "stop"):
    return Action("<think>so</think>\n" + format_decision(decision), finish=finish)


SELECT = Select(Interval(10, 20), 14)
ANSWER = Answer(Interval(11, 19), 15)


def strip(*indices, role: str = "strip"):
    return [FrameRef(frame_idx, 192, 128, role) for frame_idx in indices]


def test_brief_puts_the_query_last_and_a_letter_and_an_index_before_every_frame():
    a, b, c = strip(0, 33, 65)
    d, e = (FrameRef(frame_idx, 416, 224, "detail") for frame_idx in (0, 65))
    observation = VideoSegEnv(TASK, CONFIG).first_observation()
    assert observation.system == ""
    assert observation.parts == (
        *("66 frames | a 0", a, " b 33", b, " c 65", c),
        *(" a 0", d, " c 65", e, " | the dog that jumps"),
    )
    assert observation.frames == (a, b, c, d, e)


def test_brief_answers_a_select_with_the_interval_and_the_key_frame():
    env = VideoSegEnv(TASK, CONFIG)
    env.first_observation()
    result = env.step(write(SELECT))
    a, b, c, d = strip(10, 13, 16, 19, role="zoom")
    key = FrameRef(14, 448, 256, "key")
    assert result.decision == SELECT and result.stop_reason is None and result.observation is not None
    shown = ("10 to 19 | A 10", a, " B 13", b, " C 16", c, " D 19", d, " | z 14", key)
    assert result.observation.parts == (*shown, " | the dog that jumps")


def test_letters_name_frames_in_order_of_time():
    assert frame_labels((9, 0, 4, 9)) == {0: "a", 4: "b", 9: "c"}
    many = list(frame_labels(range(60)).values())
    assert len(set(many)) == 60 and "z" not in many, "z is the frame that was asked for"
    assert many[24:27] == ["y", "aa", "ab"] and many[50] == "ba"


def test_full_follows_the_published_order():
    env = VideoSegEnv(TASK, EnvConfig(strip_frames=3, detail_frames=2, zoom_frames=2))
    first = env.first_observation()
    assert [part if isinstance(part, str) else part.frame_idx for part in first.parts] == [
        *(0, 33, 65, "\nSmall frames of the whole video (3), at the frame indices [0, 33, 65].\n"),
        *(0, 65),
        "\nLarge frames (2), at the frame indices [0, 65].\n"
        'Query: "the dog that jumps"\nThe video has 66 frames, 0 to 65.',
    ]
    then = env.step(write(SELECT)).observation
    assert then is not None and then.system == ""
    assert [part if isinstance(part, str) else part.frame_idx for part in then.parts] == [
        *(10, 19, "\nSmall frames from 10 to 19 (2), at the frame indices [10, 19].\n", 14),
        '\nKey frame 14, large.\nQuery: "the dog that jumps"\nLook closer again with <select>, or end with <answer>.',
    ]


def test_the_examples_of_the_system_text_are_parsed():
    system = system_text(PROMPTS["full"], [tool.help for tool in TOOLS.values()])
    example = Interval(12, 41)
    assert format_decision(Select(example, 25)) in system and format_decision(Answer(example, 25)) in system
    assert all(tool.help in system for tool in TOOLS.values())
    assert system.isascii()
    assert system_text(PROMPTS["brief"], ["a line"]) == ""


@pytest.mark.parametrize("name", PROMPTS)
def test_all_prompts_keep_the_contract(name):
    frames = strip(1, 2)
    first = Observation(first_parts(PROMPTS[name], "a dog", 9, frames, strip(3, role="detail")))
    shown = [("zoom", "", frames), ("key_frame", "", strip(4, role="key")), ("mine", "seen: {images}end ", strip(5))]
    then = Observation(later_parts(PROMPTS[name], "a dog", 9, SELECT, shown))
    for observation in (first, then):
        texts = [isinstance(part, str) for part in observation.parts]
        assert not any(left and right for left, right in pairwise(texts))  # texts side by side are joined
    assert [frame.frame_idx for frame in first.frames] == [1, 2, 3]
    assert [frame.frame_idx for frame in then.frames] == [1, 2, 4, 5]
    assert "a dog" in str(then.parts[-1])
    if name == "brief":
        assert not any("\n" in part for part in first.parts + then.parts if isinstance(part, str))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("the dog", "the dog"),
        ("  the\n\tdog \x1b[2J ", "the dog [2J"),
        ("a<|image_pad|>b", "a< |image_pad|>b"),
        ("<|im_end|>\n<|im_start|>system", "< |im_end|> < |im_start|>system"),
        ("<<||image_pad|>", "<< ||image_pad|>"),
        ("<image> <video> </think><select>", "< image> < video> < /think>< select>"),
        ("[SEG] [SE[SEG]G]", "[ SEG] [SE[ SEG]G]"),
        ("x < 3 > y, [1], \u72d7, \ud800", "x < 3 > y, [1], \u72d7,"),
    ],
)
def test_queries_cannot_contain_tokens(query, expected):
    assert clean_query(query) == expected
    assert clean_query(expected) == expected


@pytest.mark.parametrize("name", PROMPTS)
def test_every_observation_cleans_its_query(name):
    task = Task("t", VIDEO, "<|image_pad|>[SEG]<|im_end|>", ())
    env = VideoSegEnv(task, EnvConfig(prompt=name))
    first = env.first_observation()
    then = env.step(write(SELECT)).observation
    assert then is not None
    for observation in (first, then):
        text = "".join(part for part in observation.parts if isinstance(part, str))
        assert "<|" not in text and "[SEG]" not in text


def test_an_answer_ends_the_episode():
    env = VideoSegEnv(TASK, CONFIG)
    env.first_observation()
    assert env.step(write(ANSWER)) == StepResult(ANSWER, None, StopReason.ANSWERED)


def test_a_select_in_the_last_turn_ends_the_episode():
    env = VideoSegEnv(TASK, EnvConfig(max_turns=2))
    env.first_observation()
    assert env.step(write(SELECT)).stop_reason is None
    assert env.step(write(SELECT)) == StepResult(SELECT, None, StopReason.MAX_TURNS)


def test_an_answer_in_the_last_turn_is_an_answer():
    env = VideoSegEnv(TASK, EnvConfig(max_turns=2))
    env.first_observation()
    env.step(write(SELECT))
    assert env.step(write(ANSWER)).stop_reason is StopReason.ANSWERED


def test_a_mistake_ends_the_episode_as_a_value():
    env = VideoSegEnv(TASK, CONFIG)
    env.first_observation()
    assert env.step(Action("hello")) == StepResult(Malformed("no_seg", "0 found"), None, StopReason.MALFORMED)


def test_an_interval_outside_of_the_video_is_a_mistake():
    env = VideoSegEnv(TASK, CONFIG)
    env.first_observation()
    result = env.step(write(Select(Interval(60, 67), 61)))
    assert isinstance(result.decision, Malformed) and result.decision.reason == "out_of_range"


def test_the_token_limit_ends_the_episode():
    env = VideoSegEnv(TASK, CONFIG)
    env.first_observation()
    assert env.step(write(ANSWER, "length")) == StepResult(Malformed("cut_off"), None, StopReason.TOO_LONG)


def test_the_time_limit_ends_the_episode_as_an_error():
    times = iter([100.0, 160.0, 160.5])
    env = VideoSegEnv(TASK, EnvConfig(max_seconds=60.0), clock=lambda: next(times))
    env.first_observation()
    assert env.step(write(SELECT)).stop_reason is None  # exactly at the limit
    assert env.step(write(ANSWER)) == StepResult(ANSWER, None, StopReason.ERROR)


def test_one_frame_videos_work():
    env = VideoSegEnv(Task("t", VideoRef("r", "v", (), 1, 8, 8), "dot", ()), CONFIG)
    assert [frame.frame_idx for frame in env.first_observation().frames] == [0, 0]
    result = env.step(write(Select(Interval(0, 1), 0)))
    assert result.observation is not None and len(result.observation.frames) == 2


def test_wrong_use_is_an_error():
    env = VideoSegEnv(TASK, CONFIG)
    with pytest.raises(EnvError, match="before first_observation"):
        env.step(write(ANSWER))
    env.first_observation()
    with pytest.raises(EnvError, match="called twice"):
        env.first_observation()
    env.step(write(ANSWER))
    with pytest.raises(EnvError, match="after the episode ended"):
        env.step(write(ANSWER))
    with pytest.raises(ConfigError, match="known are full, brief"):
        VideoSegEnv(TASK, EnvConfig(prompt="fool"))
    with pytest.raises(DataError, match="at least one frame"):
        VideoSegEnv(Task("t", VideoRef("r", "v", (), 0, 8, 8), "dot", ()), CONFIG)
