"""Names of engines and SAM 2 variants that do not exist."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from configs.load import ConfigError
from configs.policy_schema import SamConfig
from configs.schema import SamplerConfig
from policy.engines import build_sampler


def test_an_unknown_engine_names_the_nearest():
    message = r"sampler.kind: unknown 'vlm'; known are vllm, hf; did you mean vllm\?"
    with pytest.raises(ConfigError, match=message):
        build_sampler(SamplerConfig("vlm"), Path("/none"), 100, 0)


def test_an_unknown_variant_names_the_nearest():
    from policy.sam.build import build_sam

    with pytest.raises(ConfigError, match=r"variant: unknown 'sam2.1_hiera_xl'; .* did you mean sam2.1_hiera_l\?"):
        build_sam(SamConfig(variant="sam2.1_hiera_xl"))


def test_the_names_of_engines_are_known_without_torch():
    code = "import sys, policy.engines; print(list(policy.engines.SAMPLERS), 'torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "['vllm', 'hf'] False"
