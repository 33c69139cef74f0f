"""YAML files to `RunConfig` and back. Types and ranges are checked; errors name file, key and nearest key."""

from __future__ import annotations

import argparse
import difflib
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from configs.errors import ConfigError as ConfigError
from configs.names import unknown_names
from configs.plain_text import MAX_MESSAGE, plain
from configs.profiles import PROFILES
from configs.prompt_file import prompt_problems
from configs.ranges import problems
from configs.schema import RunConfig
from configs.yaml_text import MAX_TEXT, parse_yaml

SHIPPED = Path(__file__).parent
# Old key -> its present name in the same section; `*` stands for a position. Files of older runs are read with them.
RENAMED = {
    "grpo.refill": "max_oversampling",
    "cold_start.look_share": "zoom_share",
    "cold_start.stages.*.readings": "text_only_traces",
    "eval.blind_looks": "blind_zooms",
    "rewards.turn_price": "turn_cost",
}
MAX_INT = 2**63 - 1
# YAML 1.1 reads 1e-3 as a string, because it wants a dot before the exponent.
_FLOAT_TEXT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, or a shipped config by its name (`tiny`, `videoseg_o3/2b_grpo`), over the schema's defaults.

    A file may hold only its differences to another: `extends: other.yaml` names a file beside it or a shipped config,
    which may extend a third. Sections are merged key by key. Lists and reward weights are replaced as a whole; the name
    of a profile may stand for the weights (`rewards: videoseg_o3`). `overrides` are `a.b=c` texts whose value is YAML;
    list elements count from 0 (`cold_start.stages.0.steps=5`). Raises ConfigError.
    """
    config = RunConfig()
    file = _find(str(path), Path())
    unread: list[str] = []  # keys that name training data which data.train replaces, each with its file
    for link, raw in _chain(file):
        config = _fill(config, raw, str(link), ())
        section = raw.get("data", {})
        if config.data.train and "train" not in section:
            unread += [f"{link}: data.{key}" for key in ("train_root", "traces") if key in section]
    for override in overrides:
        config = _override(config, override)
        if override.partition("=")[0].strip() in ("data.train_root", "data.traces"):
            unread.append(f"--set {override}")
    if unread and config.data.train:
        raise ConfigError(
            f"{unread[0]}: has no effect beside data.train; "
            "set data.train=[] too, or change data.train.0.root and the like"
        )
    validate(config, " ".join([str(file), *(f"--set {text}" for text in overrides)]))
    return config


def fill_section(base: Any, raw: Mapping[Any, Any], where: str) -> Any:
    """Return a copy of a dataclass with the keys of a mapping put in.

    Args:
        base: The dataclass.
        raw: Keys and values, as YAML has them.
        where: Names the source in errors.

    Raises:
        ConfigError: A key is unknown or a value has another type.
    """
    return _fill(base, raw, where, ())


def validate(config: RunConfig, where: str = "config") -> None:
    """Raise ConfigError with every value that is out of range and every name that is not known."""
    if found := [*unknown_names(config), *prompt_problems(config.env), *problems(config)]:
        raise ConfigError(f"{where}: " + "; ".join(found))


def config_to_dict(config: RunConfig) -> dict[str, Any]:
    """Return the config as plain dicts, lists and scalars, ready for YAML or JSON."""
    return _plain(asdict(config))


def config_text(config: RunConfig) -> str:
    """Return the config as YAML with every key; `load_config` of a file with this text gives back an equal config."""
    return yaml.safe_dump(config_to_dict(config), sort_keys=False)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--config NAME_OR_PATH` and the repeatable `--set KEY=VALUE`, which every command takes."""
    parser.add_argument(
        "--config", default="tiny", metavar="NAME_OR_PATH", help="shipped config or YAML file (default: %(default)s)"
    )
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="change one key: grpo.steps=5"
    )


def config_from_args(args: argparse.Namespace) -> RunConfig:
    """Return the config that the command line asks for. A mistake in it ends the program with a message."""
    try:
        return load_config(args.config, args.overrides)
    except ConfigError as error:
        raise SystemExit(f"config error: {plain(str(error), MAX_MESSAGE)}") from error


