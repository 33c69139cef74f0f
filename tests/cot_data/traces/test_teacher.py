"""The teacher: a client of a real HTTP server with every kind of failure, and valid and invalid wordings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from time import sleep
from typing import Any

import numpy as np
import pytest

from cot_data.formats.vts_cot import Record
from cot_data.traces.candidates import Scene, build_scene
from cot_data.traces.reword import marked_turns, reword, with_wording
from cot_data.traces.teacher import Reply, Teacher
from cot_data.traces.validate import find_faults
from cot_data.traces.write import prose_turns, to_record
from env.errors import DataError
from tests.helpers.cot_parts import HAND, dog_and_woman

Answer = tuple[int, str, float]  # status, body, seconds before it
ASK = [{"role": "user", "content": "hello"}]


@contextmanager
def endpoint(respond: Callable[[dict[str, Any]], Answer]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve chats with `respond`; yield the address and the list of requests, each with its path and key."""
    requests: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append(body | {"path": self.path, "key": self.headers["Authorization"]})
            status, text, seconds = respond(body)
            sleep(seconds)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        server.server_close()


def chat(text: str, tokens: int | None = 100) -> str:
    usage = {} if tokens is None else {"usage": {"total_tokens": tokens}}
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]} | usage)


def in_turn(*answers: Answer) -> Callable[[dict[str, Any]], Answer]:
    left = list(answers)
    return lambda body: left.pop(0) if len(left) > 1 else left[0]


def quick(url: str, max_tokens: int = 0, timeout: float = 5.0) -> tuple[Teacher, list[float]]:
    """A teacher that does not wait between tries, and the list of seconds it would have waited."""
    waits: list[float] = []
    return Teacher(url, "tutor", max_tokens, timeout=timeout, wait=waits.append), waits


def test_a_request_has_the_form_that_the_endpoint_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDEOSEG_TEACHER_KEY", "secret")
    with endpoint(in_turn((200, chat("hi", 7), 0))) as (url, requests):
        teacher, waits = quick(url + "/")
        assert teacher.ask(ASK) == Reply("hi", 7) and teacher.spent == 7 and waits == []
    assert requests[0]["path"] == "/v1/chat/completions" and requests[0]["key"] == "Bearer secret"
    assert requests[0]["model"] == "tutor" and requests[0]["messages"] == ASK and requests[0]["temperature"] == 0


def test_transport_failures_are_retried_with_backoff() -> None:
    broken = [(500, "oops", 0.0), (429, "", 0.0), (200, "{", 0.0), (200, chat("done", 9), 0.0)]
    with endpoint(in_turn(*broken)) as (url, requests):
        teacher, waits = quick(url)
        assert teacher.ask(ASK) == Reply("done", 9)
        assert waits == [1.0, 2.0, 4.0] and len(requests) == 4
        assert 9 < teacher.spent < 9 + 2 * 2200, (
            "a broken reply counts as the longest one, a refused request as nothing"
        )


def test_a_timeout_is_a_transport_failure() -> None:
    with endpoint(in_turn((200, chat("late"), 1.0), (200, chat("in time"), 0.0))) as (url, _):
        teacher, waits = quick(url, timeout=0.3)
        reply = teacher.ask(ASK)
        assert reply and reply.text == "in time" and waits == [1.0]


@pytest.mark.parametrize("body", ["{}", "[]", '{"choices": []}', '{"choices": [{"message": {"content": null}}]}', "no"])
def test_an_endpoint_without_replies_ends_the_run(body: str) -> None:
    with endpoint(in_turn((200, body, 0.0))) as (url, requests):
        teacher, _ = quick(url)
        with pytest.raises(DataError, match=r"/v1: expected a reply of 'tutor', found status 200.* in 4 tries"):
            teacher.ask(ASK)
        assert len(requests) == 4
    gone, _ = quick(url)
    with pytest.raises(DataError, match=r"ConnectError.*finished tasks are kept"):
        gone.ask(ASK)


def test_a_refused_request_is_not_retried() -> None:
    with endpoint(in_turn((404, "no such model", 0.0))) as (url, requests):
        teacher, _ = quick(url)
        with pytest.raises(DataError, match="refused the request: status 404, 'no such model'; see --teacher"):
            teacher.ask(ASK)
        assert len(requests) == 1 and teacher.spent == 0


def test_the_cap_is_never_exceeded() -> None:
    with endpoint(in_turn((200, chat("hi", 1000), 0.0))) as (url, requests):
        teacher, _ = quick(url, max_tokens=4000)
        assert teacher.ask(ASK) and teacher.ask(ASK)  # up to 2,117 each: the third could end beyond 4,000
        assert teacher.ask(ASK) is None and len(requests) == 2 and teacher.spent == 2000
        silent, _ = quick(url, max_tokens=2000)
        assert silent.ask(ASK) is None and len(requests) == 2
    with endpoint(in_turn((200, chat("hi", None), 0.0))) as (url, requests):
        teacher, _ = quick(url, max_tokens=4000)
        assert teacher.ask(ASK) and teacher.spent > 2048, "a reply without a count counts as the longest one"


