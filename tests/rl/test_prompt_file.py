"""A prompt file of another wording trains, evaluates and predicts; every checkpoint carries it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from configs.load import load_config
from configs.prompt_file import read_prompt
from configs.schema import RunConfig
from env.errors import CheckpointError, DataError
from env.replay import main as replay
from env.store import TrajectoryStore
from env.types import FrameRef, Trajectory
from policy.videoseg.checkpoint import load_policy
from policy.vlm.load import load_chat
from rl.evaluation.identity import claim
from rl.evaluation.runner import segment_tasks
from rl.families import as_trained
from rl.grpo import train as train_grpo
from rl.predict import predict
from rl.sft_coldstart import train as train_cold_start
from tests.helpers.rl_parts import MICRO, Micro

pytestmark = pytest.mark.timeout(600)

WORDS = """\
system: |-
  You find things. Answer {{json}} as {"start": 1}.
  {tools}
first: "\\n<query>{query}</query>\\n{strip}\\nat {strip_indices} of {num_frames}; {detail_count} large: {detail} \\
  {detail_indices}\\n"
later:
  key_frame: "Frame {key_frame}:{images}\\n"
  zoom: "{images}\\n{count} of {start}..{end} are {indices}\\n"
reminder: "Now <select> or <answer> {query}."
images: {detail: "<{index}>{image}"}
between: {strip: "\\n"}
indices: {strip: array, detail: scalars, zoom: {open: "(", separator: " ", close: ")"}}
traces: brief
"""


@dataclass(frozen=True)
class Run:
    """A cold start of a few steps on a prompt file."""

    words: Path
    policy: Path
    config: RunConfig


@pytest.fixture(scope="module")
def run(micro: Micro, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("prompt")
    words = folder / "words.yaml"
    words.write_text(WORDS)
    places = [f"run_dir={folder / 'cold'}", f"data.train_root={micro.data}", f"data.eval_root={micro.data}"]
    # Zoom first: the later observation is in every trace.
    few = "cold_start.stages=[{kind: dialogue, steps: 25, batch_size: 8, lr: 3.0e-3, mask_coef: 0.5}]"
    settings = [
        *MICRO,
        *places,
        f"data.traces={micro.data.parent / 'lessons.json'}",
        few,
        "env.max_context_tokens=2048",
    ]
    policy = train_cold_start(load_config("smoke", [*settings, f"env.prompt={words}"]))
    yield Run(words, policy, load_config("smoke", [*settings, "sampler.kind=hf", "env.max_action_tokens=64"]))


def messages_of(trajectory: Trajectory) -> list[dict[str, Any]]:
    """Return the episode as the messages of a chat, as any other program would write them."""
    messages: list[dict[str, Any]] = []
    for turn in trajectory.turns:
        if turn.observation.system:
            messages.append({"role": "system", "content": turn.observation.system})
        parts = [
            {"type": "image"} if isinstance(part, FrameRef) else {"type": "text", "text": part}
            for part in turn.observation.parts
        ]
        messages += [{"role": "user", "content": parts}, {"role": "assistant", "content": turn.action.text}]
    return messages


def texts(trajectories: Sequence[Trajectory]) -> str:
    parts = (part for item in trajectories for turn in item.turns for part in turn.observation.parts)
    return "".join(part for part in parts if isinstance(part, str))


def test_checkpoints_carry_the_words(run: Run):
    for name in ("policy", "untrained"):
        folder = run.policy.parent / name
        assert read_prompt(folder / "prompt.yaml") == read_prompt(run.words) == load_policy(folder).prompt


def test_traces_have_the_words_and_the_tokens_of_the_chat_template(run: Run):
    from rl.sft.data import SftDataset

    config = replace(run.config, env=replace(run.config.env, prompt=str(run.words)))
    dataset = SftDataset(config)
    chat = load_chat(run.policy / "vlm")[0]
    items = [dataset.dialogue(row) for row in range(len(dataset))]
    assert {len(item.turns) for item in items} >= {1, 2} or max(len(item.turns) for item in items) > 1
    for item in items:
        ids: list[int] = []
        for number, turn in enumerate(item.turns):
            ids += [*chat.observation_ids(turn.observation, first=number == 0), *chat.action_ids(turn.action.text)]
        text = str(chat.tokenizer.apply_chat_template(messages_of(item), tokenize=False))
        assert text.startswith("<|im_start|>system\nYou find things. Answer {json} as")
        assert ids == chat.encode(text)[: len(ids)] and chat.encode(text)[len(ids) :] == chat.encode("\n")
    assert "of 0..31 are (" in texts(items) and "large: <" in texts(items)


def test_it_evaluates_and_predicts_from_the_checkpoint_alone(
    run: Run, micro: Micro, tmp_path: Path, capfd: pytest.CaptureFixture
):
    tasks = micro.tasks()[:2]
    assert run.config.env.prompt == "brief"
    (store,) = segment_tasks(run.config, run.policy, tasks, tmp_path / "eval", ["sighted"]).values()
    assert f"({run.policy / 'prompt.yaml'}) goes before env.prompt brief" in capfd.readouterr().err
    found = [*store.read()]
    (video, *_) = sorted((micro.data / "JPEGImages").iterdir())
    found.append(predict(run.config, video, "the red shape", run.policy, tmp_path / "predicted"))
    chat = load_chat(run.policy / "vlm")[0]
    for item in found:
        assert item.turns and f"<query>{item.task.expression}</query>" in texts([item])
        text = str(
            chat.tokenizer.apply_chat_template(messages_of(item)[:2], tokenize=False, add_generation_prompt=True)
        )
        assert list(item.turns[0].observation_ids) == chat.encode(text)


def test_a_resumed_cold_start_keeps_its_words(run: Run, capfd: pytest.CaptureFixture):
    config = load_config(run.policy.parent / "config.yaml")
    policy = train_cold_start(replace(config, env=replace(config.env, prompt="brief")), resume=True)
    assert policy == run.policy and read_prompt(policy / "prompt.yaml") == read_prompt(run.words)
    assert "untrained/prompt.yaml) goes before env.prompt brief" in capfd.readouterr().err


def test_another_wording_is_another_evaluation(run: Run, micro: Micro, tmp_path: Path):
    tasks, bare = micro.tasks()[:1], tmp_path / "bare"
    bare.mkdir()
    (bare / "policy.json").write_text("{}")  # without words of its own, as older checkpoints
    mine, same, other = (tmp_path / f"{name}.yaml" for name in ("mine", "same", "other"))
    mine.write_text(WORDS)
    same.write_text(f"# the same words\n{WORDS}")
    other.write_text(WORDS.replace("You find things", "You find objects"))

    def config(prompt: object) -> RunConfig:
        return as_trained(replace(run.config, env=replace(run.config.env, prompt=str(prompt))), bare)

    claim(tmp_path / "out", config(mine), bare, tasks)
    claim(tmp_path / "out", config(same), bare, tasks)
    for prompt in (other, "brief"):
        with pytest.raises(DataError, match=r"other settings: env\.prompt was"):
            claim(tmp_path / "out", config(prompt), bare, tasks)
    with pytest.raises(DataError, match="other settings: malformed was"):
        changed = config(mine)
        claim(tmp_path / "out", replace(changed, eval=replace(changed.eval, malformed="decode")), bare, tasks)


def test_words_that_do_not_go_with_the_config_are_told(run: Run, tmp_path: Path):
    (tmp_path / "prompt.yaml").write_text("first: '{strip} {query}'\nlater: {zoom: '{images}'}\n")
    with pytest.raises(
        CheckpointError, match=r"prompt\.yaml: later: expected a text for the tool 'key_frame'"
    ) as caught:
        as_trained(run.config, tmp_path)
    assert "first: expected {detail}" in str(caught.value) and "\n" not in str(caught.value)
    (run.policy.parent / "untrained" / "prompt.yaml").write_text("first: {qury}\n")
    with pytest.raises(CheckpointError, match=r"untrained/prompt\.yaml: first: expected a text"):
        load_policy(run.policy.parent / "untrained")


def test_grpo_trains_on_the_checkpoint_s_words(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture):
    settings = ["grpo.steps=1", "grpo.tasks_per_step=1", "grpo.group_size=2", "grpo.min_group=2"]
    config = load_config("smoke", [*MICRO, *settings, "env.max_context_tokens=2048", "sampler.kind=hf"])
    config = replace(
        config,
        run_dir=str(tmp_path / "grpo"),
        data=run.config.data,
        policy=replace(config.policy, path=str(run.policy)),
    )
    train_grpo(config)
    written = list(TrajectoryStore(tmp_path / "grpo" / "trajectories").read())
    assert len(written) == 2 and all("<query>" in texts([item]) for item in written)
    (checkpoint,) = (tmp_path / "grpo" / "checkpoints").iterdir()
    for folder in (tmp_path / "grpo" / "initial", checkpoint / "policy"):
        assert read_prompt(folder / "prompt.yaml") == read_prompt(run.words)
    assert load_config(tmp_path / "grpo" / "config.yaml").env.prompt == str(tmp_path / "grpo/initial/prompt.yaml")
    moved = (tmp_path / "grpo").rename(tmp_path / "moved")
    assert replay([str(moved), "--rescore"]) == 0, "a run that was moved finds its own copy"
    assert "2 rescored" in capsys.readouterr().out
