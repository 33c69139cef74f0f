"""A part of the generated media files through probe, check and prediction; `tests.bench.media_sweep` takes them all."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from configs.load import load_config
from env.errors import DataError
from env.types import StopReason
from rl.families import FAMILIES
from rl.predict import predict_each
from tests.helpers.annotation_cases import every_case
from tests.helpers.centre_box import CENTRE_BOX, CentreBox, save
from tests.helpers.media_verdict import Verdict, verdict_on

EACH = 8  # every eighth case


def test_there_are_five_hundred_cases_of_many_kinds():
    cases = every_case()
    assert len(cases) >= 500 and len({case.name for case in cases}) > 0.98 * len(cases)
    assert all(count >= 15 for count in Counter(case.kind for case in cases).values())
    assert sum(case.intact for case in cases) > 150


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_files_are_read_right_or_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read: dict[Path, tuple[Path, Verdict]] = {}
    verdicts = []
    for number, case in enumerate(every_case()[::EACH]):
        folder = tmp_path / "files" / f"{number:03d}"
        folder.mkdir(parents=True)
        path = case.build(folder)
        verdicts.append(verdict_on(case, path))
        if case.kind in ("video", "folder"):
            read[tmp_path / "out" / folder.name] = path, verdicts[-1]
    assert [verdict for verdict in verdicts if not verdict.is_good] == []
    counts = Counter(verdict.outcome for verdict in verdicts)
    assert counts["right"] >= 20 and counts["refused"] >= 10 and counts["in part"] >= 3

    monkeypatch.setitem(FAMILIES, "centre_box", CENTRE_BOX)
    save(CentreBox(0.5), tmp_path / "box")
    videos = {out: path for out, (path, _) in read.items()}
    found = predict_each(load_config("tiny"), videos, "it", tmp_path / "box")
    for (out, (_, verdict)), one in zip(read.items(), found, strict=True):
        has_failed = isinstance(one, DataError) or one.stop_reason is StopReason.ERROR
        assert has_failed == (verdict.outcome != "right"), verdict
        assert (out / "masks").exists() != has_failed
