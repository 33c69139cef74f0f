"""Cold start: supervised stages on VTS-CoT traces, `python -m rl.sft_coldstart --config NAME [--resume]`.

`train` is the whole algorithm: every entry of `cold_start.stages` names a stage in `rl.sft.stages.STAGES`, and the
stages train one policy in turn. Writes `<run_dir>/policy`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from configs.load import add_config_arguments, check_command_line, config_from_args

if __name__ == "__main__":
    check_command_line()  # a mistake ends the command here, before the imports below load torch

import torch

from configs.schema import RunConfig, StageConfig
from cot_data.datasets.training_sources import training_sources
from env.errors import command
from env.files import make_folder, replace_folder
from env.frames import FrameCache
from env.prompts import find_prompt
from policy.videoseg.checkpoint import build_small, save_policy
from policy.videoseg.model import SegPolicy
from rl.families import as_trained, family_of
from rl.runtime.archive import set_aside
from rl.runtime.data_identity import Identity, data_identity
from rl.runtime.journal import Journal
from rl.runtime.preflight import prepare_machine
from rl.runtime.resume import check_resume, record_resume, refuse, started_with, write_start
from rl.runtime.resume_rules import COLD_START
from rl.sft.context import StageContext
from rl.sft.data import SftDataset
from rl.sft.stages import STAGES, caption_prompts, is_done, load_stage, save_stage

WRITTEN = ("config.yaml", "data.json", "changes.jsonl", "untrained", "stage-*", "policy")


def train(config: RunConfig, resume: bool = False) -> Path:
    """Run all stages and return the folder of the trained policy. `resume` continues a run that was interrupted."""
    run_dir = Path(config.run_dir)
    if resume:
        started_with(run_dir)
        config = as_trained(config, run_dir / "untrained")  # a run keeps its words
    dataset = SftDataset(config)
    data = data_identity(training_sources(config.data), dataset.parts)
    if resume:
        _check_stages(run_dir, config, data)
    policy = initial_policy(config, dataset)
    policy.prompt = find_prompt(config.env.prompt)  # which these stages teach, whatever it was trained with before
    if not resume:
        set_aside(run_dir, WRITTEN, Path(config.policy.path))
        make_folder(run_dir)
        write_start(run_dir, config, data)
    with replace_folder(run_dir / "untrained") as draft:
        save_policy(policy, draft)

    torch.manual_seed(config.seed)
    prompts = caption_prompts(config, policy)
    frames = FrameCache(blind=config.env.blind)
    for number, stage in enumerate(config.cold_start.stages):
        folder = stage_folder(run_dir, number, stage)
        if resume and is_done(folder):
            load_stage(folder, policy, prompts)
            continue
        STAGES[stage.kind](StageContext(policy, prompts, dataset, config, stage, frames, Journal(folder), folder))
        save_stage(folder, policy, prompts)
    with replace_folder(run_dir / "policy") as draft:
        save_policy(policy, draft)
    return run_dir / "policy"


def stage_folder(run_dir: Path, number: int, stage: StageConfig) -> Path:
    """Return the folder that a stage writes to; stages are numbered from 0."""
    return run_dir / f"stage-{number}-{stage.kind}"


def _check_stages(run_dir: Path, config: RunConfig, data: Identity) -> None:
    """Compare the run with what it is resumed with. CheckpointError where that must not change any more."""
    found = check_resume(run_dir, config, COLD_START, data)
    done = [is_done(stage_folder(run_dir, *each)) for each in enumerate(config.cold_start.stages)]
    finished = [f"cold_start.stages.{number}." for number, is_finished in enumerate(done) if is_finished]
    refuse(run_dir, [change for change in found if change.key.startswith(tuple(finished))])
    record_resume(run_dir, config, data, found, f"stage {sum(done)}")


def initial_policy(config: RunConfig, dataset: SftDataset) -> SegPolicy:
    """Load the policy of `policy.path`, or build the small default with a tokenizer trained on the data set."""
    if config.policy.path:
        return family_of(Path(config.policy.path), config.policy.kind).load(Path(config.policy.path), config.policy)
    return build_small(config.policy, dataset.corpus(), config.seed, dataset.phrases())


@command
def main() -> None:
    parser = argparse.ArgumentParser(description="Cold start: supervised stages on VTS-CoT traces.")
    add_config_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="continue the interrupted run in run_dir")
    args = parser.parse_args()
    config = config_from_args(args)
    with prepare_machine(Path(config.run_dir), resume=args.resume):
        print(f"policy written to {train(config, args.resume)}")


if __name__ == "__main__":
    main()
