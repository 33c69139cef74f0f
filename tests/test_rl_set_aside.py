"""A start without --resume in the folder of an earlier run costs nothing of it."""

from __future__ import annotations

from pathlib import Path

from rl import grpo, sft_coldstart
from rl.set_aside import EARLIER, set_aside
from tests.rl_parts import Micro


def test_the_last_run_is_kept_and_older_ones_go(tmp_path: Path):
    (tmp_path / "data").mkdir()
    set_aside(tmp_path, ("stage-*", "policy"))
    assert not (tmp_path / EARLIER).exists(), "nothing was there"
    for run in range(2):
        (tmp_path / f"stage-{run}").mkdir()
        (tmp_path / "policy").write_text(str(run))
        set_aside(tmp_path, ("stage-*", "policy"))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["data", EARLIER]
        assert sorted(path.name for path in (tmp_path / EARLIER).iterdir()) == ["policy", f"stage-{run}"]
        assert (tmp_path / EARLIER / "policy").read_text() == str(run)


def test_a_cold_start_writes_what_it_sets_aside(micro: Micro):
    written = {path.name for path in micro.policy.parent.iterdir()}
    assert written == {path.name for name in sft_coldstart.WRITTEN for path in micro.policy.parent.glob(name)}


def test_grpo_writes_what_it_sets_aside(micro: Micro, tmp_path: Path):
    """From its own checkpoint, which is read before it goes."""
    settings = ["grpo.steps=1", "sampler.kind=hf"]
    grpo.train(micro.config(tmp_path, settings))
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {path.name for name in grpo.WRITTEN for path in tmp_path.glob(name)}
    start = next(tmp_path.glob("checkpoints/*/policy"))
    grpo.train(micro.config(tmp_path, [*settings, f"policy.path={start}"]))
    (new,) = tmp_path.glob("events.*")
    assert {path.name for path in (tmp_path / EARLIER).iterdir()} == written
    (old,) = (tmp_path / EARLIER).glob("events.*")
    assert {path.name for path in tmp_path.iterdir()} == written - {old.name} | {new.name, EARLIER}
