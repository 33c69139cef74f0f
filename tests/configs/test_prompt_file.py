"""Prompt files: what is wrong with one is told when the config is read, with the nearest placeholder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from configs.load import ConfigError, load_config
from configs.prompt_file import INDEX_LISTS, Prompt, prompt_text, read_prompt
from env.prompts import PROMPTS

GOOD = {
    "system": "'Find {{json}} {\"start\": 1}. {tools}'",
    "first": "'{strip} {strip_count} {strip_indices} {detail} {query} of {num_frames}'",
    "later": "{zoom: '{images} {indices}', key_frame: '{images} {key_frame}'}",
    "reminder": "'Again: {query}'",
}


def write(path: Path, **changes: str) -> Path:
    path.write_text("".join(f"{name}: {value}\n" for name, value in (GOOD | changes).items() if value))
    return path


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"first": "'{strip} {detail} {qury}'"}, r"first: placeholder: unknown 'qury'; .* did you mean query\?"),
        ({"first": "'{strip} {detail} {query} {indices}'"}, r"unknown 'indices'; .*did you mean strip_indices\?"),
        ({"system": "'{json}'"}, r"system: placeholder: unknown 'json'; known are tools.*write \{\{json\}\}"),
        ({"reminder": "'{images}'"}, r"reminder: placeholder: unknown 'images'; known are query"),
        ({"first": "'{detail} {query}'"}, r"first: expected \{strip\} in the text"),
        ({"first": "'{strip} {detail}'"}, r"first: expected \{query\} in the text"),
        ({"first": "'{strip} {query}'"}, r"first: expected \{detail\}, the images that env\.detail_frames counts"),
        ({"first": "'{strip} {detail} {strip} {query}'"}, r"first: expected \{strip\} once, found it 2 times"),
        ({"first": ""}, r"first: expected \{strip\} in the text"),
        ({"first": "7"}, "first: expected a text, got int '7'"),
        ({"first": "'{strip}{detail}{query}<|im_end|>'"}, r"no token of the chat format, found <\|im_end\|>"),
        ({"system": "'<|image_pad|>'"}, r"system: expected no token of the chat format"),
        ({"system": '"\\ud800"'}, r"'\\ud800'"),
        ({"system": '"a\\x1b[2J"'}, r"system: expected printable characters"),
        ({"later": "{zoom: '{images}'}"}, "later: expected a text for the tool 'key_frame', which env.tools names"),
        ({"later": "{zoom: 'x', key_frame: '{images}'}"}, r"later\.zoom: expected \{images\} in the text"),
        ({"later": "{zom: '{images}'}"}, r"later: unknown 'zom'; known are zoom, key_frame; did you mean zoom\?"),
        ({"later": "['{images}']"}, "later: expected a mapping with keys of zoom, key_frame"),
        ({"images": "{strip: '{index}'}"}, r"images\.strip: expected \{image\} in the text"),
        ({"images": "{strip: '{image} {idx}'}"}, r"images\.strip: placeholder: unknown 'idx'; .*did you mean index\?"),
        ({"between": "{strip: '{image}'}"}, r"between\.strip: placeholder: unknown 'image'"),
        ({"indices": "{zoom: arrays}"}, r"indices\.zoom: unknown 'arrays'; .* did you mean array\?"),
        ({"indices": "{zoom: {item: x}}"}, r"indices\.zoom\.item: expected \{index\} in the text"),
        ({"indices": "{zoom: {itm: '{index}'}}"}, r"indices\.zoom: unknown 'itm'; .*did you mean item\?"),
        ({"indices": "array"}, "indices: expected a mapping with keys of strip, detail, zoom, key_frame"),
        ({"traces": "brif"}, r"traces: unknown 'brif'; known are full, brief; did you mean brief\?"),
        ({"traces": "[full]"}, "traces: unknown"),
        ({"frist": "x"}, r"key: unknown 'frist'; .*did you mean first\?"),
        ({"system": "&a x", "reminder": "*a"}, "line 1 holds an anchor"),
        ({"reminder": "x\nreminder: y"}, "line 5 holds the key 'reminder' twice"),
        ({"system": "[" * 40}, "more than 16 levels"),
    ],
)
def test_a_wrong_prompt_is_told_when_the_config_is_read(tmp_path: Path, changes: dict[str, str], problem: str):
    file = write(tmp_path / "words.yaml", **changes)
    with pytest.raises(ConfigError, match=problem) as caught:
        load_config("videoseg_o3/2b_eval", [f"env.prompt={file}"])
    assert f"env.prompt: {file}: " in str(caught.value) and "\n" not in str(caught.value)


def test_a_good_prompt_is_read_and_fewer_frames_need_less_of_it(tmp_path: Path):
    file = write(tmp_path / "words.yaml")
    assert load_config("videoseg_o3/2b_eval", [f"env.prompt={file}"]).env.prompt == str(file)
    write(file, first="'{strip} {query}'", later="{zoom: '{images}'}")
    assert load_config("tiny", [f"env.prompt={file}", "env.detail_frames=0", "env.tools=[zoom]"]).env.detail_frames == 0


def test_what_is_no_file_is_told(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.yaml")  # which would keep a reader waiting
    (tmp_path / "bytes.yaml").write_bytes(b"first: \xff\xfe")
    (tmp_path / "folder.yaml").mkdir()
    for name in ("none.yaml", "pipe.yaml", "folder.yaml"):
        with pytest.raises(ConfigError, match=rf"{name}: no such file; expected a YAML file with a prompt"):
            load_config("tiny", [f"env.prompt={tmp_path / name}"])
    with pytest.raises(ConfigError, match=r"bytes\.yaml: 'utf-8' codec can't decode"):
        load_config("tiny", [f"env.prompt={tmp_path / 'bytes.yaml'}"])
    with pytest.raises(ConfigError, match=r"env\.prompt: unknown 'words'; known are full, brief"):
        load_config("tiny", ["env.prompt=words"])


CASES = {
    **PROMPTS,
    "lists": Prompt(
        first="{strip}{detail}{query}\n",
        system=" {tools}\n\n \ttab\n",
        later={"zoom": "{images}: yes\n", "key_frame": "\n{images}#"},
        images={"strip": "{index}:\n{image}"},
        between={"strip": "\n", "detail": " "},
        indices={"strip": INDEX_LISTS["array"], "zoom": INDEX_LISTS["scalars"], "detail": INDEX_LISTS["list"]},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_written_prompt_reads_back_the_same(tmp_path: Path, name: str):
    (tmp_path / "prompt.yaml").write_text(prompt_text(CASES[name]), encoding="utf-8")
    assert read_prompt(tmp_path / "prompt.yaml") == CASES[name]


def test_the_file_in_the_documentation_is_good(tmp_path: Path):
    page = Path(__file__).parents[2] / "docs" / "prompts.md"
    (tmp_path / "words.yaml").write_text(page.read_text().split("```yaml\n")[1].split("```")[0])
    assert load_config("videoseg_o3/2b_eval", [f"env.prompt={tmp_path / 'words.yaml'}"])
    assert read_prompt(tmp_path / "words.yaml").indices == {"zoom": INDEX_LISTS["array"]}