def check_command_line() -> None:
    """Read the config that this program's arguments ask for, so that a mistake in it ends the program at once.

    A command calls it before the imports that load torch, and reads the config again when all of them are done. From
    here on Ctrl-C ends the program with one line, also inside those imports.
    """
    sys.excepthook = _excepthook
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_config_arguments(parser)
    config_from_args(parser.parse_known_args()[0])


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print one line for Ctrl-C and the traceback of anything else."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _chain(file: Path) -> list[tuple[Path, dict[Any, Any]]]:
    """Return (file, its keys) of all files that `file` extends, in order, and of itself. ConfigError for a cycle."""
    chain: list[tuple[Path, dict[Any, Any]]] = []
    known: set[Path] = set()
    while True:
        known.add(file.resolve())
        raw = _read(file)
        chain.append((file, raw))
        if "extends" not in raw:
            return chain[::-1]
        parent = raw.pop("extends")
        if not isinstance(parent, str):
            raise ConfigError(f"{file}: extends: expected a file name, got {parent!r}")
        file = _find(parent, file.parent)
        if file.resolve() in known:
            names = " extends ".join(str(link) for link, _ in chain)
            raise ConfigError(f"{chain[-1][0]}: extends: expected no cycle, found {names} extends {file}")


def _find(name: str, folder: Path) -> Path:
    """Return a file as given (relative to `folder`), or the shipped config of that name."""
    file = folder / name
    if file.is_file():
        return file
    if name in (names := shipped_names()):
        return SHIPPED / f"{name}.yaml"
    known = ", ".join(names)
    raise ConfigError(f"{file}: no such file; give the path of a YAML file or one of the shipped configs: {known}")


def shipped_names() -> list[str]:
    """Return the names that `--config` accepts beside paths: the files below `configs/`, without their suffix."""
    return sorted(path.relative_to(SHIPPED).with_suffix("").as_posix() for path in SHIPPED.rglob("*.yaml"))


def _read(file: Path) -> dict[Any, Any]:
    try:
        with file.open(encoding="utf-8") as opened:
            raw = parse_yaml(opened.read(MAX_TEXT + 1))
    except (ValueError, OSError) as error:
        raise ConfigError(f"{file}: not a YAML file: {error}") from error
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{file}: expected sections and keys, got {_kind(raw)}")
    return raw


def _fill(base: Any, raw: Mapping[Any, Any], where: str, path: tuple[str, ...]) -> Any:
    """A copy of the dataclass `base` with the keys of `raw` put in, recursively."""
    hints = get_type_hints(type(base))
    changes: dict[str, Any] = {}
    for key, value in _renamed(raw, where, path).items():
        key_path = (*path, str(key))
        if key not in hints:
            raise ConfigError(f"{where}: {'.'.join(key_path)}: no such key; {_nearest(str(key), list(hints))}")
        changes[key] = _value(hints[key], getattr(base, key), value, where, key_path)
    return replace(base, **changes)


def _renamed(raw: Mapping[Any, Any], where: str, path: tuple[str, ...]) -> dict[Any, Any]:
    """Return the keys of one section under their present names. ConfigError where a key stands under both."""
    found: dict[Any, Any] = {}
    for key, value in raw.items():
        name: Any = RENAMED.get(_pattern((*path, str(key))), key)
        if name != key and name in raw:
            old, new = ".".join((*path, str(key))), ".".join((*path, str(name)))
            raise ConfigError(f"{where}: {old} was renamed to {new}, which is there too; remove {old}")
        found[name] = value
    return found


def _pattern(path: tuple[str, ...]) -> str:
    """Return a dotted path with `*` for every position in a list."""
    return ".".join("*" if part.isdecimal() else part for part in path)


def _value(hint: Any, base: Any, raw: Any, where: str, path: tuple[str, ...]) -> Any:
    """Return `raw` as a value of type `hint`. If that is a dataclass, `raw` is merged into `base`."""
    origin = get_origin(hint)
    if is_dataclass(hint) and isinstance(raw, Mapping):
        return _fill(base, raw, where, path)
    if origin is tuple and isinstance(raw, list):
        item = get_args(hint)[0]
        new = item() if is_dataclass(item) and isinstance(item, type) else None
        return tuple(_value(item, new, part, where, (*path, str(i))) for i, part in enumerate(raw))
    if origin is dict and isinstance(raw, str):
        return _profile(raw, where, path)
    if origin is dict and isinstance(raw, Mapping):
        item, named = get_args(hint)[1], _renamed(raw, where, path)
        return {str(key): _value(item, None, part, where, (*path, str(key))) for key, part in named.items()}
    if hint is float:
        return _number(raw, where, path)
    if hint is int and type(raw) is int and abs(raw) > MAX_INT:
        raise ConfigError(f"{where}: {'.'.join(path)}: expected a whole number of at most 64 bits, got {raw!r:.60}")
    if hint in (int, str, bool) and type(raw) is hint:
        return raw
    raise ConfigError(f"{where}: {'.'.join(path)}: expected {_wanted(hint)}, got {_kind(raw)} {raw!r:.200}")


