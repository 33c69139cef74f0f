"""The teacher's client with a real vLLM server of the shipped policy, whose wordings are never valid."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx2
import numpy as np
import pytest

from cot_data.traces.candidates import build_scene
from cot_data.traces.reword import reword
from cot_data.traces.teacher import Teacher
from cot_data.traces.write import prose_turns, to_record
from env.errors import DataError
from policy import SHIPPED
from policy.engines.env import ENGINE_ENV
from tests.helpers.cot_parts import HAND, dog_and_woman

START_TIMEOUT = 240  # seconds until the server is up
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = {"--model": SHIPPED / "vlm", "--served-model-name": "tutor", "--host": "127.0.0.1", "--port": port}
    flags |= {"--max-model-len": 8192, "--dtype": "float32", "--kv-cache-memory-bytes": 128 << 20}
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    command += [str(word) for pair in flags.items() for word in pair]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=ENGINE_ENV | os.environ)
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while not is_up(port):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def is_up(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200
    except httpx2.TransportError:
        return False


def served_tokens(server: str) -> float:
    """Prompt and reply tokens so far, by the server's own count."""
    metrics = httpx2.get(f"{server}/metrics", timeout=30).text
    counts = re.findall(r"^vllm:(?:prompt|generation)_tokens_total\{[^}]*\} (\S+)$", metrics, re.MULTILINE)
    assert len(counts) == 2, metrics
    return sum(map(float, counts))


def test_requests_are_answered_and_their_tokens_counted_as_the_server_does(server: str):
    task, *_ = tasks = dog_and_woman()
    scene = build_scene(task, tasks)
    record = to_record(task, HAND, prose_turns(scene, HAND, np.random.default_rng(3)))
    teacher = Teacher(f"{server}/v1", "tutor", max_tokens=0)
    result = reword(record, scene, HAND, teacher)
    assert result.words_by == "template" and result.record == record and result.faults, (
        "an invalid wording changes nothing"
    )
    assert teacher.spent == served_tokens(server) > 100
    teacher.close()


def test_an_error_names_a_model_that_is_not_served(server: str):
    teacher = Teacher(f"{server}/v1", "nobody", max_tokens=0)
    with pytest.raises(DataError, match=r"refused the request: status 404.*nobody.*see --teacher"):
        teacher.ask([{"role": "user", "content": "hello"}])
    assert teacher.spent == 0
    teacher.close()
