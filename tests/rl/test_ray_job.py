"""Two steps of GRPO as a job on a Ray cluster of its own, started and ended by this test."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from configs.load import ConfigError, load_config
from configs.schema import RunConfig
from rl.runtime.cluster import check_job_paths
from tests.helpers.doc_commands import all_commands
from tests.helpers.rl_parts import Micro, read_lines

ROOT = Path(__file__).parents[2]
JOB = ".venv/bin/ray job submit "
RAY = Path(sys.executable).parent / "ray"

pytestmark = pytest.mark.timeout(1200)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def submit(job_server: str, *arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
    command = [str(RAY), "job", "submit", *arguments]
    environment = {**os.environ, "RAY_API_SERVER_ADDRESS": job_server}
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False, env=environment
    )


def end(head: psutil.Process) -> None:
    family = [head, *head.children(recursive=True)]
    head.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=30)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=30)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the address of a new head node's job server; its processes are ended by their ids (never `ray stop`)."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
    gcs, dashboard, agent, client = free_ports(4)
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short, as the paths of unix sockets must be
    command = [str(RAY), "start", "--head", "--block", "--num-cpus=2", f"--temp-dir={folder}", f"--port={gcs}"]
    command += [
        f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={agent}",
        f"--ray-client-server-port={client}",
    ]
    command += ["--object-store-memory=268435456", "--include-dashboard=true", "--disable-usage-stats"]
    with (folder / "start.log").open("wb") as log:
        head = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)
    try:
        deadline = time.monotonic() + 400
        # The server's port opens, and it lists jobs, before it can run any: wait until an empty job succeeds.
        while submit(f"http://127.0.0.1:{dashboard}", "--", "true", timeout=300).returncode != 0:
            assert head.poll() is None and time.monotonic() < deadline, (folder / "start.log").read_text()[-4000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        if head.poll() is None:  # else it ended by itself, and the assertion above gives the reason
            end(psutil.Process(head.pid))
        shutil.rmtree(folder, ignore_errors=True)


SMALL = (
    "grpo.steps=2", "grpo.tasks_per_step=2", "grpo.group_size=2", "grpo.mask_frames=2", "grpo.save_every=1",
    "grpo.eval_every=2", "eval.num_tasks=1", "env.max_seconds=3600", "policy.freeze_vision=false",
)  # fmt: skip


def test_two_steps_as_a_ray_job(cluster: str, micro: Micro, tmp_path: Path):
    """The command of docs/train.md as it is written, with more settings at its end that make it small."""
    (documented,) = [command for command in all_commands() if command.startswith(JOB)]
    overrides = [*micro.overrides(tmp_path / "run"), *SMALL]
    sets = [word for text in overrides for word in ("--set", text)]
    words = shlex.split(documented.removeprefix(JOB).replace("$PWD", str(ROOT)))
    done = submit(cluster, *words, *sets, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "succeeded" in done.stdout
    rows = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1]
    assert all(0 <= row["grad/masks/share"] <= 1 for row in rows)
    assert ["eval/jf/all" in row for row in rows] == [False, True]
    assert (tmp_path / "run" / "checkpoints" / "step-000002" / "state.pt").is_file()


def job_config(micro: Micro, folder: Path, *overrides: str) -> RunConfig:
    """A config whose paths are absolute but for the training data and the overrides."""
    places = [f"run_dir={folder / 'run'}", f"policy.path={micro.policy}", "data.eval_root=/a"]
    return load_config("smoke", [*places, *overrides])


@pytest.fixture
def in_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder that is named like Ray's copies."""
    copy = tmp_path / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)


@pytest.mark.usefixtures("in_a_job")
@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["run_dir=a/b"], "run_dir"),
        (["policy.path=a/b"], "policy.path"),
        (["policy.sam.checkpoint=a/b"], "policy.sam.checkpoint"),
        (["data.train_root=a/b"], "data.train_root"),
        (["data.train_root=/a", "data.traces=a/b"], "data.traces"),
        (["data.train_root=/a", "data.eval_root=a/b"], "data.eval_root"),
        (["data.train=[{root: /a}, {root: a/b}]"], "data.train.1.root"),
        (["data.train=[{root: /a, traces: a/b}]"], "data.train.0.traces"),
        (["data.train=[{root: /a, only: a/b}]"], "data.train.0.only"),
    ],
)
def test_a_job_needs_absolute_paths(micro: Micro, tmp_path: Path, overrides: list[str], key: str):
    """Ray deletes the copy, and with it all files of a relative run_dir; the copy has no data either."""
    with pytest.raises(ConfigError, match=rf"^{re.escape(key)}: expected an absolute path .* got 'a/b'"):
        check_job_paths(job_config(micro, tmp_path, "grpo.eval_every=2", *overrides))


@pytest.mark.usefixtures("in_a_job")
def test_a_job_may_have_relative_paths_that_it_does_not_read(micro: Micro, tmp_path: Path):
    check_job_paths(job_config(micro, tmp_path, "data.train_root=/a", "grpo.eval_every=2"))
    check_job_paths(job_config(micro, tmp_path, "data.train_root=/a", "grpo.eval_every=0", "data.eval_root=a/b"))
    config = job_config(micro, tmp_path, "data.train=[{root: /a}]")
    assert not Path(config.data.train_root).is_absolute()
    check_job_paths(config)


def test_paths_may_be_relative_outside_of_a_job(micro: Micro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    check_job_paths(micro.config(tmp_path, ["run_dir=runs/smoke"]))