def _number(raw: Any, where: str, path: tuple[str, ...]) -> float:
    """Return a finite number; no setting has a use for another one."""
    is_number = isinstance(raw, int | float) and not isinstance(raw, bool)
    if is_number or (isinstance(raw, str) and _FLOAT_TEXT.fullmatch(raw)):
        try:
            value = float(raw)
        except OverflowError:  # of a long integer
            value = math.inf
        if math.isfinite(value):
            return value
        raise ConfigError(f"{where}: {'.'.join(path)}: expected a finite number, got {raw!r:.60}")
    raise ConfigError(f"{where}: {'.'.join(path)}: expected {_wanted(float)}, got {_kind(raw)} {raw!r:.200}")


def _profile(name: str, where: str, path: tuple[str, ...]) -> dict[str, float]:
    """Return the reward weights of that name; `rewards` is the only field of names with numbers."""
    if name not in PROFILES:
        raise ConfigError(f"{where}: {'.'.join(path)}: no profile {name!r}; known are {', '.join(PROFILES)}")
    return dict(PROFILES[name])


def _override(config: RunConfig, text: str) -> RunConfig:
    """Apply one `a.b=c`."""
    key, equals, value_text = text.partition("=")
    where = f"--set {text}"
    if not equals or not key:
        raise ConfigError(f"{where}: expected KEY=VALUE")
    if new := RENAMED.get(_pattern(tuple(key.split(".")))):
        raise ConfigError(f"{where}: {key} was renamed to {'.'.join((*key.split('.')[:-1], new))}")
    try:
        value = parse_yaml(value_text) if value_text else ""
    except ValueError as error:
        raise ConfigError(f"{where}: the value is not YAML: {error}") from error
    return _assign(RunConfig, config, key.split("."), value, where, ())


def _assign(hint: Any, base: Any, keys: list[str], value: Any, where: str, path: tuple[str, ...]) -> Any:
    """A copy of `base` in which the element that `keys` lead to is `value`."""
    if not keys:
        return _value(hint, base, value, where, path)
    key, rest, key_path = keys[0], keys[1:], (*path, keys[0])
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        if key not in hints:
            raise ConfigError(f"{where}: {'.'.join(key_path)}: no such key; {_nearest(key, list(hints))}")
        return replace(base, **{key: _assign(hints[key], getattr(base, key), rest, value, where, key_path)})
    if get_origin(hint) is tuple:
        if not key.isdecimal() or int(key) >= len(base):
            raise ConfigError(f"{where}: {'.'.join(key_path)}: expected a position from 0 to {len(base) - 1}")
        new = _assign(get_args(hint)[0], base[int(key)], rest, value, where, key_path)
        return (*base[: int(key)], new, *base[int(key) + 1 :])
    if get_origin(hint) is dict:
        return {**base, key: _assign(get_args(hint)[1], None, rest, value, where, key_path)}
    raise ConfigError(f"{where}: {'.'.join(path)} is {_wanted(hint)} and has no key {key!r}")


def _nearest(key: str, siblings: list[str]) -> str:
    """Return a hint with the key closest to `key`: in the same section, else in all others."""
    if close := difflib.get_close_matches(key, siblings, n=1):
        return f"did you mean {close[0]}?"
    everywhere = dict(_leaves(RunConfig, ()))
    if close := difflib.get_close_matches(key, list(everywhere), n=1, cutoff=0.75):
        return f"did you mean {everywhere[close[0]]}?"
    return f"the keys here are {', '.join(siblings)}"


def _leaves(cls: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield (last part, dotted path) of every key below a dataclass."""
    for name, hint in get_type_hints(cls).items():
        yield name, ".".join((*path, name))
        if is_dataclass(hint):
            yield from _leaves(hint, (*path, name))
        elif get_origin(hint) is tuple and is_dataclass(get_args(hint)[0]):
            yield from _leaves(get_args(hint)[0], (*path, name, "0"))


def _wanted(hint: Any) -> str:
    if is_dataclass(hint):
        return "a section of keys"
    if get_origin(hint) is tuple:
        return f"a list, each element {_wanted(get_args(hint)[0])}"
    if get_origin(hint) is dict:
        return "names with numbers, or the name of a profile"
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[hint]


def _kind(raw: Any) -> str:
    return "nothing" if raw is None else type(raw).__name__


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return value
