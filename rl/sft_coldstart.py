"""Cold start: supervised stages on VTS-CoT traces, `python -m rl.sft_coldstart --config NAME [--resume]`.

`train` is the whole algorithm: every entry of `cold_start.stages` names a stage in `rl.sft.stages.STAGES`, and the
stages train one policy in turn. Writes `<run_dir>/policy`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from configs.load import add_config_arguments, check_command_line, config_from_args, config_text

if __name__ == "__main__":
    check_command_line()  # a mistake ends the command here, before the imports below load torch

import torch

from configs.schema import RunConfig
from env.errors import CheckpointError, command
from env.files import write_text
from env.frames import FrameCache
from env.prompts import find_prompt
from policy.videoseg.checkpoint import build_small, save_policy
from policy.videoseg.model import SegPolicy
from rl.families import as_trained, family_of
from rl.runtime.archive import set_aside
from rl.runtime.journal import Journal
from rl.sft.context import StageContext
from rl.sft.data import SftDataset
from rl.sft.stages import STAGES, caption_prompts, is_done, load_stage, save_stage

WRITTEN = ("config.yaml", "untrained", "stage-*", "policy")


def train(config: RunConfig, resume: bool = False) -> Path:
    """Run all stages and return the folder of the trained policy. `resume` continues a run that was interrupted."""
    run_dir = Path(config.run_dir)
    if resume and not (run_dir / "config.yaml").is_file():
        raise CheckpointError(f"{run_dir}: nothing to resume from (no config.yaml); start without --resume")
    if resume:
        config = as_trained(config, run_dir / "untrained")  # a run keeps its words
    dataset = SftDataset(config)
    policy = initial_policy(config, dataset)
    policy.prompt = find_prompt(config.env.prompt)  # which these stages teach, whatever it was trained with before
    if not resume:
        set_aside(run_dir, WRITTEN, Path(config.policy.path))
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text(run_dir / "config.yaml", config_text(config))
    save_policy(policy, run_dir / "untrained")

    torch.manual_seed(config.seed)
    prompts = caption_prompts(config, policy)
    frames = FrameCache(blind=config.env.blind)
    for number, stage in enumerate(config.cold_start.stages):
        folder = run_dir / f"stage-{number}-{stage.kind}"
        if resume and is_done(folder):
            load_stage(folder, policy, prompts)
            continue
        journal = Journal(folder)
        STAGES[stage.kind](StageContext(policy, prompts, dataset, config, stage, frames, journal, folder))
        journal.close()
        save_stage(folder, policy, prompts)
    save_policy(policy, run_dir / "policy")
    return run_dir / "policy"


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
    print(f"policy written to {train(config_from_args(args), args.resume)}")


if __name__ == "__main__":
    main()
