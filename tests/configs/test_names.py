"""Names in a config: the known ones are the keys of the registries, read without importing these."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from configs import names
from configs.load import ConfigError, load_config
from configs.names import REGISTRIES, known_names, unknown_names
from configs.schema import RunConfig

ROOT = Path(__file__).parents[2]
FRESH = """
import json, sys
from configs.names import REGISTRIES, known_names
found = {key: known_names(*place) for key, place in REGISTRIES.items()}
assert not {"torch", "numpy"} & sys.modules.keys()
print(json.dumps(found))
"""


def test_the_names_in_the_sources_are_the_keys_of_the_registries():
    """In a fresh interpreter, where no registry is loaded."""
    done = subprocess.run([sys.executable, "-c", FRESH], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    registries = {key: vars(importlib.import_module(module))[name] for key, (module, name) in REGISTRIES.items()}
    assert json.loads(done.stdout) == {key: list(registry) for key, registry in registries.items()}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.dataset=mevs", "data.dataset: unknown 'mevs'; known are mevis, .*; did you mean mevis?"),
        ("data.train=[{root: x}, {root: x, dataset: revs}]", "data.train.1.dataset: unknown 'revs'; .* mean revos?"),
        ("env.prompt=ful", "env.prompt: unknown 'ful'; known are full, brief; did you mean full?"),
        ("policy.kind=videosec", "policy.kind: unknown 'videosec'; known are .* mean videoseg?"),
        ("policy.sam.variant=sam2_hiera", "policy.sam.variant: unknown 'sam2_hiera'; known are small, .* sam2_hiera_"),
        ("sampler.kind=vlm", "sampler.kind: unknown 'vlm'; known are vllm, hf; did you mean vllm?"),
        ("cold_start.stages.1.kind=vison", "cold_start.stages.1.kind: unknown 'vison'; .* mean vision?"),
        ("grpo.loss=dapoo", "grpo.loss: unknown 'dapoo'; known are grpo, .*; did you mean dapo?"),
        ("grpo.kl_form=k9", "grpo.kl_form: unknown 'k9'; known are k1, k2, k3; did you mean k"),
        ("grpo.truncate_level=tokens", "grpo.truncate_level: unknown 'tokens'; .* did you mean token?"),
        ("grpo.calibration=logik", "grpo.calibration: unknown 'logik'; .* did you mean loglik?"),
        ("grpo.masks=all", "grpo.masks: unknown 'all'; known are sampled, released, tracked"),
        ("grpo.weight_transport=nixxl", "grpo.weight_transport: unknown 'nixxl'; .* did you mean nixl?"),
        ("rewards.mask_jou=1", "rewards: unknown 'mask_jou'; known are format, .*; did you mean mask_iou?"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest_known_one(override: str, message: str):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        load_config("tiny", [override])


def test_every_mistake_is_reported_at_once():
    with pytest.raises(ConfigError, match=r"unknown 'vlm'.*unknown 'dapoo'.*grpo\.group_size: expected >= 2, got 1"):
        load_config("tiny", ["sampler.kind=vlm", "grpo.loss=dapoo", "grpo.group_size=1"])


def test_a_member_that_is_added_at_run_time_is_known(monkeypatch: pytest.MonkeyPatch):
    from policy.engines import SAMPLERS

    monkeypatch.setitem(SAMPLERS, "mine", SAMPLERS["hf"])
    assert load_config("tiny", ["sampler.kind=mine"]).sampler.kind == "mine"


def test_one_line_in_a_registry_makes_a_member_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a module that is not loaded: its source counts."""
    monkeypatch.setattr(names, "ROOT", tmp_path)
    (tmp_path / "plain.py").write_text('KINDS = {"one": f}\n')
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text('KINDS: dict[str, F] = {\n    "one": f,\n    "mine": g,\n}\n')
    assert known_names("plain", "KINDS") == ("one",)
    assert known_names("package", "KINDS") == ("one", "mine")


@pytest.mark.parametrize("source", ["KINDS = make()", "KINDS = {**OTHER, 'a': f}", "KINDS = {}", "OTHER = {'a': f}"])
def test_a_registry_is_a_plain_literal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str):
    monkeypatch.setattr(names, "ROOT", tmp_path)
    module = f"registry_{abs(hash(source))}"
    (tmp_path / f"{module}.py").write_text(source)
    with pytest.raises(ValueError, match="expected KINDS as a literal dict"):
        known_names(module, "KINDS")


def test_the_defaults_are_known():
    assert unknown_names(RunConfig()) == []
