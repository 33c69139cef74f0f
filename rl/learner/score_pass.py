"""The score pass: run the policy over finished trajectories and fill in log-probabilities and masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from configs.schema import GrpoConfig
from env.errors import DataError
from env.frames import FrameCaches
from env.rle import decode_tracklet
from env.types import Trajectory
from policy.videoseg.model import SegPolicy
from policy.videoseg.tracking import track
from policy.vlm.batch import collate, to_sequence
from rl.learner.mask_targets import Target, mask_targets
from rl.learner.masks import fill_masks
from rl.learner.micro_batch import Forward, Sample, split_samples
from rl.learner.not_finite import fail_not_finite


class ScorePass:
    """Forward passes of the policy, and what they add to the trajectories.

    A forward pass is run with gradient where the loss is to be back-propagated through it, and without one under
    `torch.no_grad`; the numbers that it fills in are the same.
    """

    def __init__(self, policy: SegPolicy, config: GrpoConfig, frames: FrameCaches):
        self._policy = policy
        self._config = config
        self._frames = frames

    def to_sample(self, trajectory: Trajectory) -> Sample:
        """Return the trajectory with its token sequence."""
        return Sample(trajectory, to_sequence(trajectory, self._policy.chat, self._policy.layout))

    def targets(self, samples: Sequence[Sample]) -> list[Target]:
        """Return the masks that a forward pass over `samples` decodes."""
        pairs = [(sample.trajectory, sample.sequence) for sample in samples]
        return mask_targets(pairs, self._config.masks, self._config.mask_frames)

    def forward(self, samples: Sequence[Sample]) -> Forward:
        """Run the policy over one micro-batch: log-probs of its tokens and logits of its masks."""
        policy = self._policy
        sequences = [sample.sequence for sample in samples]
        batch = collate(sequences, policy.chat, policy.layout, self._frames.policy, policy.device)
        output = policy(batch)
        targets = self.targets(samples)
        named = [(t.prompt_row, samples[t.sample].trajectory.task.video, t.frame_idx) for t in targets]
        if named:
            logits_NHW, presence_N = policy.decode_masks(output.prompts_MC, named, self._frames.sam)
        else:
            logits_NHW, presence_N = output.prompts_MC.new_zeros(0, 1, 1), output.prompts_MC.new_zeros(0)
        return Forward(samples, batch, output, targets, logits_NHW, presence_N)

    @torch.no_grad()
    def score(self, samples: Sequence[Sample]) -> list[str]:
        """Run the policy without gradient, micro-batch by micro-batch, and fill in the results; return as `fill`."""
        micro_batches = split_samples(samples, self._config.max_batch_tokens)
        return [cause for samples in micro_batches for cause in self.fill(self.forward(samples))]

    @torch.no_grad()
    def fill(self, forward: Forward) -> list[str]:
        """Write old log-probs, masks and mask log-probs of a forward pass into its trajectories.

        A trajectory with one that is not finite fails; these are returned as "trajectory: term".
        """
        for row, sample in enumerate(forward.samples):
            fill_logprobs(sample, forward.output.logprobs_BL[row])
        if forward.targets:
            fill_masks(forward, self._config)
        if self._config.masks == "tracked":
            self._fill_tracked_masks(forward)
        return fail_not_finite(forward.samples)

    def _fill_tracked_masks(self, forward: Forward) -> None:
        """Replace the answer's masks with those of a track through the whole video."""
        trajectories = [sample.trajectory for sample in forward.samples]
        prompts: list[Tensor | None] = [None] * len(trajectories)
        for target in forward.targets:
            if target.turn == len(trajectories[target.sample].turns) - 1:
                prompts[target.sample] = forward.output.prompts_MC[target.prompt_row]
        for trajectory in track(self._policy, trajectories, prompts, self._frames.sam):  # it is filled in by then
            if trajectory.has_failed:
                raise DataError(trajectory.task.video.path, trajectory.error)

    def fail_unreadable(self, samples: Sequence[Sample]) -> None:
        """Fail the trajectories with frames or gold masks that cannot be read, as far as training needs them."""
        for sample in samples:
            try:
                self._read(sample)
            except DataError as error:
                sample.trajectory.fail(str(error))

    def _read(self, sample: Sample) -> None:
        trajectory = sample.trajectory
        task, video = trajectory.task, trajectory.task.video
        for frame in sample.sequence.frames:
            self._frames.policy.pixels(video, frame)
        is_tracked = self._config.masks == "tracked"
        decoded = range(video.num_frames) if is_tracked else {target.frame_idx for target in self.targets([sample])}
        for frame_idx in decoded:
            self._frames.sam.full(video, frame_idx)
        decode_tracklet(task.gold, (video.height, video.width), f"task {task.task_id}")


def fill_logprobs(sample: Sample, logprobs_L: Tensor) -> None:
    """Store the log-probs of a sample's action tokens, turn by turn, as the old ones.

    Args:
        sample: The trajectory to fill, and its token sequence of length L' <= L.
        logprobs_L: [L] log-probs of the padded row; positions outside actions are ignored.
    """
    turn_idx = torch.tensor(sample.sequence.turn_idx)
    for number, turn in enumerate(sample.trajectory.turns):
        at = (turn_idx == number).nonzero()[:, 0].to(logprobs_L.device)
        turn.old_logprobs = tuple(logprobs_L[at].tolist())
