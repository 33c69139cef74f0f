"""Two steps of GRPO as a job on a Ray cluster of its own, started and ended by this test."""

from __future__ import annotations

import secrets
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

from configs.load import ConfigError
from rl.runtime.cluster import check_job_paths
from tests.helpers.rl_parts import Micro, read_lines

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).parent / "ray"

pytestmark = pytest.mark.timeout(1200)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def submit(job_server: str, *arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
    command = [str(RAY), "job", "submit", "--address", job_server, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


def end(head: psutil.Process) -> None:
    family = [head, *head.children(recursive=True)]
    head.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=30)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=30)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of the job server of a new head node; its processes are ended by their ids (never `ray stop`)."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
    gcs, dashboard, agent, client = free_ports(4)
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: the paths of unix sockets hold some hundred characters
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
        # A job server lists jobs before it can run any, and its port is open before that: one that did nothing tells.
        while submit(f"http://127.0.0.1:{dashboard}", "--", "true", timeout=300).returncode != 0:
            assert head.poll() is None and time.monotonic() < deadline, (folder / "start.log").read_text()[-4000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        if head.poll() is None:  # else it has ended by itself, and the assertion above tells why
            end(psutil.Process(head.pid))
        shutil.rmtree(folder, ignore_errors=True)


def test_two_steps_as_a_ray_job(cluster: str, micro: Micro, tmp_path: Path):
    overrides = [*micro.overrides(tmp_path / "run"), "env.max_seconds=3600", "grpo.eval_every=2"]
    sets = [word for text in overrides for word in ("--set", text)]
    entry = [sys.executable, "-m", "rl.grpo", "--config", "smoke", *sets]
    done = submit(cluster, "--working-dir", ".", "--", *entry, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "succeeded" in done.stdout
    rows = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1]
    assert all(0 <= row["grad/masks/share"] <= 1 for row in rows)
    assert ["eval/jf/all" in row for row in rows] == [False, True]
    assert (tmp_path / "run" / "checkpoints" / "step-000002" / "state.pt").is_file()


def test_a_job_in_a_copy_of_the_folder_wants_absolute_paths(
    micro: Micro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Ray deletes the copy, and with it what a relative run_dir would hold."""
    copy = tmp_path / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    check_job_paths(micro.config(tmp_path / "run"))
    with pytest.raises(ConfigError, match="run_dir: 'runs/smoke' is relative"):
        check_job_paths(micro.config(tmp_path, ["run_dir=runs/smoke"]))
    with pytest.raises(ConfigError, match=r"data\.train_root: 'data' is relative"):
        check_job_paths(micro.config(tmp_path / "run", ["data.train_root=data"]))
    monkeypatch.chdir(tmp_path)
    check_job_paths(micro.config(tmp_path, ["run_dir=runs/smoke"]))
