"""What the machine lacks is one sentence before the work: folders, Ray's paths and addresses, and Ctrl-C."""

from __future__ import annotations

import ast
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from configs.schema import RunConfig
from env.errors import INTERRUPTED, MachineError
from env.folder_lock import lock_folder
from rl.learner.collectives import init_process_group
from rl.runtime import preflight
from rl.runtime.cluster import connect_ray, make_token_private
from rl.runtime.preflight import check_ray, prepare_machine

RAY_VARIABLES = ("RAY_ADDRESS", "RAY_TMPDIR", "TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RAY_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_stale_address_is_told_within_seconds(monkeypatch: pytest.MonkeyPatch, form: str):
    address = form.format(closed_port())
    monkeypatch.setenv("RAY_ADDRESS", address)
    began = time.monotonic()
    with pytest.raises(MachineError, match=rf"RAY_ADDRESS={address}: no cluster answers there \(Connection refused\)"):
        connect_ray(RunConfig())
    assert time.monotonic() - began < 8


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("somewhere", "expected HOST:PORT"),
        ("127.0.0.1:none", "expected HOST:PORT"),
        ("http://127.0.0.1:8265", "is the address of a job server"),
        ("no-such-host.invalid:6379", "no cluster answers there"),
    ],
)
def test_an_address_of_another_form_is_told(monkeypatch: pytest.MonkeyPatch, address: str, problem: str):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(MachineError, match=f"RAY_ADDRESS={address}: {problem}"):
        check_ray()


def test_an_address_that_answers_passes(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        check_ray()


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_temporary_folder_too_long_for_sockets_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str):
    short = "/tmp"
    monkeypatch.setenv(name, short)
    check_ray()
    monkeypatch.setenv(name, long := str(tmp_path / ("x" * 60)))
    with pytest.raises(MachineError, match=rf"{name}={long}: \d+ bytes too long for the paths of Ray's sockets; set"):
        check_ray()


def test_the_longest_folder_that_passes_is_one_that_ray_can_use(monkeypatch: pytest.MonkeyPatch):
    """The limit is that of the system: a socket can be bound at a path of that length and no longer."""
    room = preflight.LONGEST_SOCKET - len("/" + preflight.SOCKET)
    monkeypatch.setattr(os, "access", lambda *_: True)
    monkeypatch.setenv("TMPDIR", "/" + "x" * (room - 1))
    check_ray()
    monkeypatch.setenv("TMPDIR", "/" + "x" * room)
    with pytest.raises(MachineError, match="1 bytes too long"):
        check_ray()
    with socket.socket(socket.AF_UNIX) as each, pytest.raises(OSError, match="too long"):
        each.bind("/tmp/" + "x" * (preflight.LONGEST_SOCKET + 1 - len("/tmp/")))


def test_no_shared_memory_and_no_temporary_folder_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("TMPDIR", "/nowhere")
    with pytest.raises(MachineError, match=r"TMPDIR=/nowhere: cannot be written to"):
        check_ray()
    monkeypatch.setattr(preflight, "SHARED_MEMORY", tmp_path / "shm")
    with pytest.raises(MachineError, match=r"shm: not found; Ray needs shared memory"):
        check_ray()


def test_a_resume_of_a_folder_that_is_not_there_makes_none(tmp_path: Path):
    with prepare_machine(tmp_path / "typo", resume=True):
        pass
    assert list(tmp_path.iterdir()) == []


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(
    ("module", "option"),
    [
        ("rl.grpo", "--set=run_dir={}"),
        ("rl.evaluate", "--out={}"),
        ("cot_data.moving_shapes", "--out={}"),
        ("cot_data.build", "--out={}/traces.json"),
    ],
)
def test_an_output_folder_that_is_a_file_is_one_sentence(tmp_path: Path, module: str, option: str, shapes: Path):
    file = tmp_path / "file"
    file.write_text("mine")
    more = {
        "rl.evaluate": ["--checkpoint", "policy/tiny"],
        "cot_data.build": [str(shapes)],
    }
    done = run(module, option.format(file), *more.get(module, []))
    assert done.returncode == 1 and file.read_text() == "mine"
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: {file}"), done.stderr
    assert "Traceback" not in done.stderr and "cannot be written" in done.stderr


