"""Every command in README, CONTRIBUTING and the documentation runs as written, or is listed here with a reason."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from configs.load import ConfigError, load_config
from tests.helpers.doc_commands import ROOT, Workspace, all_commands, commands_in, options

pytestmark = pytest.mark.timeout(1200)

PYTHON = ".venv/bin/python -m "
EVALUATE = PYTHON + "rl.evaluate --config tiny --checkpoint policy/tiny --out runs/eval"
PREDICT = PYTHON + 'rl.predict --config tiny --checkpoint policy/tiny --video clip.mp4 --query "the red shape" '
PREDICT += "--out runs/prediction"
PREDICT_FOLDER = PREDICT.replace("clip.mp4", "runs/demo/data/heldout/JPEGImages/s2_00000")
DEMO_RUN = (EVALUATE, "demo run")
BACK = PYTHON + "policy.convert_sa2va runs/o3_2b runs/o3_2b_published --back"

# These run as they are written, on two videos of Moving Shapes, after the commands that they need.
RUN: dict[str, tuple[str, ...]] = {
    EVALUATE: (),
    PYTHON + "rl.evaluate --compare runs/demo/eval/cold_start runs/demo/eval/grpo --out runs/compare": DEMO_RUN,
    PYTHON + "env.replay runs/demo/grpo --step 11 --html replay.html": DEMO_RUN,
    PYTHON + "env.replay runs/demo/grpo --step 11 --limit 5": DEMO_RUN,
    PYTHON + "env.replay runs/demo/grpo --html replay.html": DEMO_RUN,
    PYTHON + "env.replay runs/demo/grpo --rescore": DEMO_RUN,
    PYTHON + "env.replay --play runs/demo/data/heldout": (),
    PREDICT: (),
    PREDICT_FOLDER: (),
    PYTHON + "env.replay runs/prediction": (PREDICT,),
    PYTHON + "cot_data.check mydata/train --dataset mevis": (),
    PYTHON + "cot_data.check data/mevis/train --dataset mevis": (),
    PYTHON + "cot_data.build data/mevis/train --config videoseg_o3/2b_cold_start --out traces.json": (),
    PYTHON + "cot_data.build data/mevis/train --dataset mevis --out traces.json --config videoseg_o3/2b_cold_start": (),
    PYTHON + "cot_data.moving_shapes --out runs/shapes --videos 20 --seed 5": (),
    PYTHON + "rl.evaluate --benchmark mevis --from-predictions masks --out runs/theirs "
    "--set data.eval_root=data/mevis/valid_u": (),
    BACK: (),
}

# These are only checked, and why. Targets of the Makefile are tried with `make -n`; of `python -m` commands module,
# options, config and `--set` are checked.
LONG, INSTALLS = "takes minutes", "installs packages"
GPU = "needs GPUs, published weights and data sets"
CHECKED: dict[str, str] = {
    "make demo": LONG,
    "make setup": INSTALLS,
    "make setup EXTRA=gpu": INSTALLS,
    "make check": "is a step of .ci/run",
    "make docs": "is a step of .ci/run",
    "make test": "runs this test",
    PYTHON + "rl.grpo --config tiny --set policy.path=policy/tiny --set run_dir=runs/mine --set grpo.steps=5": LONG,
    PYTHON + "rl.sft_coldstart --config videoseg_o3/2b_cold_start --set data.train_root=mydata/train": GPU,
    PYTHON + "rl.grpo --config videoseg_o3/2b_grpo --set data.train=[] --set data.train_root=mydata/train": GPU,
    PYTHON + "rl.sft_coldstart --config videoseg_o3/2b_sft": GPU,
    PYTHON + "rl.sft_coldstart --config videoseg_o3/2b_cold_start --set data.traces=traces.json": GPU,
    PYTHON + "rl.sft_coldstart --config videoseg_o3/2b_cold_start --set data.train_root=data/mevis/train "
    "--set data.traces=traces.json": GPU,
    PYTHON + "rl.grpo --config videoseg_o3/2b_grpo": GPU,
    PYTHON + "rl.grpo --config videoseg_o3/2b_grpo --resume": GPU,
    PYTHON + "rl.evaluate --config videoseg_o3/2b_eval --benchmark mevis "
    "--checkpoint runs/videoseg_o3/2b_grpo/checkpoints/step-001000/policy --out runs/mevis "
    "--set data.eval_root=data/mevis/valid_u": GPU,
    PYTHON + "rl.evaluate --config videoseg_o3/2b_eval --benchmark ref_youtube_vos "
    "--checkpoint runs/videoseg_o3/2b_grpo/checkpoints/step-001000/policy --out runs/rvos "
    "--set data.eval_root=data/rvos/valid": GPU,
    PYTHON + "cot_data.build data/mevis/train --out traces.json --config videoseg_o3/2b_cold_start "
    "--teacher http://localhost:8000/v1 --teacher-model Qwen/Qwen3-8B --max-tokens 20000000": "needs a server",
    PYTHON + "policy.convert_sa2va models/videoseg_o3_2b runs/o3_2b": (
        "needs published weights; tests/policy/test_convert_sa2va.py converts small ones"
    ),
    "vllm serve Qwen/Qwen3-8B --port 8000": "needs a GPU and a download",
    "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(python3 -c 'import secrets; print(secrets.token_hex(16))')": (
        "sets variables of the shell; tests/rl/test_ray_job.py sets the same"
    ),
    ".venv/bin/ray start --head": "starts a cluster; tests/rl/test_ray_job.py starts one on ports of its own",
    ".venv/bin/ray start --address FIRST_NODE:6379": "needs a second machine",
}
JOB = ".venv/bin/ray job submit "  # tests/rl/test_ray_job.py submits such a job and waits for its checkpoint


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("clone"))


def test_every_command_is_run_or_listed():
    found = [command for command in all_commands() if not command.startswith(JOB)]
    assert sorted(found) == sorted([*RUN, *CHECKED])


@pytest.mark.parametrize("command", RUN)
def test_a_command_runs_as_written(command: str, workspace: Workspace):
    workspace.run(command, RUN[command])


@pytest.mark.parametrize("command", [command for command in CHECKED if command.startswith("make ")])
def test_a_target_exists(command: str):
    done = subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [command for command in CHECKED if command.startswith(PYTHON)])
def test_module_options_and_config_of_a_command_exist(command: str):
    check_options(command)


def check_options(command: str) -> None:
    """AssertionError or ConfigError where a `python -m` command names what does not exist."""
    module, names, sets = options(command)
    source = ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text()
    source += (ROOT / "configs" / "load.py").read_text()
    for name in names:
        assert f'"{name}"' in source, f"{command}: {module} has no option {name}"
    words = shlex.split(command)
    if "--config" in words:
        load_config(words[words.index("--config") + 1], sets)


def test_the_ray_job_names_absolute_paths_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from rl.runtime.cluster import check_job_paths

    (job,) = [command for command in all_commands() if command.startswith(JOB)]
    command = job.replace("$PWD", str(ROOT))
    check_options(command)
    words = shlex.split(command)
    _, _, sets = options(command)
    copy = tmp_path / "working_dir_files" / "_ray_pkg_1"  # named as Ray names its copies
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    check_job_paths(load_config(words[words.index("--config") + 1], sets))


def test_commands_are_found_in_a_page():
    page = "a\n```bash\nmake x  # why\na \\\n    --b 1\n\n# alone\n```\n```yaml\nno: 1\n```\n```bash\nc\n```\n"
    assert commands_in(page) == ["make x", "a --b 1", "c"]


def test_a_planted_option_or_key_is_seen():
    with pytest.raises(AssertionError, match="no option --nonsense"):
        check_options(PYTHON + "rl.grpo --config tiny --nonsense")
    with pytest.raises(ConfigError, match="stepz"):
        check_options(PYTHON + "rl.grpo --config tiny --set grpo.stepz=1")
