"""An interrupted evaluation goes on, another one is refused, and Ray workers change nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from configs.policy_schema import SamConfig
from configs.schema import RunConfig
from env.errors import CheckpointError, DataError
from env.store import TrajectoryStore
from env.types import StopReason, Task, Trajectory
from rl.benchmarks.scorer import TrajectoryPredictions, score_benchmark
from rl.evaluation import runner as evaluation
from rl.evaluation.runner import measure_tasks, segment_tasks
from rl.evaluation.worker import EvaluationPool
from tests.helpers.rl_parts import Micro

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def config(micro: Micro, tmp_path: Path) -> RunConfig:
    return micro.config(tmp_path, ["sampler.kind=hf", "sampler.max_sequences=2", "env.max_action_tokens=48"])


@pytest.fixture(scope="module")
def whole(micro: Micro, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Task], dict]:
    """Five tasks and their results from one go."""
    folder = tmp_path_factory.mktemp("whole")
    config = micro.config(folder, ["sampler.kind=hf", "sampler.max_sequences=2", "env.max_action_tokens=48"])
    tasks = micro.tasks()[:5]
    stores = segment_tasks(config, micro.policy, tasks, folder / "out", ["sighted", "blind"])
    return tasks, measure_tasks(config, stores, tasks)


def test_an_interrupted_evaluation_goes_on(
    micro: Micro, config: RunConfig, whole: tuple[list[Task], dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tasks, expected = whole
    segmented: list[str] = []
    segment = EvaluationPool.segment

    def watched(pool: EvaluationPool, left: list[Task], is_blind: bool) -> Iterator:
        segmented.extend(f"{task.task_id} {is_blind}" for task in left)
        for at, trajectory in enumerate(segment(pool, left, is_blind)):
            if at == 3 and len(segmented) == len(tasks):
                raise KeyboardInterrupt
            yield trajectory

    monkeypatch.setattr(EvaluationPool, "segment", watched)
    arguments = (config, micro.policy, tasks, tmp_path / "out", ["sighted", "blind"])
    with pytest.raises(KeyboardInterrupt):
        segment_tasks(*arguments)
    store = TrajectoryStore(tmp_path / "out" / "trajectories")
    assert [item.task.task_id for item in store.read()] == [task.task_id for task in tasks[:3]]
    with store.trajectories_path.open("a") as file:
        file.write('{"version": 1, "torn')  # as a killed writer leaves it
    del segmented[:]
    with pytest.warns(UserWarning, match="unfinished last line"):
        stores = segment_tasks(*arguments)
    assert segmented == [f"{task.task_id} False" for task in tasks[3:]] + [f"{task.task_id} True" for task in tasks]
    assert measure_tasks(config, stores, tasks) == expected

    monkeypatch.setattr(evaluation, "EvaluationPool", None)  # nothing is left to do: no policy is loaded
    assert measure_tasks(config, segment_tasks(*arguments), tasks) == expected
    found = score_benchmark("mevis", tasks, 0, TrajectoryPredictions(store.read()), tmp_path)
    rows = expected["sighted"]["rows"]
    assert [(row["j"], row["f"]) for row in found["rows"]] == [(row["j"], row["f"]) for row in rows]


def test_ray_workers_find_what_one_process_finds(
    micro: Micro, config: RunConfig, whole: tuple[list[Task], dict], tmp_path: Path
):
    tasks, expected = whole
    spread = replace(config, eval=replace(config.eval, workers=2))
    stores = segment_tasks(spread, micro.policy, tasks, tmp_path / "out", ["sighted"])
    assert measure_tasks(spread, stores, tasks)["sighted"] == expected["sighted"]


def test_errors_are_tried_again(micro: Micro, config: RunConfig, tmp_path: Path):
    tasks = micro.tasks()[:2]
    evaluation.claim(tmp_path / "out", config, micro.policy, tasks)
    failed = [Trajectory(f"-1/{task.task_id}/0", task, -1, 0, error="disk gone") for task in tasks[:1]]
    TrajectoryStore(tmp_path / "out" / "trajectories").append(failed)
    (store,) = segment_tasks(config, micro.policy, tasks, tmp_path / "out", ["sighted"]).values()
    done = list(store.read())
    assert [item.task for item in done] == tasks and all(item.stop_reason is not StopReason.ERROR for item in done)


def test_another_evaluation_is_refused(micro: Micro, config: RunConfig, tmp_path: Path):
    tasks, out = micro.tasks()[:2], tmp_path / "out"
    evaluation.claim(out, config, micro.policy, tasks)
    evaluation.claim(out, replace(config, eval=replace(config.eval, workers=3, num_bootstrap=7)), micro.policy, tasks)
    moved = shutil.copytree(micro.policy, tmp_path / "moved")
    evaluation.claim(out, config, moved, tasks)
    text = (moved / "policy.json").read_text()
    (moved / "policy.json").write_text(json.dumps(json.loads(text), indent=3))
    others = {
        "checkpoint": (config, moved, tasks),
        "seed": (replace(config, seed=9), micro.policy, tasks),
        "env.max_turns": (replace(config, env=replace(config.env, max_turns=1)), micro.policy, tasks),
        "eval.temperature": (replace(config, eval=replace(config.eval, temperature=1.0)), micro.policy, tasks),
        "inject_every_frame": (
            replace(config, policy=replace(config.policy, sam=SamConfig(inject_every_frame=False))),
            micro.policy,
            tasks,
        ),
        "tasks": (config, micro.policy, [replace(tasks[0], expression="the cat"), tasks[1]]),
    }
    for part, changed in others.items():
        with pytest.raises(DataError, match=rf"evaluation\.json: belongs to an evaluation with other settings: {part}"):
            evaluation.claim(out, *changed)
    (out / "evaluation.json").unlink()
    (out / "trajectories").mkdir()
    with pytest.raises(DataError, match=r"trajectories: expected .*evaluation\.json beside it"):
        evaluation.claim(out, config, micro.policy, tasks)
    with pytest.raises(CheckpointError, match="nowhere: expected a checkpoint folder"):
        evaluation.claim(out, config, tmp_path / "nowhere", tasks)
