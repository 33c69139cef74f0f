"""Both samplers against a plain Hugging Face forward, before and after weight syncs, and against each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from env.errors import CheckpointError
from policy.engines.base import Sampler
from policy.engines.env import set_engine_env
from policy.vlm.chat_tokens import ChatTokens
from policy.vlm.load import load_chat
from tests.helpers.sampler_parts import (
    MAX_CONTEXT,
    drain,
    exported,
    frame,
    load_plain,
    lone_request,
    make_model,
    make_sampler,
    observation,
    play,
    shake,
    worst_difference,
)

KINDS = ("vllm", "hf")
TOLERANCE = 1e-4  # float32; measured: 6e-6


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def chat(model_dir: Path) -> ChatTokens:
    return load_chat(model_dir)[0]


@pytest.fixture(scope="module", autouse=True)
def engine_env() -> None:
    set_engine_env()


@pytest.fixture(scope="module")
def samplers(model_dir: Path) -> Iterator[dict[str, Sampler]]:
    built = {kind: make_sampler(kind, model_dir) for kind in KINDS}
    yield built
    for sampler in built.values():
        sampler.close()


@pytest.fixture(params=KINDS)
def sampler(request: pytest.FixtureRequest, samplers: dict[str, Sampler]) -> Sampler:
    return samplers[request.param]


@pytest.fixture
def restore(samplers: dict[str, Sampler], model_dir: Path) -> Iterator[None]:
    """Give the engines their first weights back."""
    yield
    for sampler in samplers.values():
        sampler.load_weights(exported(load_plain(model_dir)), version=0)


def test_logprobs_equal_a_plain_forward_over_three_syncs(
    sampler: Sampler, model_dir: Path, chat: ChatTokens, restore: None
):
    """Every sync is followed by the same frames and first texts, so stale heads, prefixes or frames would show."""
    plain = load_plain(model_dir)
    talks = play(sampler, chat, count=6)
    worst, tokens = worst_difference(plain, chat, talks)
    assert tokens > 150
    assert worst <= TOLERANCE
    for version in (1, 2, 3):
        shake(plain, seed=version)
        pushed = {name: tensor.clone() for name, tensor in exported(plain).items()}
        sampler.load_weights(pushed, version)
        for tensor in pushed.values():
            tensor.zero_()  # the engine must have copies: a learner goes on changing its own
        assert worst_difference(plain, chat, talks)[0] > 0.1, "the sync must change the policy"
        talks = play(sampler, chat, count=6)
        assert worst_difference(plain, chat, talks)[0] <= TOLERANCE
        assert sampler.version == version


def test_greedy_tokens_agree(samplers: dict[str, Sampler], chat: ChatTokens):
    by_vllm = play(samplers["vllm"], chat, count=6, temperature=0.0, salt=1)
    by_hf = play(samplers["hf"], chat, count=6, temperature=0.0, salt=1)
    assert [talk.ids for talk in by_vllm] == [talk.ids for talk in by_hf]


def test_media_tokens_are_never_sampled_and_the_end_token_ends(sampler: Sampler, chat: ChatTokens):
    requests = [lone_request(chat, str(seed), max_tokens=150, seed=seed) for seed in range(16)]
    for request in requests:
        sampler.submit(request)
    done = drain(sampler)
    assert sorted(done) == sorted(request.request_id for request in requests)
    tokens = [token for completion in done.values() for token in completion.token_ids]
    assert len(tokens) > 1200  # at six banned ids of some 420, about 17 would be among them
    assert not set(tokens) & set(chat.banned_ids)
    assert {completion.finish for completion in done.values()} == {"stop", "length"}
    for completion in done.values():
        ends = [at for at, token in enumerate(completion.token_ids) if token == chat.end_id]
        assert ends == ([len(completion.token_ids) - 1] if completion.finish == "stop" else [])
        assert len(completion.logprobs) == len(completion.token_ids) <= 150
        assert completion.finish == "stop" or len(completion.token_ids) == 150


def test_what_is_aborted_never_completes_and_disturbs_nothing(
    sampler: Sampler, model_dir: Path, chat: ChatTokens, restore: None
):
    sampler.submit(lone_request(chat))
    expected = drain(sampler)["a"].token_ids
    for request in (lone_request(chat), lone_request(chat, "b", seed=3, max_tokens=150)):
        sampler.submit(request)
    sampler.abort(["b", "unknown"])
    done = drain(sampler)
    assert list(done) == ["a"]
    assert done["a"].token_ids == expected
    sampler.submit(lone_request(chat, "b", seed=3, max_tokens=150))
    if sampler.step() == []:  # vLLM has not finished
        sampler.abort(["b"])
    assert not sampler.has_work()
    sampler.load_weights(exported(load_plain(model_dir)), version=1)  # refused if a request were still in flight
    sampler.submit(lone_request(chat))
    assert drain(sampler)["a"].token_ids == expected


def test_tokens_of_a_prefix_that_was_seen_before_are_told(samplers: dict[str, Sampler], chat: ChatTokens):
    sampler = samplers["vllm"]
    prompt_ids = tuple(observation(chat, "the red circle moves left and stops " * 20, 1))
    long = lone_request(chat, prompt_ids=prompt_ids, images=(frame(0),))
    sampler.submit(long)
    first = drain(sampler)["a"]
    sampler.submit(long)
    again = drain(sampler)["a"]
    samplers["hf"].submit(long)
    plain = drain(samplers["hf"])["a"]
    assert first.prompt_tokens == again.prompt_tokens == plain.prompt_tokens > 64
    assert plain.cached_tokens == 0
    assert again.cached_tokens > first.prompt_tokens - 64 > first.cached_tokens


def test_a_seed_fixes_the_tokens_whatever_runs_beside(sampler: Sampler, chat: ChatTokens):
    sampler.submit(lone_request(chat))
    alone = drain(sampler)["a"].token_ids
    for request in (
        lone_request(chat, "b", prompt_ids=tuple(observation(chat, "left ", 1)), images=(frame(2),), seed=1),
        lone_request(chat),
        lone_request(chat, "c", seed=8),
        lone_request(chat, "d", temperature=0.0),
    ):
        sampler.submit(request)
    beside = drain(sampler)
    assert beside["a"].token_ids == alone
    assert beside["c"].token_ids != alone
    assert beside["d"].token_ids != alone


def test_logprobs_do_not_follow_the_temperature(sampler: Sampler, model_dir: Path, chat: ChatTokens):
    talks = play(sampler, chat, count=2, temperature=0.5)
    assert worst_difference(load_plain(model_dir), chat, talks)[0] <= TOLERANCE


def test_the_context_limit_cuts(sampler: Sampler, chat: ChatTokens):
    left = 3
    filler = chat.encode("a")
    expanded = len(observation(chat, "", 1)) - 1 + 4  # frame 0 is four tokens
    prompt = filler * (MAX_CONTEXT - left - expanded) + observation(chat, "", 1)
    sampler.submit(lone_request(chat, prompt_ids=tuple(prompt), images=(frame(0),)))
    done = drain(sampler)["a"]
    assert (done.finish, len(done.token_ids)) == ("length", left)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": (frame(0),)}, "2 image pads for 1 frames"),
        ({"images": (frame(0), np.zeros((32, 40, 3), np.uint8))}, "multiples of 16"),
        ({"prompt_ids": (9,) * (MAX_CONTEXT + 1), "images": ()}, "a prompt of 1025 tokens fills the context of 1024"),
    ],
)
def test_a_request_that_cannot_run_is_refused_and_the_rest_goes_on(
    sampler: Sampler, chat: ChatTokens, changes: dict, message: str
):
    sampler.submit(lone_request(chat, "good"))
    with pytest.raises(ValueError, match=message):
        sampler.submit(lone_request(chat, "bad", **changes))
    with pytest.raises(ValueError, match="already in flight"):
        sampler.submit(lone_request(chat, "good"))
    assert list(drain(sampler)) == ["good"]


def test_no_sync_while_requests_are_in_flight(sampler: Sampler, model_dir: Path, chat: ChatTokens):
    before = sampler.version
    sampler.submit(lone_request(chat))
    with pytest.raises(RuntimeError, match="1 requests are in flight"):
        sampler.load_weights(exported(load_plain(model_dir)), version=9)
    assert drain(sampler)["a"].weights_version == before


@pytest.mark.parametrize("fault", ["unknown", "missing", "shape", "head"])
def test_a_sync_with_wrong_names_or_shapes_names_the_weight(sampler: Sampler, model_dir: Path, fault: str):
    weights = exported(load_plain(model_dir))
    name = "model.visual.blocks.1.mlp.linear_fc1.weight"
    if fault == "unknown":
        weights["model.visual.blocks.7.bias"] = torch.zeros(1)
        name = "model.visual.blocks.7.bias is not"
    elif fault == "missing":
        sampler.load_weights(dict(weights), sampler.version)
        del weights[name]
    elif fault == "shape":
        weights[name] = weights[name][1:]
    else:
        weights["lm_head.weight"] = weights["model.language_model.embed_tokens.weight"]
        name = "lm_head.weight"
    before = sampler.version
    with pytest.raises(CheckpointError, match=name):
        sampler.load_weights(weights, version=9)
    assert sampler.version == before


def test_prompts_beyond_one_engine_step_keep_their_seeds(sampler: Sampler, chat: ChatTokens):
    """More prompt tokens than vLLM takes in one step by default: on CPU a seeded prompt in pieces stops the engine."""
    words = "red circle " * 60
    for number in range(40):
        ids = tuple(observation(chat, f"{words} {number} ", 2))
        sampler.submit(lone_request(chat, f"r{number}", prompt_ids=ids, max_tokens=4))
    assert len(drain(sampler)) == 40