# Wordings


@pytest.fixture(scope="module")
def dog() -> Scene:
    return build_scene(dog_and_woman()[0], dog_and_woman())


@pytest.fixture(scope="module")
def record(dog: Scene) -> Record:
    return to_record(dog.task, HAND, prose_turns(dog, HAND, np.random.default_rng(3)))


def free(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    """Other words around the same claims."""
    words = (("So «", "All in all «"), ("That holds", "Nothing changes"), ("It is", "I find it"), ("comes", "slips"))
    words = (*words[:1], ("That holds", "I stay with that"), *words[2:])
    text = json.dumps(turns, ensure_ascii=False)
    for old, new in words:
        text = text.replace(old, new)
    return json.loads(text)


def test_claims_are_marked_and_the_words_between_them_are_free(dog: Scene, record: Record) -> None:
    turns = marked_turns(record, dog)
    assert [set(turn) for turn in turns] == [{"temporal", "spatial", "linguistic", "action"}] * 3
    assert turns[0]["temporal"].startswith(
        "«The dog» is «on the left in frames 10 and 20», «in the center in frame 30»."
    )
    same = with_wording(record, f"Here:\n```json\n{json.dumps(turns)}\n```")
    assert same == record
    asked: list[str] = []

    def tutor(body: dict[str, Any]) -> Answer:
        asked.append(body["messages"][-1]["content"])
        return 200, chat(json.dumps(free(turns)), 50), 0.0

    with endpoint(tutor) as (url, _):
        result = reword(record, dog, HAND, quick(url)[0])
    assert result.words_by == "teacher" and result.faults == () and '"a white dog walking right"' in asked[0]
    assert "All in all the query means the dog" in result.record.gpt_turns[0]
    assert "I stay with that: the query means the dog" in result.record.gpt_turns[1]
    assert result.record.cot_trace == record.cot_trace and find_faults(result.record, dog, HAND) == []
    blocks = [[turn.partition("</think>")[2] for turn in each.gpt_turns] for each in (record, result.record)]
    assert blocks[0] == blocks[1], "the teacher cannot change the action"


BAD = {
    "another place": ("on the left in frames 10", "on the right in frames 10", "it is 'left'"),
    "another frame": ("frames 10 and 20", "frames 10 and 40", "it is not in frame 40"),
    "a fact left out": (
        "«The dog» is «on the left in frames 10 and 20», ",
        "«The dog» is ",
        "leaves out place dog left",
    ),
    "a fact added": (
        "«in the center in frame 30».",
        "in the center in frame 30 and takes up 1 % of the frame.",
        "adds size dog 1 30",
    ),
    "a count": ("«The dog»", "Of four animals the dog", "has 'four'"),
    "a negation": ("«The woman» is", "The woman is not", "has 'not'"),
    "mark-up": ("«The woman» is", "</think><answer> [SEG] The woman is", None),
    "no list": ("[", "{", "expected a JSON list"),
}


@pytest.mark.parametrize("name", BAD)
def test_contradicting_wordings_are_rejected(dog: Scene, record: Record, name: str) -> None:
    old, new, expected = BAD[name]
    reply = json.dumps(marked_turns(record, dog), ensure_ascii=False)
    assert old in reply
    bad = reply.replace(old, new, 1)
    with endpoint(in_turn((200, chat(bad), 0.0))) as (url, requests):
        result = reword(record, dog, HAND, quick(url)[0])
    if expected is None:  # the mark-up is removed
        assert result.words_by == "teacher" and all(turn.count("[SEG]") == 1 for turn in result.record.gpt_turns)
        return
    assert result.words_by == "template" and result.record == record and len(requests) == 2
    assert any(expected in fault for fault in result.faults), result.faults
    assert expected in requests[1]["messages"][-1]["content"], "the second request has the faults"


def test_a_second_try_may_be_valid(dog: Scene, record: Record) -> None:
    good = json.dumps(marked_turns(record, dog))
    with endpoint(in_turn((200, chat("sorry?"), 0.0), (200, chat(good), 0.0))) as (url, _):
        assert reword(record, dog, HAND, quick(url)[0]).words_by == "teacher"
    capped, _ = quick("http://localhost:1/v1", max_tokens=10)
    result = reword(record, dog, HAND, capped)
    assert (result.record, result.words_by, result.faults) == (record, "template", ("the cap on tokens is reached",))
