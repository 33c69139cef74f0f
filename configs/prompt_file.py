"""Prompts: the texts of observations with named placeholders, read from a YAML file and checked. No pixels, no frames.

A placeholder is a name in braces, `{query}`. Other braces are text, so that JSON may stand in a prompt as it is;
`{{query}}` writes `{query}`. `env.prompts` fills the placeholders, and docs/prompts.md explains the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from configs.errors import ConfigError
from configs.names import known_names, unknown_name
from configs.schema import EnvConfig
from configs.yaml_text import MAX_TEXT, parse_yaml

FILE_NAME = "prompt.yaml"  # in a checkpoint folder: the prompt that the policy was trained with
SUFFIXES = (".yaml", ".yml")  # an `env.prompt` that ends so names a file
PLACEHOLDER = re.compile(r"\{\{([a-z_]+)\}\}|\{([a-z_]+)\}")
FIRST_LISTS = ("strip", "detail")  # lists of frames of the first observation; a tool's list has the tool's name

SYSTEM = ("tools",)
FIRST = (
    *("strip", "detail", "strip_count", "detail_count", "strip_indices", "detail_indices"),
    *("query", "num_frames", "last_frame"),
)
LATER = (
    *("images", "count", "indices", "start", "end", "key_frame", "arguments"),
    *("query", "num_frames", "last_frame"),
)
REMINDER = ("query", "num_frames", "last_frame")
IMAGE = ("image", "index", "letter")
_CONTROL = re.compile(r"<\|[a-z_]{1,32}\|>")  # tokens of the chat format, which the program writes itself
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")  # all but tab and newline


@dataclass(frozen=True)
class IndexList:
    """The form in which a list of frame indices is written: open, items with separators between them, close."""

    open: str = "["
    item: str = "{index}"
    separator: str = ", "
    close: str = "]"
    is_array: bool = False  # as numpy prints an array: right-aligned, without commas, at most 75 characters a line


INDEX_LISTS: dict[str, IndexList] = {
    "list": IndexList(),  # [0, 5, 10]
    "scalars": IndexList(item="np.int64({index})"),  # [np.int64(0), np.int64(5), np.int64(10)]
    "array": IndexList(is_array=True),  # [ 0  5 10]
}


@dataclass(frozen=True)
class Prompt:
    """One wording of the observations, and the layout of the images in it."""

    first: str  # the first observation
    system: str = ""  # the system text; where it is empty there is no system message
    later: Mapping[str, str] = field(default_factory=dict)  # what a tool shows, by the tool's name
    reminder: str = ""  # the end of every later observation
    images: Mapping[str, str] = field(default_factory=dict)  # one image of a list; "{image}" where it is not given
    between: Mapping[str, str] = field(default_factory=dict)  # text between two images of a list
    indices: Mapping[str, IndexList] = field(default_factory=dict)  # the form of a list's frame indices
    traces: str = "full"  # style of written traces, a key of `cot_data.traces.write.STYLES`


def is_file_name(prompt: str) -> bool:
    """Return whether an `env.prompt` names a file rather than a built-in prompt."""
    return prompt.lower().endswith(SUFFIXES)


def prompt_problems(env: EnvConfig) -> list[str]:
    """Return what is wrong with the file that `env.prompt` names, and with the file beside the other keys of `env`."""
    if not is_file_name(env.prompt):
        return []
    try:
        prompt = read_prompt(Path(env.prompt))
    except ConfigError as error:
        return [f"env.prompt: {error}"]
    found = [
        f"later: expected a text for the tool {name!r}, which env.tools names"
        for name in env.tools
        if name not in prompt.later
    ]
    if env.detail_frames and "detail" not in placeholders(prompt.first):
        found.append("first: expected {detail}, the images that env.detail_frames counts, or env.detail_frames 0")
    return [f"env.prompt: {env.prompt}: {problem}" for problem in found]


def read_prompt(path: Path) -> Prompt:
    """Return the prompt in a file. ConfigError with the file, the text in it and the nearest placeholder."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; expected a YAML file with a prompt (docs/prompts.md)")
    try:
        with path.open(encoding="utf-8") as file:
            raw = parse_yaml(file.read(MAX_TEXT + 1))
        return _checked(raw)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected a YAML file with a prompt") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def prompt_text(prompt: Prompt) -> str:
    """Return the prompt as YAML; `read_prompt` of a file with this text gives back an equal prompt."""
    raw = {name: value for name, value in asdict(prompt).items() if value}
    if prompt.indices:
        known = {form: name for name, form in INDEX_LISTS.items()}
        raw["indices"] = {
            name: known.get(form) or {key: value for key, value in asdict(form).items() if key != "is_array"}
            for name, form in prompt.indices.items()
        }
    return yaml.dump(raw, Dumper=_BlockDumper, sort_keys=False, allow_unicode=True, width=1 << 20)


