"""Run the model family of the documentation through the commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from docs.examples.model_family import COLOUR, ColourPolicy
from env.store import TrajectoryStore
from env.types import StopReason
from rl import evaluate, predict
from rl.families import FAMILIES
from tests.helpers.rl_parts import write_shapes


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of the family, which this process knows by its line."""
    monkeypatch.setitem(FAMILIES, "colour", COLOUR)
    COLOUR.save(ColourPolicy(margin=40), tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_it_predicts_the_pixels_of_the_named_colour(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "video").mkdir()
    for t in range(3):
        pixels_HWC = np.full((16, 24, 3), 90, np.uint8)
        pixels_HWC[4:8, t : t + 6] = (200, 30, 30)
        pixels_HWC[10:14, 2:6] = (30, 30, 200)
        Image.fromarray(pixels_HWC).save(tmp_path / "video" / f"{t:05d}.png")
    words = ["--video", tmp_path / "video", "--query", "the red thing", "--checkpoint", checkpoint]
    monkeypatch.setattr(sys, "argv", ["rl.predict", *map(str, words), "--out", str(tmp_path / "out")])
    predict.main()
    for t in range(3):
        expected_HW = np.zeros((16, 24), bool)
        expected_HW[4:8, t : t + 6] = True
        assert np.array_equal(np.array(Image.open(tmp_path / "out" / "masks" / f"{t:05d}.png")) > 0, expected_HW)
    (trajectory,) = TrajectoryStore(tmp_path / "out" / "trajectories").read()
    assert trajectory.stop_reason is StopReason.SINGLE_PASS


def test_it_is_evaluated_and_better_than_blind(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It finds red, green and blue shapes of Moving Shapes; shown grey frames it finds none."""
    data = write_shapes(tmp_path / "data", videos=4)
    words = ["--checkpoint", checkpoint, "--out", tmp_path / "out", "--set", f"data.eval_root={data}"]
    monkeypatch.setattr(sys, "argv", ["rl.evaluate", *map(str, words), "--set", "eval.num_bootstrap=50"])
    evaluate.main()
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    sighted, blind = (results[label]["rows"] for label in ("sighted", "blind"))
    assert all(row["turns"] is None for row in sighted)
    assert max(row["j_visible"] or 0 for row in sighted) > 0.3
    assert max(row["j_visible"] or 0 for row in blind) == 0
