"""Track one object through each of several videos with SAM 2's memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from policy.sam.model import FrameFeatures, SegSam2


def track_videos(
    sam: SegSam2, videos: Sequence[FrameFeatures], prompts_NC: Tensor, key_frames: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """Mask logits [T, h, w] and presence logits [T] of one object in each of N videos, all tracked side by side.

    From its key frame each object is followed to either end of its video; the two ways know nothing of each other. All
    videos must be at least as long as SAM 2's row of object pointers, or of one length.
    """
    paths = []
    for video, (features, key) in enumerate(zip(videos, key_frames, strict=True)):
        paths += [(video, range(key, len(features.levels[0]))), (video, range(key, -1, -1))]
    paths.sort(key=lambda path: -len(path[1]))
    steps = (
        FrameFeatures.stack([videos[video].row(frames[step]) for video, frames in paths if step < len(frames)])
        for step in range(len(paths[0][1]))
    )
    index = torch.tensor([video for video, _ in paths], device=prompts_NC.device)
    num_frames = max(len(features.levels[0]) for features in videos)
    logits: list[dict[int, Tensor]] = [{} for _ in videos]
    presence: list[dict[int, Tensor]] = [{} for _ in videos]
    for step, output in enumerate(sam.track(steps, prompts_NC[index], num_frames)):
        for row, (video, frames) in enumerate(paths[: len(output["pred_masks"])]):
            logits[video][frames[step]] = output["pred_masks"][row, 0]
            presence[video][frames[step]] = output["object_score_logits"][row, 0]
    return [
        (torch.stack([masks[at] for at in sorted(masks)]), torch.stack([scores[at] for at in sorted(scores)]))
        for masks, scores in zip(logits, presence, strict=True)
    ]
