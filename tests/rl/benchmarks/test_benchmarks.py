"""The protocols of the benchmarks on cases worked out by hand, and masks that another system wrote on real clips."""

from __future__ import annotations

import itertools
import json
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cot_data.clips import convert_clips
from cot_data.datasets import load_tasks
from env.errors import DataError
from env.rle import decode, encode
from env.types import RLE, Task, VideoRef
from rewards.video_metrics import best_matching, robustness
from rl.benchmarks.expression_scores import Prediction, missing
from rl.benchmarks.predictions import open_predictions
from rl.benchmarks.protocols import BENCHMARKS, twenty_frames
from rl.benchmarks.scorer import is_gold_known, score_benchmark
from rl.benchmarks.submission import write_submission
from rl.evaluate import main
from tests.helpers.published_layouts import LAYOUTS


def square(left: int, top: int = 4) -> RLE:
    """10 x 10 of the 20 x 20 pixels of a frame."""
    mask_HW = np.zeros((20, 20), bool)
    mask_HW[top : top + 10, left : left + 10] = True
    return encode(mask_HW)


def task(expression: str, gold: Sequence[RLE | None], subset: str = "", video: str = "sub/v") -> Task:
    frames = tuple(f"{t:05d}" for t in range(len(gold)))
    ref = VideoRef("/none", f"JPEGImages/{video}", frames, len(gold), 20, 20)
    return Task(f"root/{video}/{expression}", ref, "it", tuple(gold), subset=subset)


class Given:
    """Predictions by task id; None is a missing one."""

    def __init__(self, masks: Mapping[str, Sequence[RLE | None] | None]):
        self._masks = masks

    def of(self, task: Task) -> Prediction:
        masks = self._masks[task.task_id]
        return missing(task) if masks is None else Prediction(tuple(masks))


def scored(name: str, cases: Sequence[tuple[Task, Sequence[RLE | None] | None]], out: Path) -> dict:
    tasks = [each for each, _ in cases]
    return score_benchmark(name, tasks, 0, Given({each.task_id: masks for each, masks in cases}), out)


NOT_SCORED = ("mevis test", "ref_youtube_vos valid", "ref_sav train")  # hidden gold; no parts to average
A, B, HALF = square(0), square(10), square(5)  # A and B touch, HALF covers half of each


def test_revos_rounds_each_expression_and_averages_subsets(tmp_path: Path):
    cases = [
        (task("0", [A, None], "referring"), [HALF, None]),
        (task("1", [B, None], "referring"), [B, None]),
        (task("2", [A, None], "reasoning"), [A, B]),
        (task("3", [None, None], "hallucination"), [None, HALF]),
    ]
    found = scored("revos", cases, tmp_path)
    groups = found["groups"]
    # HALF against A: 50 of 150 pixels shared, 100 of 400 differ, 50 false ones against the 200 of A and B.
    assert found["rows"][0]["j"] == pytest.approx((1 / 3 + 1) / 2)
    assert found["rows"][0]["a"] == pytest.approx((0.75 + 1) / 2)
    assert found["rows"][0]["r"] == pytest.approx((0.75 + 1) / 2)
    assert groups["referring"]["j"] == pytest.approx((0.6667 + 1) / 2, abs=1e-12), "66.666.. is rounded to 66.67"
    # The second frame has no foreground: one false pixel makes R 0.
    assert (groups["reasoning"]["j"], groups["reasoning"]["f"]) == (0.5, 0.5)
    assert (groups["reasoning"]["a"], groups["reasoning"]["r"]) == ((1 + 0.75) / 2, 0.5)
    assert groups["overall"]["j"] == pytest.approx((groups["referring"]["j"] + 0.5) / 2), "not pooled over 3"
    assert groups["overall"]["r"] == pytest.approx(((0.875 + 1) / 2 + 0.5) / 2)
    assert groups["overall"]["jf"] == pytest.approx((groups["overall"]["j"] + groups["overall"]["f"]) / 2)
    assert (groups["overall"]["n"], groups["hallucination"]["n"]) == (3, 1)
    assert (found["n_acc"], found["t_acc"]) == (0.0, 1.0)


