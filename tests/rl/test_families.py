"""Any model family through the same commands: a box in the centre of every frame is a second one, by one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.load import ConfigError, load_config
from configs.schema import RunConfig
from cot_data.datasets import load_tasks
from env import replay
from env.errors import CheckpointError, DataError
from env.frames import FrameCache
from env.rle import decode, is_empty
from env.store import TrajectoryStore
from env.types import StopReason, Trajectory
from policy import SHIPPED
from rewards import PROFILES, score
from rewards.jf import tracklet_jf
from rl import evaluate, predict
from rl.evaluation.identity import claim
from rl.evaluation.runner import segment_tasks
from rl.evaluation.trajectory_metrics import measure
from rl.evaluation.worker import EvalWorker
from rl.families import FAMILIES, family_name, family_of
from rl.grpo import train
from rl.report.charts import Chart
from rl.report.metric_rows import Cell, Evaluated, change_rows, main_rows
from rl.report.page import RunReport, render_report
from rl.report.training_curves import grpo_charts
from rl.rollout.episode_worker import WorkBatch
from rl.rollout.request import RolloutRequest
from rl.rollout.runner import OneByOneRunner
from rl.runtime.phases import PhaseCost
from tests.helpers.browser import open_page
from tests.helpers.centre_box import CENTRE_BOX, CentreBox, save
from tests.helpers.rl_parts import write_shapes

ROOT = Path(__file__).parent.parent.parent
NOT_STATED = ("interval_iou", "key_hit", "format", "turns", "tool_use")  # by a family without turns

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def centre_box(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "centre_box", CENTRE_BOX)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes") / "data")


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two checkpoints: a half of each side, and all of it."""
    folder = tmp_path_factory.mktemp("boxes")
    save(CentreBox(0.5), folder / "half")
    save(CentreBox(1.0), folder / "all")
    return folder / "half", folder / "all"


def run(monkeypatch: pytest.MonkeyPatch, command: str, *arguments: object) -> None:
    """One of our commands as it is typed; this process knows the second family."""
    monkeypatch.setattr(sys, "argv", [command, *map(str, arguments)])
    {"rl.evaluate": evaluate.main, "rl.predict": predict.main}[command]()


def evaluated(monkeypatch: pytest.MonkeyPatch, data: Path, checkpoint: Path, out: Path, *more: object) -> dict:
    places = ("--set", f"data.eval_root={data}", "--set", "eval.num_tasks=4", "--set", "eval.num_bootstrap=50")
    run(monkeypatch, "rl.evaluate", "--checkpoint", checkpoint, "--out", out, *places, *more)
    return json.loads((out / "results.json").read_text())


# ---- evaluated, scored, compared ----