def test_a_second_evaluation_in_a_folder_is_told_and_touches_nothing(tmp_path: Path):
    (tmp_path / "results.json").write_text("mine")
    with lock_folder(tmp_path):
        done = run("rl.evaluate", f"--out={tmp_path}", "--checkpoint=policy/tiny")
    assert done.returncode == 1 and f"error: {tmp_path}: in use by process {os.getpid()} on" in done.stderr
    assert (tmp_path / "results.json").read_text() == "mine" and "Traceback" not in done.stderr


def test_a_folder_on_a_file_system_that_cannot_be_written_is_one_sentence(tmp_path: Path):
    mount = f'mount -t tmpfs -o ro none "{tmp_path}" && exec "$@"'
    space = ["unshare", "-Urm", "sh", "-c", mount, "sh"]
    if subprocess.run([*space, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("skipped: this machine lets nobody mount a file system in a namespace of its own")
    command = [sys.executable, "-m", "cot_data.moving_shapes", f"--out={tmp_path}/shapes", "--videos=1"]
    done = subprocess.run([*space, *command], capture_output=True, text=True, timeout=120, check=False)
    told = f"error: {tmp_path}/shapes: cannot be written (Read-only file system); name a folder that can be written to"
    assert done.stderr.strip() == told and done.returncode == 1


def test_a_port_that_is_taken_is_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(MachineError, match=rf"{address}: the learner's ranks cannot meet there \(.*; start again"):
            init_process_group(address, 0, 1, torch.device("cpu"))


@pytest.mark.parametrize("name", ["grpo", "sft_coldstart", "demo", "evaluate", "predict"])
def test_every_command_with_a_folder_of_its_own_checks_the_machine_first(name: str):
    tree = ast.parse((Path(preflight.__file__).parents[1] / f"{name}.py").read_text())
    (main,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    assert "with prepare_machine(" in ast.unparse(main) and ast.unparse(main.decorator_list[0]) == "command"


INTERRUPTED_WORK = """
import sys, time
from env.errors import command
@command
def main():
    print("ready", flush=True)
    time.sleep(60)
main()
"""
INTERRUPTED_IMPORT = """
import sys, time
from configs.load import check_command_line
check_command_line()
print("ready", flush=True)
time.sleep(60)  # stands for the imports that load torch
"""
INTERRUPTED_RAY = """
import time
import ray
from configs.schema import RunConfig
from env.errors import command
from rl.runtime.cluster import connect_ray
@command
def main():
    connect_ray(RunConfig())
    print("ready", flush=True)
    ray.get(ray.remote(lambda: time.sleep(60)).remote())
main()
"""


@pytest.mark.parametrize(
    ("program", "codes"),
    [
        (INTERRUPTED_WORK, {INTERRUPTED}),
        (INTERRUPTED_IMPORT, {INTERRUPTED, -signal.SIGINT}),  # a shell reports both as 130
        (INTERRUPTED_RAY, {INTERRUPTED}),
    ],
)
def test_ctrl_c_is_one_line(program: str, codes: set[int]):
    """The signal reaches the whole process group, as from a terminal."""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode in codes, error
    assert "Traceback" not in error and error.splitlines()[-1].startswith("interrupted"), error


def test_the_token_of_ray_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    token = tmp_path / ".ray" / "auth_token"
    make_token_private(may_create=False)
    assert not token.exists(), "a token would switch authentication on for a cluster that has none"
    make_token_private(may_create=True)
    assert token.stat().st_mode & 0o777 == 0o600 and len(token.read_text()) == 64
    text = token.read_text()
    token.chmod(0o644)  # as Ray writes it
    make_token_private(may_create=True)
    assert token.stat().st_mode & 0o777 == 0o600 and token.read_text() == text
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    token.unlink()
    make_token_private(may_create=True)
    assert not token.exists(), "the user's own setting is left alone"