def test_revos_overall_needs_both_subsets(tmp_path: Path):
    found = scored("revos", [(task("0", [A], "referring"), [A])], tmp_path)
    assert found["groups"]["overall"]["jf"] is None and found["groups"]["referring"]["jf"] == 1.0


def test_foreground_is_a_union_and_r_does_not_fall_below_0(tmp_path: Path):
    # The released evaluator adds A and HALF to 2 and counts in 8 bits; their union has 150 pixels.
    cases = [(task("0", [A], "referring"), [B]), (task("1", [HALF], "reasoning"), [HALF])]
    assert scored("revos", cases, tmp_path)["rows"][0]["r"] == pytest.approx(1 - 100 / 150)
    assert robustness(*(decode(rle) for rle in (A, B, square(5, 5)))) == pytest.approx(0, abs=1e-7)
    empty = np.zeros((20, 20), bool)
    assert robustness(empty, ~empty, decode(A)) == 0 and robustness(empty, empty, empty) == 1


def test_the_foreground_is_that_of_the_whole_video_where_only_a_part_is_scored(tmp_path: Path):
    """R compares with what all expressions of the video annotate, those beyond the limit too."""
    tasks = [task("0", [A], "referring"), task("1", [HALF], "reasoning"), task("0", [B], "reasoning", "w")]
    given = Given({each.task_id: [B] for each in tasks})
    whole, part = (score_benchmark("revos", tasks, limit, given, tmp_path) for limit in (0, 1))
    assert part["rows"] == whole["rows"][:1] and part["rows"][0]["r"] == pytest.approx(1 - 100 / 150)
    two = score_benchmark("revos", tasks, 2, given, tmp_path)
    assert two["rows"] == whole["rows"][:2] and (two["num_tasks"], two["num_all"]) == (2, 3)


def test_long_rvos_tells_when_and_where(tmp_path: Path):
    gold, pred = [None, A, A, A, None], [None, None, A, HALF, B]
    cases = [
        (task("0", gold, "static"), pred),
        (task("1", [None] * 5, "dynamic"), [None] * 5),
        (task("2", gold, "static"), gold),
    ]
    found = scored("long_rvos", cases, tmp_path)
    # Frames 1 to 4 have a mask of either, 2 and 3 of both, with J 1 and 1/3.
    assert found["rows"][0]["tiou"] == pytest.approx(2 / 4)
    assert found["rows"][0]["viou"] == pytest.approx((1 + 1 / 3) / 4)
    assert found["rows"][0]["j"] == pytest.approx((1 + 0 + 1 + 1 / 3 + 0) / 5)
    assert (found["rows"][1]["tiou"], found["rows"][1]["viou"]) == (1, 1)
    assert found["groups"]["static"]["tiou"] == pytest.approx(0.75)
    assert found["groups"]["overall"]["tiou"] == pytest.approx((0.5 + 1 + 1) / 3), "weighted by expressions"


def test_groundmore_scores_twenty_frames(tmp_path: Path):
    assert twenty_frames(39) == list(range(0, 39, 2))
    assert twenty_frames(5) == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 4 + [4]
    action = [A if 10 <= t < 20 else None for t in range(39)]
    # Right in the action, five sampled frames too long after it; odd frames are never looked at.
    pred = [A if 10 <= t < 30 else (B if t % 2 else None) for t in range(39)]
    cases = [(task("0", action, "Causal"), pred), (task("1", action, "Sequential"), action)]
    groups = scored("groundmore", cases, tmp_path)["groups"]
    assert groups["Causal"]["j"] == groups["Causal"]["f"] == 15 / 20
    assert groups["overall"]["jf"] == (0.75 + 1) / 2


def test_ref_sav_averages_long_and_short_alike(tmp_path: Path):
    cases = [
        (task("0", [A], "long"), [A]),
        (task("1", [A], "long"), [A]),
        (task("2", [A, A, A], "short", "w"), [HALF, A, A]),
    ]
    groups = scored("ref_sav", cases, tmp_path)["groups"]
    assert groups["short"]["j"] == pytest.approx(0.7778, abs=1e-12)
    assert groups["overall"]["j"] == pytest.approx((1 + 0.7778) / 2)


