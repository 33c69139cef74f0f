"""Settings and fixtures of all tests: quiet engines with one thread, data sets, real clips and the micro policy."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.helpers.rl_parts import Micro

# Tests compute on the CPU, on a machine with GPUs too; `VIDEOSEG_GPU=1 python -m pytest tests/gpu` shows them the GPUs.
if os.environ.get("VIDEOSEG_GPU") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
# Set before any test module imports torch, ray or transformers; child processes inherit it. A number of threads that is
# already set is kept: tests/instruction_sets.sh runs the numeric tests with several.
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
# A shell that starts pytest in the background lets it ignore Ctrl-C, and every process that a test starts would too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The files that take longest, longest first. Started first, they do not leave one of two processes idle at the end.
SLOW_FILES = (
    "chaos/test_chaos.py",
    "chaos/test_kill_sweep.py",
    "rl/learner/test_data_parallel.py",
    "docs/test_commands.py",
    "rl/test_real_clips.py",
    "rl/rollout/test_pool.py",
    "rl/test_ray_job.py",
    "cot_data/traces/test_teacher_vllm.py",
    "rl/sft/test_cold_start.py",
    "rl/test_training_knobs.py",
    "rl/evaluation/test_runner.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slow files first, and leave the order inside files and of all others as it is."""
    root = Path(__file__).parent
    place = {name: at for at, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: place.get(str(item.path.relative_to(root)), len(place)))


@pytest.fixture(scope="module", autouse=True)
def no_ray_is_left() -> Iterator[None]:
    """Shut Ray down after each module, since the next one may need other resources."""
    yield
    if ray := sys.modules.get("ray"):
        ray.shutdown()


@pytest.fixture(scope="session")
def clips() -> Path:
    """Return the folder of real clips named by VIDEOSEG_CLIPS; skip the tests that need it if it is absent."""
    root = Path(__file__).parent.parent
    folder = root / os.environ.get("VIDEOSEG_CLIPS", "../shared/data")
    if not folder.is_dir():
        pytest.skip(f"skipped: no folder of real clips at {folder}; name one with VIDEOSEG_CLIPS")
    return folder.resolve()


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write Moving Shapes of 25 videos, which have tasks of every kind; return its folder."""
    from cot_data.moving_shapes.generate import write_moving_shapes

    out = tmp_path_factory.mktemp("shapes") / "train"
    write_moving_shapes(out, 25, seed=8)
    return out


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Micro:
    """Train a small policy on two videos, once per session (about 15 CPU-seconds)."""
    from policy.engines.env import set_engine_env
    from tests.helpers.rl_parts import train_micro

    set_engine_env()  # engines that tests build in this process must not start one of their own
    return train_micro(tmp_path_factory.mktemp("micro"))
