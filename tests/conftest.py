"""What every test needs: quiet single-threaded engines, and the folder of real clips."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.helpers.rl_parts import Micro

# Set before any test module imports torch, ray or transformers; child processes inherit it.
os.environ.update(
    OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"),
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    VLLM_NO_USAGE_STATS="1",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_DEDUP_LOGS="0",
    MPLBACKEND="Agg",
)


@pytest.fixture(scope="module", autouse=True)
def no_ray_is_left() -> Iterator[None]:
    """A module that wants Ray otherwise sized starts its own."""
    yield
    if ray := sys.modules.get("ray"):
        ray.shutdown()


@pytest.fixture(scope="session")
def clips() -> Path:
    """The folder of real clips named by VIDEOSEG_CLIPS; tests that need it are left out where it is absent."""
    root = Path(__file__).parent.parent
    folder = root / os.environ.get("VIDEOSEG_CLIPS", "../shared/data")
    if not folder.is_dir():
        pytest.skip(f"left out: no folder of real clips at {folder}; name one with VIDEOSEG_CLIPS")
    return folder.resolve()


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Moving Shapes of 25 videos, which have tasks of every kind."""
    from cot_data.moving_shapes.generate import write_moving_shapes

    out = tmp_path_factory.mktemp("shapes") / "train"
    write_moving_shapes(out, 25, seed=8)
    return out


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Micro:
    """Two videos and a small policy that has half learnt them, trained once (some 15 CPU-seconds)."""
    from policy.engines.env import set_engine_env
    from tests.helpers.rl_parts import train_micro

    set_engine_env()  # engines that tests build in this process must not start one of their own
    return train_micro(tmp_path_factory.mktemp("micro"))