def test_both_protocols_of_ref_davis17(tmp_path: Path):
    """Two objects A and B, four annotators: right, swapped, both sentences find A, the first finds both objects."""
    both = encode(decode(A) | decode(B))
    by_annotator = [(A, B), (B, A), (A, A), (both, B)]
    cases = [
        (task(str(4 * number + annotator), [gold] * 2), [masks[number]] * 2)
        for number, gold in enumerate((A, B))
        for annotator, masks in enumerate(by_annotator)
    ]
    cases.sort(key=lambda case: case[0].task_id)
    found = scored("ref_davis17", cases, tmp_path)
    # P2 judges each sentence; P1 does not care which of an annotator's objects is which, and lets none overlap.
    assert found["groups"]["overall"]["j"] == pytest.approx((2 + 0 + 1 + 1.5) / 8)
    assert found["by_annotator"]["j"] == pytest.approx((1 + 1 + 0.5 + 0.25) / 4)
    assert scored("ref_davis17", cases[:-1], tmp_path)["by_annotator"] is None, "an annotator has named one object only"


def test_the_best_matching_is_the_best_of_all_permutations():
    rng = np.random.default_rng(0)
    for case in range(300):
        rows = int(rng.integers(1, 6))
        columns = int(rng.integers(rows, 7))
        scores_NM = rng.integers(0, 4, (rows, columns)) / 1.0 if case % 2 else rng.random((rows, columns))
        best = max(scores_NM[range(rows), picked].sum() for picked in itertools.permutations(range(columns), rows))
        found = best_matching(scores_NM)
        assert len(set(found)) == rows and scores_NM[range(rows), found].sum() == pytest.approx(best)
    with pytest.raises(ValueError, match="at most as many rows"):
        best_matching(np.zeros((2, 1)))


def test_missing_predictions_are_empty_and_counted(tmp_path: Path):
    nothing = [None] * 3
    cases = [
        (task("0", [None, A, A]), None),
        (task("1", [None, A, A]), [None, A, HALF]),
        (task("2", [None] * 3), nothing),
        (task("3", [None] * 3), [A] * 3),
        (task("4", [A] * 3), nothing),
    ]
    found = scored("mevis", cases, tmp_path)
    assert [row["is_missing"] for row in found["rows"]] == [True, False, False, False, False]
    assert found["num_missing"] == 1
    assert found["rows"][0]["j"] == pytest.approx(1 / 3), "an empty mask is right where the target is absent"
    assert found["groups"]["overall"]["j"] == pytest.approx((1 / 3 + (2 + 1 / 3) / 3 + 1 + 0 + 0) / 5)
    assert (found["n_acc"], found["t_acc"]) == (1 / 2, 1 / 3)
    with pytest.raises(DataError, match=r"root/sub/v/0: expected 3 masks, found 1"):
        scored("mevis", [(cases[0][0], [A])], tmp_path)


def test_gold_is_known_for_all_or_for_none(tmp_path: Path):
    hidden = Task("root/v/9", task("9", [A]).video, "it", ())
    assert is_gold_known("mevis", [task("0", [A])]) and not is_gold_known("mevis", [hidden])
    with pytest.raises(DataError, match=r"root/v/9: has no gold masks, although"):
        scored("mevis", [(task("0", [A]), [A]), (hidden, [A])], tmp_path)
    with pytest.raises(DataError, match=r"expected one of mevis, .*groundmore, found 'mevi'"):
        is_gold_known("mevi", [hidden])


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout not in NOT_SCORED])
def test_gold_scores_full_marks_in_every_published_layout(layout: str, tmp_path: Path) -> None:
    name, write = LAYOUTS[layout]
    tasks = load_tasks(name, write(tmp_path))
    found = score_benchmark(name, tasks, 0, Given({each.task_id: each.gold for each in tasks}), tmp_path)
    empty = score_benchmark(name, tasks, 0, Given({each.task_id: None for each in tasks}), tmp_path)
    known = [group for group in found["groups"].values() if group["j"] is not None]
    assert known and all(group["j"] == group["f"] == group["jf"] == 1 for group in known)
    assert {task.subset for task in tasks} - {""} == found["groups"].keys() - {"overall"}
    assert empty["num_missing"] == len(tasks)
    assert all(row["j"] < 1 for row in empty["rows"] if row["has_target"])