def placeholders(text: str) -> list[str]:
    """Return the names of all placeholders of a text, in order."""
    return [match[2] for match in PLACEHOLDER.finditer(text) if match[2]]


def _checked(raw: Any) -> Prompt:
    """Return the prompt that a YAML value states. ValueError names the text and what is wrong with it."""
    fields = _mapping(raw, "", tuple(Prompt.__dataclass_fields__))
    lists = (*FIRST_LISTS, *known_names("env.tools", "TOOLS"))
    prompt = Prompt(
        system=_text(fields, "system", SYSTEM),
        first=_text(fields, "first", FIRST, needed=("strip", "query")),
        later=_texts(fields, "later", lists[len(FIRST_LISTS) :], LATER, needed="images"),
        reminder=_text(fields, "reminder", REMINDER),
        images=_texts(fields, "images", lists, IMAGE, needed="image"),
        between=_texts(fields, "between", lists, ()),
        indices={
            name: _index_list(form, f"indices.{name}")
            for name, form in _mapping(fields.get("indices", {}), "indices", lists).items()
        },
        traces=fields.get("traces", "full"),
    )
    if prompt.traces not in (styles := known_names("cot_data.traces.write", "STYLES")):
        raise ValueError(unknown_name("traces", prompt.traces, styles))
    return prompt


def _mapping(raw: Any, where: str, known: Iterable[str]) -> dict[str, Any]:
    known = tuple(known)
    if not isinstance(raw, dict):
        raise ValueError(f"{where}{where and ': '}expected a mapping with keys of {', '.join(known)}")
    for key in raw:
        if key not in known:
            raise ValueError(unknown_name(where or "key", key, known))
    return raw


def _text(fields: Mapping[str, Any], name: str, known: tuple[str, ...], needed: tuple[str, ...] = ()) -> str:
    return _checked_text(fields.get(name, ""), name, known, needed)


def _texts(
    fields: Mapping[str, Any], name: str, keys: tuple[str, ...], known: tuple[str, ...], needed: str = ""
) -> dict[str, str]:
    """Return the texts of a mapping, each of which has the placeholder `needed` where one is named."""
    texts = _mapping(fields.get(name, {}), name, keys)
    wanted = (needed,) if needed else ()
    return {key: _checked_text(text, f"{name}.{key}", known, wanted) for key, text in texts.items()}


def _checked_text(text: Any, where: str, known: tuple[str, ...], needed: tuple[str, ...]) -> str:
    if not isinstance(text, str):
        raise ValueError(f"{where}: expected a text, got {type(text).__name__} {str(text)[:40]!r}; put it in quotes")
    found = placeholders(text)
    for name in found:
        if name not in known:
            advice = f"write {{{{{name}}}}} where the braces are part of the text"
            raise ValueError(f"{unknown_name(f'{where}: placeholder', name, known or ('none here',))}; {advice}")
    for name in needed:
        if name not in found:
            raise ValueError(f"{where}: expected {{{name}}} in the text, which would otherwise not be shown")
    for name in ("strip", "detail", "images", "image"):
        if found.count(name) > 1:
            raise ValueError(f"{where}: expected {{{name}}} once, found it {found.count(name)} times")
    if token := _CONTROL.search(text):
        raise ValueError(f"{where}: expected no token of the chat format, found {token[0]}; the program writes them")
    if char := _UNPRINTABLE.search(text):
        raise ValueError(f"{where}: expected printable characters, found {char[0]!r}")
    return text


def _index_list(raw: Any, where: str) -> IndexList:
    if isinstance(raw, str):
        if raw not in INDEX_LISTS:
            raise ValueError(unknown_name(where, raw, INDEX_LISTS))
        return INDEX_LISTS[raw]
    texts = {}
    for key, text in _mapping(raw, where, ("open", "item", "separator", "close")).items():
        is_item = key == "item"
        texts[key] = _checked_text(text, f"{where}.{key}", ("index",) if is_item else (), ("index",) if is_item else ())
    return IndexList(**texts)


class _BlockDumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, so that a person can edit them."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text.strip("\n") else None)


_BlockDumper.add_representer(str, _represent_text)
