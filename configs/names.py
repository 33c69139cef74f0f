"""Names in a config that must be keys of a registry (`LOSSES`, `STAGES`, `DATASETS` ...), checked when it is read.

The registries belong to packages that import this one, and importing most of them loads torch, which takes seconds. A
registry is a plain dict literal, so its keys are read from the source file. This module lists no member: one more
line in a registry is enough to make a new member known here. Where the registry's module is loaded already, its dict
is asked instead, so that members that a program adds at run time count too.
"""

from __future__ import annotations

import ast
import difflib
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from configs.schema import RunConfig

ROOT = Path(__file__).parent.parent

# key of the config -> (module, its registry); `*` stands for every element of a list, and for every name in a dict
REGISTRIES: dict[str, tuple[str, str]] = {
    "data.dataset": ("cot_data.datasets", "DATASETS"),
    "data.train.*.dataset": ("cot_data.datasets", "DATASETS"),
    "env.prompt": ("env.prompts", "PROMPTS"),
    "env.tools.*": ("env.tools", "TOOLS"),
    "policy.kind": ("rl.families", "FAMILIES"),
    "policy.sam.variant": ("policy.sam.build", "VARIANTS"),
    "policy.sam.masks": ("policy.sam.build", "MASKS"),
    "policy.sam.presence": ("policy.sam.build", "PRESENCE"),
    "sampler.kind": ("policy.engines", "SAMPLERS"),
    "cold_start.stages.*.kind": ("rl.sft.stages", "STAGES"),
    "grpo.loss": ("rl.learner.policy_loss", "LOSSES"),
    "grpo.kl_form": ("rl.learner.policy_loss", "KLS"),
    "grpo.truncate_level": ("rl.learner.importance_sampling", "LEVELS"),
    "grpo.calibration": ("rl.learner.calibration", "CALIBRATIONS"),
    "grpo.masks": ("rl.learner.mask_targets", "MASKS"),
    "grpo.weight_transport": ("rl.rollout.weight_transport", "TRANSPORTS"),
    "rewards.*": ("rewards", "REWARDS"),
}


def unknown_names(config: RunConfig) -> list[str]:
    """Return a sentence for every name that is in no registry, with the known names and the nearest of them."""
    found = []
    for key, (module, registry) in REGISTRIES.items():
        known = known_names(module, registry)
        for path, name in _names(config, key.split("."), ""):
            if name not in known and not (key == "env.prompt" and name.lower().endswith((".yaml", ".yml"))):
                found.append(unknown_name(path, name, known))
    return found


def unknown_name(path: str, name: object, known: Iterable[str]) -> str:
    """Return the sentence about a name that is not among the known ones.

    Args:
        path: Where the name was found: the config key, or a file and its key.
        name: What was found there.
        known: The names that could stand there.

    Returns:
        The problem, the known names, and the nearest of them if one is near.
    """
    names = tuple(known)
    nearest = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return f"{path}: unknown {name!r}; known are {', '.join(names)}{hint}"


def known_names(module: str, registry: str) -> tuple[str, ...]:
    """Return the names in a registry without importing its module.

    Raises ValueError where the source does not hold the registry as a literal dict or tuple of texts.
    """
    if loaded := sys.modules.get(module):
        return tuple(vars(loaded)[registry])
    return _names_in_source(module, registry)


@cache
def _names_in_source(module: str, registry: str) -> tuple[str, ...]:
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    names: list[ast.expr | None] = []
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name == registry:
                names = _members(value)
            case ast.AnnAssign(target=ast.Name(id=name), value=value) if name == registry:
                names = _members(value)
    texts = [name.value for name in names if isinstance(name, ast.Constant) and isinstance(name.value, str)]
    if not texts or len(texts) < len(names):
        raise ValueError(f"{file}: expected {registry} as a literal dict or tuple whose names are texts")
    return tuple(texts)


def _members(value: ast.expr | None) -> list[ast.expr | None]:
    """Return the keys of a dict literal or the elements of a tuple literal; of anything else nothing."""
    match value:
        case ast.Dict(keys=keys):
            return keys
        case ast.Tuple(elts=elements):
            return [*elements]
    return []


def _names(value: object, keys: list[str], path: str) -> Iterator[tuple[str, str]]:
    """Yield (dotted path, name) of every text that `keys` leads to; a name that is a key of a dict has the dict's."""
    if not keys:
        assert isinstance(value, str)
        yield path, value
    elif keys[0] == "*" and isinstance(value, Mapping):
        yield from ((path, name) for name in value)
    elif keys[0] == "*":
        assert isinstance(value, tuple)
        for i, part in enumerate(value):
            yield from _names(part, keys[1:], f"{path}.{i}")
    else:
        yield from _names(getattr(value, keys[0]), keys[1:], f"{path}.{keys[0]}".lstrip("."))