def test_it_is_evaluated_and_what_it_does_not_state_is_left_out(
    monkeypatch: pytest.MonkeyPatch, data: Path, boxes: tuple[Path, Path], tmp_path: Path
):
    results = evaluated(monkeypatch, data, boxes[0], tmp_path)
    tasks = list(load_tasks("mevis", data))[:4]
    for row, task in zip(results["sighted"]["rows"], tasks, strict=True):
        size = (task.video.height, task.video.width)
        gold_THW = np.stack([np.zeros(size, bool) if rle is None else decode(rle, "gold") for rle in task.gold])
        box_HW = np.zeros(size, bool)
        box_HW[size[0] // 4 : size[0] - size[0] // 4, size[1] // 4 : size[1] - size[1] // 4] = True
        j_T, f_T = tracklet_jf(gold_THW, np.broadcast_to(box_HW, gold_THW.shape).copy())
        assert (row["j"], row["f"]) == (pytest.approx(j_T.mean()), pytest.approx(f_T.mean()))
        assert [row[key] for key in NOT_STATED] == [None] * len(NOT_STATED)
        assert row["stop"] == "single_pass"
    assert {row["j_visible"] for row in results["blind"]["rows"]} <= {0.0, None}, "it finds nothing on grey frames"
    assert results["sighted"]["summary"]["all"]["turns"] is None
    assert "single_pass" not in (text := (tmp_path / "table.txt").read_text()) and " - " in text


def test_ray_workers_find_the_same(
    monkeypatch: pytest.MonkeyPatch, data: Path, boxes: tuple[Path, Path], tmp_path: Path
):
    one = evaluated(monkeypatch, data, boxes[0], tmp_path / "one", "--set", "eval.blind=false")
    two = evaluated(
        monkeypatch, data, boxes[0], tmp_path / "two", "--set", "eval.blind=false", "--set", "eval.workers=2"
    )
    assert one["sighted"] == two["sighted"]


def test_a_worker_answers_after_every_video_and_shows_it_what_is_asked_for(data: Path, boxes: tuple[Path, Path]):
    worker = EvalWorker(RunConfig(), str(boxes[0]), CENTRE_BOX)
    requests = [RolloutRequest(task, -1, 0, 0, 0.0) for task in list(load_tasks("mevis", data))[:3]]
    first = worker.exchange(WorkBatch(0, False, requests))
    assert [item.trajectory_id for item in first.finished] == [requests[0].trajectory_id] and first.live == 2
    assert not any(is_empty(rle) for rle in first.finished[0].masks.values())
    blind = worker.exchange(WorkBatch(1, True, requests[:1]))  # what is left of the first play is dropped
    assert [item.trajectory_id for item in blind.finished] == [requests[0].trajectory_id] and blind.live == 0
    assert all(is_empty(rle) for rle in blind.finished[0].masks.values())


def test_a_benchmark_scores_it(monkeypatch: pytest.MonkeyPatch, data: Path, boxes: tuple[Path, Path], tmp_path: Path):
    found = evaluated(monkeypatch, data, boxes[0], tmp_path, "--benchmark", "mevis", "--limit", 4)
    rows = found["sighted"]["rows"]
    assert [(row["j"], row["f"]) for row in found["benchmark"]["rows"]] == [(row["j"], row["f"]) for row in rows]
    assert found["benchmark"]["num_missing"] == 0


def test_it_is_compared_with_another_evaluation(
    monkeypatch: pytest.MonkeyPatch, data: Path, boxes: tuple[Path, Path], tmp_path: Path
):
    for name, checkpoint in zip("ab", boxes, strict=True):
        evaluated(monkeypatch, data, checkpoint, tmp_path / name, "--set", "eval.blind=false")
    results = json.loads((tmp_path / "b" / "results.json").read_text())
    for row in results["sighted"]["rows"]:  # as of a policy with turns
        row |= {"format": 1.0, "turns": 2, "interval_iou": 0.5, "key_hit": 1.0, "tool_use": 1.0}
    (tmp_path / "b" / "results.json").write_text(json.dumps(results))
    for pair in (("a", "b"), ("b", "a")):
        run(monkeypatch, "rl.evaluate", "--compare", *(tmp_path / each for each in pair), "--out", tmp_path / "c")
        found = json.loads((tmp_path / "c" / "compare.json").read_text())["all"]
        assert found["n"] == 4 and found["jf"] is not None
        assert found["turns"] is found["format"] is found["interval_iou"] is None


# ---- predicted, replayed, rewarded ----


def test_it_predicts_and_its_trajectory_is_replayed(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    data: Path,
    boxes: tuple[Path, Path],
    tmp_path: Path,
):
    video = next(iter(load_tasks("mevis", data))).video
    folder = Path(video.root) / video.path
    run(monkeypatch, "rl.predict", "--video", folder, "--query", "it", "--checkpoint", boxes[1], "--out", tmp_path)
    assert f"mask on {video.num_frames} of {video.num_frames} frames" in capsys.readouterr().out
    assert len(list((tmp_path / "masks").glob("*.png"))) == video.num_frames
    assert (tmp_path / "overlay.mp4").stat().st_size > 0
    assert replay.main([str(tmp_path)]) == 0
    assert "single_pass 1; no rewards; mean turns -" in capsys.readouterr().out
    assert replay.main([str(tmp_path), "--stop", "single_pass", "--html", str(tmp_path / "page.html")]) == 0
    assert "1 of 1 trajectories" in capsys.readouterr().out
    with open_page(tmp_path / "page.html") as opened:
        assert opened.errors == []
        assert opened.page.locator("article .badge").first.inner_text() == "single_pass"
        assert opened.page.locator("section.turn").count() == 0
        assert opened.page.locator(".finals figure").count() == 12


def test_perfect_masks_without_turns_earn_what_masks_can_earn(data: Path):
    task = next(task for task in load_tasks("mevis", data) if any(task.gold))
    masks = {at: rle for at, rle in enumerate(task.gold) if rle is not None}
    perfect = Trajectory(f"-1/{task.task_id}/0", task, -1, 0, stop_reason=StopReason.SINGLE_PASS, masks=masks)
    assert measure(perfect)["jf"] == 1.0
    scores = score(perfect, PROFILES["default"])
    known = {name: value for name, value in scores.breakdown.items() if value is not None}
    assert set(known) <= {"mask_iou", "tracklet_jf"} and set(known.values()) == {1.0}
    assert scores.total == sum(PROFILES["default"][name] for name in known) > 0
    with pytest.raises(ValueError, match="ended as an error"):
        score(replace(perfect, stop_reason=StopReason.ERROR), PROFILES["default"])


# ---- reported ----


def test_it_is_reported_beside_another_policy(
    monkeypatch: pytest.MonkeyPatch, data: Path, boxes: tuple[Path, Path], tmp_path: Path
):
    stages = []
    for name, checkpoint in zip(("half", "all"), boxes, strict=True):
        results = evaluated(monkeypatch, data, checkpoint, tmp_path / name)
        items = list(TrajectoryStore(tmp_path / name / "trajectories").read())
        stages.append(Evaluated(name, f"replay_{name}.html", results, items))
    charts: dict[str, list[Chart]] = {"GRPO": grpo_charts([{"step": 0}], [], *stages)}
    report = RunReport("A report", "Two boxes.", stages, charts, {}, [PhaseCost("all", 1, 1)], "PSS", {}, "")
    assert main_rows(stages)[0][1][-1] == Cell("-") and change_rows(stages)[0][1][-1] == Cell("-")
    path = tmp_path / "report.html"
    path.write_text(render_report(report, FrameCache()))
    assert "segmented in a single pass" in path.read_text()
    with open_page(path) as opened:
        assert opened.errors == []
        cells = opened.page.locator("#main tbody tr").first.locator("td b").all_inner_texts()
        assert cells[2:] == ["-"] * 4 and cells[0] != "-"


# ---- what goes wrong ----


def test_an_unknown_family_is_named_before_anything_heavy_is_loaded(tmp_path: Path):
    (tmp_path / "policy.json").write_text('{"family": "videosek"}')
    code = (
        "import sys; sys.argv = ['evaluate', '--checkpoint', sys.argv[1], '--out', sys.argv[1] + '/out']\n"
        "from rl.evaluate import main\n"
        "try: main()\n"
        "finally: print([name for name in ('torch', 'vllm', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert "policy.json: family: unknown 'videosek'; known are videoseg; did you mean videoseg?" in done.stderr
    assert done.returncode == 1 and done.stdout.strip() == "[]"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "error", "problem"),
    [
        ('{"family": "centre_bax"}', ConfigError, r"known are videoseg, centre_box; did you mean centre_box\?"),
        ('{"family": 3}', ConfigError, "family: unknown 3"),
        ('{"fam', CheckpointError, r"policy\.json: no JSON, or cut off.*copy it again"),
        ("[]", CheckpointError, "expected a JSON object, found list"),
    ],
)
def test_a_card_that_names_no_family_of_ours_is_refused(text: str, error: type, problem: str, tmp_path: Path):
    (tmp_path / "policy.json").write_text(text)
    with pytest.raises(error, match=problem):
        family_of(tmp_path)


