"""Tools: the default ones are as published, and a third one is a file and a line in `TOOLS`."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from configs.load import ConfigError, load_config
from configs.schema import EnvConfig
from cot_data.formats.vts_cot import Message, Record, TraceStep
from cot_data.traces.dialogue import to_trajectory
from cot_data.traces.write import write_trace
from docs.examples.crop_tool import CROP
from env.actions import format_decision, parse_action
from env.episode import VideoSegEnv
from env.errors import DataError
from env.frames import FrameCache, probe
from env.replay import main
from env.store import TrajectoryStore
from env.tools import TOOLS, enabled_tools, num_uses
from env.types import (
    Action,
    Answer,
    FrameRef,
    Interval,
    Malformed,
    Scores,
    Select,
    StopReason,
    Task,
    Trajectory,
    Turn,
    VideoRef,
)
from env.viewer.page import render_page, write_page
from env.viewer.play import play
from rl.evaluation.trajectory_metrics import measure
from rl.rollout.metrics import trajectory_metrics
from tests.helpers.browser import open_page
from tests.helpers.replay_samples import answer_text, box

VIDEO = VideoRef("root", "clip", (), 66, 240, 432)
# SHA-256 of all that the policy reads in three turns, taken before tools were entries. `policy/tiny` learnt from it.
PUBLISHED = {
    "videoseg_o3/2b_grpo": "6bf549dc4c36279a764d9b987b8bc6a994ab3ccc5945ea6eec529737a5a85919",
    "tiny": "c161c3622382d8bdf6ffd829483649e57c62624295ffad967a182e3d1a2ea151",
}
SELECT = Select(Interval(8, 25), 12, {"box": (250, 0, 500, 500)})
WRITTEN = '{"start": 8, "end": 24, "keyframe": 12, "box": [250, 0, 500, 500]}'


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> EnvConfig:
    """A config with the example tool: its file is docs/examples/crop_tool.py, its line is this one."""
    monkeypatch.setitem(TOOLS, "crop", CROP)
    return EnvConfig(prompt="brief", tools=("zoom", "key_frame", "crop"), zoom_frames=2, size_factor=4)


@pytest.fixture
def task(tmp_path) -> Task:
    """Forty frames of noise, 80x48; the target is the same box on frames 10 to 19."""
    folder = tmp_path / "clip"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for frame_idx in range(40):
        Image.fromarray(rng.integers(0, 256, (48, 80, 3), np.uint8)).save(folder / f"{frame_idx:05d}.png")
    gold = tuple(box(8, 8, 24, 40) if 10 <= frame_idx < 20 else None for frame_idx in range(40))
    return Task("made/clip/0", probe(folder), "the bright box", gold)


def select_action(fields: str = WRITTEN, block: str = "select") -> Action:
    return Action(f"<think>so</think>\n<{block}><VTG>{fields}</VTG>, <RefSeg>[SEG]</RefSeg></{block}>")


def cropped(task: Task, config: EnvConfig) -> Trajectory:
    """An episode that crops, then answers."""
    env = VideoSegEnv(task, config)
    trajectory = Trajectory("0/made/clip/0/0", task, 0, 0, stop_reason=StopReason.ANSWERED)
    observation = env.first_observation()
    for action in (select_action(), Action(answer_text(10, 19, 12))):
        assert observation is not None
        result = env.step(action)
        trajectory.turns.append(Turn(observation, action, result.decision))
        observation = result.observation
    return trajectory


def as_json(part: str | FrameRef) -> str | list[int | str]:
    return part if isinstance(part, str) else [part.frame_idx, part.width, part.height, part.role]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_default_tools_show_what_was_published(name: str):
    config = replace(load_config(name).env, frame_rounding="nearest", bounds="refuse")  # as they were at that time
    env = VideoSegEnv(Task("demo/clip/0", VIDEO, "the dog that jumps", ()), config)
    seen = [env.first_observation()]
    for select in (Select(Interval(10, 20), 14), Select(Interval(3, 4), 60)):
        observation = env.step(Action(f"<think>so</think>\n{format_decision(select)}")).observation
        assert observation is not None
        seen.append(observation)
    read = [[one.system, [as_json(part) for part in one.parts]] for one in seen]
    assert hashlib.sha256(json.dumps(read).encode()).hexdigest() == PUBLISHED[name]


@pytest.mark.parametrize(
    ("tools", "problem"),
    [
        (("zoom", "keyframe"), r"env\.tools: unknown 'keyframe'; known are zoom, key_frame; did you mean key_frame\?"),
        (("crop",), r"env\.tools: unknown 'crop'"),  # it is not in TOOLS by default
    ],
)
def test_an_unknown_tool_is_a_config_error(task: Task, tools: tuple[str, ...], problem: str):
    with pytest.raises(ConfigError, match=problem):
        VideoSegEnv(task, EnvConfig(tools=tools))


def test_a_tool_without_the_wording_of_the_prompt_is_a_config_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(TOOLS, "crop", replace(CROP, layout={"full": CROP.layout["full"]}))
    assert enabled_tools(EnvConfig(prompt="full", tools=("crop",)))
    with pytest.raises(
        ConfigError, match="expected one of full beside the tool 'crop', or a text for it in the file, got 'brief'"
    ):
        enabled_tools(EnvConfig(prompt="brief", tools=("crop",)))


def test_a_tool_named_twice_is_a_config_error():
    assert load_config("tiny", ["env.tools=[key_frame]"]).env.tools == ("key_frame",)
    with pytest.raises(ConfigError, match=r"env\.tools: expected each tool once, got zoom, zoom"):
        load_config("tiny", ["env.tools=[zoom,zoom]"])


def test_only_enabled_tools_are_told_and_shown(task: Task):
    env = VideoSegEnv(task, EnvConfig(tools=("key_frame",), size_factor=4))
    system = env.first_observation().system
    assert TOOLS["key_frame"].help in system and TOOLS["zoom"].help not in system
    result = env.step(Action(f"<think>so</think>\n{format_decision(Select(Interval(8, 25), 12))}"))
    assert result.observation is not None
    assert [(frame.role, frame.frame_idx) for frame in result.observation.frames] == [("key", 12)]


def test_written_traces_need_the_tools_that_they_use(task: Task):
    with pytest.raises(ConfigError, match="written traces use zoom and key_frame, got zoom"):
        write_trace(task, EnvConfig(tools=("zoom",)), np.random.default_rng(0), "full")


def test_the_crop_is_read_and_written(config: EnvConfig):
    tools = enabled_tools(config).values()
    assert parse_action(select_action().text, 40, tools=tools) == SELECT
    assert format_decision(SELECT) in select_action().text
    without = parse_action(select_action('{"start": 8, "end": 24, "keyframe": 12}').text, 40, tools=tools)
    assert without == Select(Interval(8, 25), 12)  # the box may be left out


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (WRITTEN.replace("500, 500", "500, 1001"), "out_of_range"),
        (WRITTEN.replace("[250", "[-1"), "out_of_range"),
        (WRITTEN.replace("[250", "[500"), "out_of_range"),  # empty
        (WRITTEN.replace("[250, ", "["), "not_integer"),  # three numbers
        (WRITTEN.replace("250", "250.0"), "not_integer"),
        (WRITTEN.replace("250", "true"), "not_integer"),
        (WRITTEN.replace("[250, 0, 500, 500]", "5"), "not_integer"),
        (WRITTEN.replace("[250, 0, 500, 500]", "[[1, 2, 3, 4]]"), "json"),
        (WRITTEN.replace("[250, 0, 500, 500]", "[1, 2, 3, 4"), "json"),
        (WRITTEN.replace('"start": 8', '"start": [8]'), "json"),
        (WRITTEN.replace("}", ', "box": 1}'), "keys"),
        (WRITTEN.replace("box", "bax"), "keys"),
        (WRITTEN.replace("24", "40"), "out_of_range"),
    ],
)
def test_a_wrong_box_is_a_mistake_of_the_policy(config: EnvConfig, task: Task, fields: str, reason: str):
    env = VideoSegEnv(task, config)
    env.first_observation()
    result = env.step(select_action(fields))
    assert isinstance(result.decision, Malformed) and result.decision.reason == reason
    assert result.stop_reason is StopReason.MALFORMED


def test_the_published_grammar_has_no_box(config: EnvConfig):
    for action, tools in ((select_action(), ()), (select_action(block="answer"), enabled_tools(config).values())):
        decision = parse_action(action.text, 40, tools=tools)
        assert isinstance(decision, Malformed) and decision.reason in ("json", "keys")


def test_the_crop_is_shown_from_the_source_at_high_resolution(config: EnvConfig, task: Task):
    trajectory = cropped(task, config)
    observation = trajectory.turns[1].observation
    assert [(frame.role, frame.frame_idx) for frame in observation.frames] == [
        *(("zoom", 8), ("zoom", 24), ("key", 12)),
        ("crop", 12),
    ]
    crop = observation.frames[-1]
    assert (crop.width, crop.height, crop.region) == (20, 24, (20, 0, 40, 24))
    assert (FrameCache().pixels(task.video, crop) == FrameCache().full(task.video, 12)[:24, 20:40]).all()
    assert observation.parts[-3:] == (" | box", crop, " | the bright box")
    full = VideoSegEnv(task, EnvConfig(tools=config.tools, size_factor=4))
    system = full.first_observation().system
    assert f"{TOOLS['key_frame'].help}\n{CROP.help}\nTo answer:" in system
    then = full.step(select_action()).observation
    assert then is not None and "The box [250, 0, 500, 500] of frame 12, large." in str(then.parts[-1])


def test_zooms_that_are_blinded_are_blinded_for_every_tool(config: EnvConfig, task: Task):
    crop = cropped(task, config).turns[1].observation.frames[-1]
    assert set(FrameCache(blind_zooms=True).pixels(task.video, crop).ravel()) == {127}


def test_the_crop_is_stored_and_replayed(config: EnvConfig, task: Task, tmp_path, capsys):
    trajectory = cropped(task, config)
    TrajectoryStore(tmp_path / "trajectories").append([trajectory])
    assert list(TrajectoryStore(tmp_path / "trajectories").read()) == [trajectory]
    assert main([str(tmp_path)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "select, box" in printed and "250,0,500,500" in printed and "crop 12 part" in printed


def test_the_crop_is_seen_on_the_page(config: EnvConfig, task: Task, tmp_path):
    page_path = tmp_path / "page.html"
    write_page(page_path, render_page([cropped(task, config)], "run", {}, FrameCache()))
    assert "12 crop part 20,0 to 40,24</figcaption>" in page_path.read_text()
    assert '<i class="swatch role4"></i> crop' in page_path.read_text()
    with open_page(page_path) as opened:
        turn = opened.page.locator("article:visible .turn").nth(1)
        picture = turn.locator("figure", has_text="crop").locator("img")
        assert picture.evaluate("(image) => [image.naturalWidth, image.naturalHeight]") == [20, 24]
        legend = opened.page.locator("article:visible section .legend").first.inner_text()
        assert [word in legend for word in ("strip", "detail", "zoom", "key", "crop")] == [True] * 5
        assert (opened.errors, opened.requests) == ([], [])


def test_a_store_is_read_where_the_tool_is_not_installed(
    config: EnvConfig, task: Task, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    trajectory = cropped(task, config)
    TrajectoryStore(tmp_path / "trajectories").append([trajectory])
    monkeypatch.delitem(TOOLS, "crop")
    assert list(TrajectoryStore(tmp_path / "trajectories").read()) == [trajectory]
    assert main([str(tmp_path), "--html", str(tmp_path / "page.html")]) == 0
    assert "12 crop part 20,0 to 40,24" in (tmp_path / "page.html").read_text()


def test_a_person_can_crop(config: EnvConfig, task: Task):
    console = Console(file=io.StringIO(), width=100)
    lines = [
        *("zoom 8 24 12 box=0,0,1001,500", "zoom 8 24 12 box=0,0,9", "zoom 8 24 12 box=a", "zoom 8 24 12 bax=1"),
        *("answer 10 19 12 box=0,0,9,9", "zoom 8 24 12 box=250,0,500,500", "answer 10 19 12"),
    ]
    trajectory = play(task, config, lambda _: {}, console, lines)
    assert trajectory is not None
    assert [turn.decision for turn in trajectory.turns] == [SELECT, Answer(Interval(10, 20), 12)]
    assert isinstance(console.file, io.StringIO)
    printed = " ".join(console.file.getvalue().split())
    assert printed.count("add `box=N,N,N,N` to a zoom for the tool crop") == 2  # at the start and for the answer
    assert "box 0, 0, 1001, 500 is empty or leaves the frame" in printed
    assert "box is 'a', expected whole numbers" in printed
    assert "frame 12 (crop)" in printed


def test_uses_are_counted_by_tool(config: EnvConfig, task: Task):
    with_crop = cropped(task, config)
    env = VideoSegEnv(task, config)
    answer = Action(answer_text(10, 19, 12))
    first = Turn(env.first_observation(), answer, env.step(answer).decision)
    at_once = Trajectory("0/made/clip/0/1", task, 0, 1, [first], StopReason.ANSWERED)
    for number, each in enumerate((with_crop, at_once)):
        each.scores = Scores(float(number), {"format": 1.0})
    assert [num_uses(with_crop, tool) for tool in TOOLS.values()] == [1, 1, 1]
    metrics = trajectory_metrics([[with_crop, at_once]], enabled_tools(config))
    assert [metrics[f"rollout/tool_{name}/share"] for name in ("zoom", "key_frame", "crop")] == [0.5] * 3
    assert "rollout/tool_crop/share" not in trajectory_metrics([[with_crop, at_once]], {"zoom": TOOLS["zoom"]})
    assert measure(with_crop)["tool_uses"] == {"zoom": 1, "key_frame": 1, "crop": 1}
    assert measure(at_once)["tool_uses"] == {"zoom": 0, "key_frame": 0, "crop": 0}


def test_a_recorded_dialogue_may_crop(config: EnvConfig, task: Task):
    texts = [select_action(WRITTEN.replace("24", "40")).text, answer_text(10, 19, 12)]  # 40: meant to be exclusive
    talk = [Message("system", "You .."), *(Message("gpt", text) for text in texts)]
    steps = (TraceStep(8, 40, 12), TraceStep(10, 19, 12))
    record = Record("clip", task.video.frames, task.expression, (), (), 2, steps, tuple(talk))
    trajectory = to_trajectory(record, task, config)
    assert trajectory.turns[0].decision == Select(Interval(8, 40), 12, SELECT.arguments)
    assert [frame.role for frame in trajectory.turns[1].observation.frames][-1] == "crop"
    with pytest.raises(DataError, match="does not parse"):
        to_trajectory(record, task, EnvConfig())
