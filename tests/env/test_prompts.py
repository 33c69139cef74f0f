"""Prompts: placeholders, the layout of images and the forms of lists, and the words that a checkpoint carries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from configs.load import ConfigError
from configs.prompt_file import INDEX_LISTS, IndexList, Prompt, prompt_text
from configs.schema import EnvConfig
from env.actions import format_decision
from env.episode import VideoSegEnv
from env.prompts import PROMPTS, find_prompt, first_parts, later_parts, prompt_identity, prompt_of, system_text
from env.types import Action, FrameRef, Interval, Select, Task, VideoRef

SELECT = Select(Interval(10, 21), 14, {"box": (1, 2)})


def frames(*indices: int, role: str = "strip") -> list[FrameRef]:
    return [FrameRef(frame_idx, 64, 32, role) for frame_idx in indices]


def plain(parts: tuple) -> list[str | int]:
    return [part if isinstance(part, str) else part.frame_idx for part in parts]


def test_every_placeholder_of_the_first_observation_is_filled():
    prompt = Prompt(
        first="{num_frames}|{last_frame}|{strip_count}{strip_indices}{strip}|{detail_count}{detail_indices}{detail}|{query}"
    )
    parts = first_parts(prompt, "a\ndog {strip}", 66, frames(0, 33, 65), frames(7, role="detail"))
    assert plain(parts) == ["66|65|3[0, 33, 65]", 0, 33, 65, "|1[7]", 7, "|a dog {strip}"]


def test_every_placeholder_of_a_later_observation_is_filled():
    text = "{start} {end} {key_frame} {count} {indices} {arguments} {num_frames} {last_frame} {query}{images}"
    prompt = Prompt(first="", later={"zoom": text}, reminder=" then {query} {num_frames}")
    shown = [("zoom", "not read", frames(10, 15)), ("crop", "<{images}>", frames(14))]
    parts = later_parts(prompt, "dog", 66, SELECT, shown)
    assert plain(parts) == ["10 20 14 2 [10, 15] [1, 2] 66 65 dog", 10, 15, "<", 14, "> then dog 66"]


def test_braces_that_are_no_placeholder_stay_text():
    prompt = Prompt(first="", system='{tools}{{json}} {"start": {}} { query } {{tools}}')
    assert system_text(prompt, ["a", "b"]) == 'a\nb\n{json} {"start": {}} { query } {tools}'


def test_images_are_laid_out_one_by_one():
    prompt = Prompt(
        first="{strip}.{detail}{query}",
        images={"strip": "Frame {index} ({letter}): {image};", "detail": "{image}{index}"},
        between={"strip": "\n"},
    )
    parts = first_parts(prompt, "q", 9, frames(4, 2), frames(4, 8, role="detail"))
    assert plain(parts) == ["Frame 4 (b): ", 4, ";\nFrame 2 (a): ", 2, ";.", 4, "4", 8, "8q"]


@pytest.mark.parametrize(
    ("form", "indices", "written"),
    [
        (INDEX_LISTS["list"], (0, 5, 10), "[0, 5, 10]"),
        (INDEX_LISTS["scalars"], (0, 5), "[np.int64(0), np.int64(5)]"),
        (INDEX_LISTS["array"], (5, 7, 10), "[ 5  7 10]"),
        (INDEX_LISTS["array"], (), "[]"),
        (IndexList("<", "f{index}", ">;<", ">"), (1, 22), "<f1>;<f22>"),
        (IndexList(close=""), (), "["),
    ],
)
def test_lists_of_indices_have_the_form_that_is_set(form: IndexList, indices: tuple[int, ...], written: str):
    prompt = Prompt(first="{strip_indices}", indices={"strip": form})
    assert first_parts(prompt, "", 99, frames(*indices), []) == (written,)


def test_an_array_is_what_numpy_prints_on_several_lines_too():
    prompt = Prompt(first="{strip_indices}", indices={"strip": INDEX_LISTS["array"]})
    indices = tuple(range(0, 5000, 101))
    (text,) = first_parts(prompt, "", 5000, frames(*indices), [])
    assert text == str(np.array(indices)) and str(text).count("\n") == 3


def test_empty_texts_leave_no_part_behind():
    prompt = Prompt(first="{strip}{detail}", later={"zoom": "{images}"})
    assert plain(first_parts(prompt, "q", 9, frames(1), [])) == [1]
    assert plain(later_parts(prompt, "q", 9, SELECT, [("zoom", "", frames(1, 2))])) == [1, 2]


def test_an_episode_uses_the_words_of_a_file(tmp_path: Path):
    prompt = Prompt(
        system="Be exact.",
        first="{strip}{detail}{query}?",
        later={"key_frame": "{images} is {key_frame}."},
        reminder="{query}!",
    )
    (tmp_path / "words.yml").write_text(prompt_text(prompt))
    config = EnvConfig(prompt=str(tmp_path / "words.yml"), tools=("key_frame",), strip_frames=2, detail_frames=1)
    env = VideoSegEnv(Task("s/v/0", VideoRef("r", "v", (), 66, 240, 432), "dog", ()), config)
    first = env.first_observation()
    assert (first.system, plain(first.parts)) == ("Be exact.", [0, 65, 33, "dog?"])
    then = env.step(Action(f"<think></think>{format_decision(Select(Interval(3, 9), 7))}")).observation
    assert then is not None and (then.system, plain(then.parts)) == ("", [7, " is 7.dog!"])


def test_large_frames_without_a_place_in_the_words_are_refused(tmp_path: Path):
    (tmp_path / "words.yaml").write_text("first: '{strip} {query}'\nlater: {zoom: '{images}'}\n")
    config = EnvConfig(prompt=str(tmp_path / "words.yaml"), tools=("zoom",), detail_frames=0)
    task = Task("s/v/0", VideoRef("r", "v", (), 66, 240, 432), "dog", ())
    VideoSegEnv(task, config, detail=())
    with pytest.raises(ConfigError, match=r"words\.yaml: first: expected \{detail\}, since large frames are shown"):
        VideoSegEnv(task, config, detail=(3,))  # as a recorded dialogue names them


def test_a_checkpoint_s_words_go_before_the_config_s(tmp_path: Path):
    assert prompt_of(tmp_path, "full") == "full", "a folder without a prompt"
    assert prompt_of(tmp_path, "my.yaml") == str(Path.cwd() / "my.yaml"), "workers may run elsewhere"
    (tmp_path / "prompt.yaml").write_text(prompt_text(PROMPTS["brief"]))
    assert prompt_of(tmp_path, "full") == "brief", "built-in words have their name, wherever the folder lies"
    other = tmp_path / "other"
    other.mkdir()
    (other / "prompt.yaml").write_text("first: '{strip}{detail}{query}'\n")
    assert prompt_of(other, "full") == str(other / "prompt.yaml")
    assert find_prompt(prompt_of(other, "full")).first == "{strip}{detail}{query}"


def test_the_identity_of_words_is_their_content(tmp_path: Path):
    texts = ["first: '{strip}{query}'", "{first: '{strip}{query}', system: ''}  # the same", "first: '{strip} {query}'"]
    files = [tmp_path / f"{number}.yaml" for number in range(3)]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    one, same, other = (prompt_identity(str(file)) for file in files)
    assert one == same != other and one.startswith("sha256:")
    assert prompt_identity("brief") == "brief"


def test_unknown_words_are_a_config_error():
    with pytest.raises(ConfigError, match=r"env\.prompt: unknown 'fool'; known are full, brief; did you mean full\?"):
        find_prompt("fool")