@pytest.mark.parametrize(("name", "folder"), [("mevis", ""), ("ref_youtube_vos", "Annotations/")])
def test_an_archive_holds_every_frame_where_the_server_wants_it(tmp_path: Path, name: str, folder: str):
    cases = [(task("0", [None] * 2), [A, None]), (task("10", [None] * 2), None)]
    given = Given({each.task_id: masks for each, masks in cases})
    path = tmp_path / "submission.zip"
    predicted = [(each, given.of(each)) for each, _ in cases]
    assert write_submission(BENCHMARKS[name], predicted, path) == 1
    with zipfile.ZipFile(path) as archive:
        wanted = [f"{folder}sub/v/{exp}/{frame}.png" for exp in ("0", "10") for frame in ("00000", "00001")]
        assert archive.namelist() == wanted
        archive.extractall(tmp_path / "masks")
    assert np.unique(np.asarray(Image.open(tmp_path / "masks" / wanted[0]))).tolist() == [0, 255]
    back = open_predictions(tmp_path / "masks").of(cases[0][0])
    assert back.masks[0] == A and not decode(back.masks[1] or A).any()
    again = tmp_path / "again.zip"
    write_submission(BENCHMARKS[name], predicted, again)
    assert again.read_bytes() == path.read_bytes()


def write_png(path: Path, mask_HW: np.ndarray, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask_HW.astype(np.uint8) * (255 if mode == "L" else 3))
    if mode == "P":
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    image.save(path)