def test_the_card_goes_before_the_config_and_the_config_before_nothing(boxes: tuple[Path, Path], tmp_path: Path):
    assert family_name(boxes[0]) == "centre_box"
    assert family_name(SHIPPED, "centre_box") == "videoseg", "a card that names none is of the first family"
    assert family_name(tmp_path, "centre_box") == "centre_box", "a plain folder of weights has no card"
    with pytest.raises(ConfigError, match=r"policy\.kind: unknown 'video_seg'; .* did you mean videoseg"):
        family_name(SHIPPED, "video_seg")


def test_a_checkpoint_names_its_family_and_loads_by_it(tmp_path: Path):
    family = FAMILIES["videoseg"]
    policy = family.load(SHIPPED, None)
    family.save(policy, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "policy.json").read_text())["family"] == "videoseg"
    again = family_of(tmp_path / "again").load(tmp_path / "again", None)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in policy.state_dict().items())


def test_grpo_trains_no_family_without_turns(data: Path, boxes: tuple[Path, Path], tmp_path: Path):
    places = [f"data.train_root={data}", f"run_dir={tmp_path}/run", f"policy.path={boxes[0]}", "grpo.eval_every=0"]
    with pytest.raises(ConfigError, match="half is of a family without turns"):
        train(load_config("smoke", places))
    assert not (tmp_path / "run").exists()


def test_a_video_that_cannot_be_read_fails_alone(data: Path, boxes: tuple[Path, Path], tmp_path: Path):
    config = RunConfig()
    good, other = list(load_tasks("mevis", data))[:2]
    lost = replace(other, video=replace(other.video, path="JPEGImages/nowhere"))
    (store,) = segment_tasks(config, boxes[0], [good, lost], tmp_path / "out", ["sighted"]).values()
    stops = {item.task.task_id: item.stop_reason for item in store.read()}
    assert stops == {good.task_id: StopReason.SINGLE_PASS, lost.task_id: StopReason.ERROR}


def test_a_runner_refuses_a_trajectory_of_another_task(data: Path):
    class Confused:
        frames: object

        def segment(self, tasks: list, temperature: float, seed: int) -> Iterator[Trajectory]:
            yield Trajectory("0/another/0", tasks[0], 0, 0)

    task = next(iter(load_tasks("mevis", data)))
    runner = OneByOneRunner(Confused())  # pyright: ignore[reportArgumentType]
    runner.begin(RolloutRequest(task, -1, 0, 0, 0.0))
    with pytest.raises(ValueError, match=f"expected trajectory -1/{task.task_id}/0 of the segmenter"):
        runner.step()


def test_another_family_does_not_go_on_from_the_trajectories(boxes: tuple[Path, Path], tmp_path: Path):
    claim(tmp_path / "out", RunConfig(), boxes[0], [])
    with pytest.raises(DataError, match="other settings: checkpoint was"):
        claim(tmp_path / "out", RunConfig(), boxes[1], [])
    with pytest.raises(DataError, match="other settings: family was 'centre_box' and is 'videoseg' now"):
        claim(tmp_path / "out", RunConfig(), SHIPPED, [])