def test_pngs_of_any_kind_are_read_and_wrong_ones_named(tmp_path: Path):
    each = task("0", [A, A, A])
    folder = tmp_path / "Annotations" / "sub" / "v" / "0"
    write_png(folder / "00000.png", decode(A))
    write_png(folder / "00001.png", decode(A), "P")
    found = open_predictions(tmp_path).of(each)
    assert found.masks == (A, A, None) and (found.is_missing, found.num_missing_frames) == (False, 1)
    assert open_predictions(tmp_path).of(task("1", [A, A, A])).is_missing
    write_png(folder / "00002.png", np.zeros((20, 21), bool))
    with pytest.raises(DataError, match=r"00002\.png: expected 20 x 20, the size of the gold masks, found 20 x 21"):
        open_predictions(tmp_path).of(each)
    Image.new("RGB", (20, 20)).save(folder / "00002.png")
    with pytest.raises(DataError, match=r"00002\.png: expected grey values or a palette, found mode RGB"):
        open_predictions(tmp_path).of(each)
    (folder / "00002.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"00002\.png: expected a PNG"):
        open_predictions(tmp_path).of(each)
    with pytest.raises(DataError, match="expected a folder of predicted masks"):
        open_predictions(tmp_path / "none")


def test_a_results_json_is_read_and_its_faults_named(tmp_path: Path):
    path = tmp_path / "results.json"

    def found(masks: object) -> Prediction:
        path.write_text(json.dumps({"sub/v": {"0": {"prediction_masks": masks}}}))
        return open_predictions(tmp_path).of(task("0", [A, A]))

    assert found([A, None]).masks == (A, None)
    assert open_predictions(path).of(task("1", [A, A])).is_missing
    for masks, problem in (
        ([A], "expected 2 masks, found 1"),
        (None, "expected list"),
        ([A, encode(np.zeros((20, 21), bool))], r"\[1\]: expected 20 x 20, the size of the gold masks, found 20 x 21"),
        ([A, {"size": [20, 20], "counts": "0"}], r"\[1\]: expected runs that fill"),
        ([A, "x"], "run-length"),
    ):
        with pytest.raises(DataError, match=problem):
            found(masks)


@pytest.fixture(scope="module")
def osvos(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data/`: the clips in MeViS' layout; `png/`: OSVOS' predictions of the object of each expression."""
    root = tmp_path_factory.mktemp("osvos")
    convert_clips(clips, root / "data")
    videos = json.loads((root / "data" / "meta_expressions.json").read_text())["videos"]
    for clip, video in videos.items():
        for frame in video["frames"]:
            ids_HW = np.asarray(Image.open(clips / clip / "pred_osvos" / f"{frame}.png"))
            for exp_id, expression in video["expressions"].items():
                write_png(root / "png" / clip / exp_id / f"{frame}.png", ids_HW == expression["obj_id"][0])
    return root


def evaluate(monkeypatch: pytest.MonkeyPatch, source: Path, data: Path, out: Path, *more: str) -> dict:
    words = ["--benchmark", "mevis", "--from-predictions", str(source), "--out", str(out), *more]
    monkeypatch.setattr(sys, "argv", ["evaluate", *words, "--set", f"data.eval_root={data}"])
    main()
    return json.loads((out / "results.json").read_text())["benchmark"]


def test_predictions_on_the_clips_get_the_official_numbers(
    clips: Path, osvos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    official = json.loads((clips / "oracle_davis_official.json").read_text())["clips"]
    videos = json.loads((osvos / "data" / "meta_expressions.json").read_text())["videos"]
    found = evaluate(monkeypatch, osvos / "png", osvos / "data", tmp_path)
    assert found["num_missing"] == found["num_missing_frames"] == 0 and len(found["rows"]) == 8
    wanted = []
    for row in found["rows"]:
        _, clip, exp_id = row["task_id"].split("/")
        figures = official[clip][str(videos[clip]["expressions"][exp_id]["obj_id"][0])]["all_frames"]
        assert abs(row["j"] - figures["J_mean"]) < 1e-9 and abs(row["f"] - figures["F_mean"]) < 1e-9
        wanted.append(figures["JF"])
    assert abs(found["groups"]["overall"]["jf"] - np.mean(wanted)) < 1e-9
    assert f"{100 * np.mean(wanted):.2f}" in (tmp_path / "table.txt").read_text()


def test_a_results_json_of_the_same_masks_gets_the_same_numbers(
    osvos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    chosen = [each for each in load_tasks("mevis", osvos / "data") if "dogs-jump" in each.task_id]
    source, results = open_predictions(osvos / "png"), {}
    for each in chosen:
        masks = source.of(each).masks
        results[each.task_id.split("/")[2]] = {"prediction_masks": masks}
    (tmp_path / "results.json").write_text(json.dumps({"dogs-jump": results}))
    data = osvos / "data"
    given = evaluate(monkeypatch, tmp_path, data, tmp_path / "json")
    png = evaluate(monkeypatch, osvos / "png", data, tmp_path / "png")
    assert given["num_missing"] == len(given["rows"]) - len(chosen)
    rows = {row["task_id"]: row for row in png["rows"]}
    assert all(row == rows[row["task_id"]] for row in given["rows"] if not row["is_missing"])
    trial = evaluate(monkeypatch, osvos / "png", data, tmp_path / "trial", "--limit", "1")
    assert trial["rows"] == png["rows"][:1]
    assert "not the whole benchmark" in (tmp_path / "trial" / "table.txt").read_text()
    (tmp_path / "nothing").mkdir()
    with pytest.raises(SystemExit, match=r"nothing: holds no prediction for any of the tasks"):
        evaluate(monkeypatch, tmp_path / "nothing", data, tmp_path / "none")


def test_hidden_gold_gives_an_archive(osvos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "JPEGImages").mkdir()
    meta = json.loads((osvos / "data" / "meta_expressions.json").read_text())
    videos = {"libby": meta["videos"]["libby"]}
    (hidden / "meta_expressions.json").write_text(json.dumps({"videos": videos}))
    (osvos / "data" / "JPEGImages" / "libby").rename(hidden / "JPEGImages" / "libby")
    try:
        found = evaluate(monkeypatch, osvos / "png", hidden, tmp_path / "out")
    finally:
        (hidden / "JPEGImages" / "libby").rename(osvos / "data" / "JPEGImages" / "libby")
    assert "rows" not in found and found["num_missing"] == 0
    with zipfile.ZipFile(tmp_path / "out" / "submission.zip") as archive:
        assert len(archive.namelist()) == len(videos["libby"]["frames"])
        assert archive.namelist()[0] == f"libby/0/{videos['libby']['frames'][0]}.png"
