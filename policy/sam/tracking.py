"""Track objects through videos with SAM 2's memory.

`track_objects` takes several conditioning frames per object, each with its own prompt, and goes through a video as
`TrackSettings` say. `track_paths` follows objects along paths of different lengths from one prompted frame each, and
`iter_tracks` does so both ways through several videos. All of them extend a `TrackState`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from policy.sam.model import DecodedMasks, FrameFeatures, SegSam2
from policy.sam.prompts import MaskPrompt
from policy.sam.track_state import TrackSettings, TrackState
from policy.sam.video_features import VideoFeatures


def track_objects(
    sam: SegSam2, video: VideoFeatures, prompts: Mapping[int, MaskPrompt], settings: TrackSettings
) -> list[DecodedMasks]:
    """Track B objects through one video from one or more conditioning frames.

    The logits equal those of stock `sam2.sam2_video_predictor.SAM2VideoPredictor`, given each conditioning frame in one
    call and run with `propagate_in_video` forwards, then in reverse. For this `order` must be "one_state" and
    `memory_dtype` bfloat16; `multimask`, `max_attended` and `binarize_prompted` must be as in the predictor, which must
    have `fill_hole_area` 0, and `non_overlap_masks` and the decoder's `dynamic_multimask_via_stability` off.

    In train mode SAM 2 has dropout, and frames also attend to pointers of later conditioning frames.

    Args:
        sam: SAM 2 in eval mode, or in train mode for losses on tracked frames.
        video: Features of the T frames; `ChunkedFeatures` keep a few of a long video, and two chunks are enough.
        prompts: Conditioning frame -> prompts of the B objects on it.
        settings: Order, attention and masks; see there.

    Returns:
        Masks of the B objects on each of the T frames. With `blank` of `SamConfig.presence`, which the predictor does,
        logits are -1024 where the object is predicted absent.

    Raises:
        ValueError: No conditioning frame, one outside the video, other numbers of objects, or `inject_every_frame`
            with several conditioning frames or without language tokens.
    """
    num_frames = len(video)
    _require_prompts(prompts, num_frames, settings)
    first = min(prompts)
    tokens = prompts[first] if settings.inject_every_frame else None
    rows_B = torch.zeros(len(prompts[first]), dtype=torch.long, device=sam.device)
    state = TrackState(sam, num_frames, settings)
    found: dict[int, DecodedMasks] = {}
    for at in sorted(prompts) if settings.decode_prompted_first else [first]:
        found[at] = state.decode_prompted(at, video.row(at).pick(rows_B), prompts[at])
    back = state.copy() if settings.order == "two_states" else state
    start = 0 if settings.order == "forward" else first
    # The way back in the same state attends to the first frames of the way forward.
    kept = range(first, first + sam.max_obj_ptrs_in_encoder + 1) if settings.order == "one_state" else range(0)
    for frames, memory, step in ((range(start, num_frames), state, 1), (range(start, -1, -1), back, -1)):
        for at in frames:
            if at in found:
                continue
            features = video.row(at).pick(rows_B)
            if at in prompts:
                found[at] = memory.decode_prompted(at, features, prompts[at])
            else:
                found[at] = memory.decode_tracked(at, features, tokens, reverse=step < 0)
            old = at - step * sam.max_obj_ptrs_in_encoder
            if old not in kept:
                memory.forget(old)
    return [found[at] for at in range(num_frames)]


def _require_prompts(prompts: Mapping[int, MaskPrompt], num_frames: int, settings: TrackSettings) -> None:
    if not prompts:
        raise ValueError("no conditioning frame: at least one frame needs a prompt")
    if outside := [at for at in prompts if not 0 <= at < num_frames]:
        raise ValueError(f"conditioning frame {outside[0]} is outside the video of {num_frames} frames")
    if len(counts := {len(prompt) for prompt in prompts.values()}) > 1:
        raise ValueError(f"conditioning frames have prompts of {sorted(counts)} objects; each needs one per object")
    if not settings.inject_every_frame:
        return
    if len(prompts) > 1 or next(iter(prompts.values())).tokens_BNC is None:
        raise ValueError("inject_every_frame needs exactly one conditioning frame, with language tokens")


def track_paths(
    sam: SegSam2, steps: Iterable[FrameFeatures], prompts_BC: Tensor, num_frames: int
) -> Iterator[DecodedMasks]:
    """Prompt the first frame of B paths with a language token, then follow each path with SAM 2's memory.

    A path may run backwards in time: SAM 2's memory knows distances only.

    Args:
        sam: SAM 2; its config says which masks it gives, and whether the token prompts every frame.
        steps: Per step, features with one row for each path that is that long. Paths are sorted, the longest first.
        prompts_BC: One language token per path.
        num_frames: Length of the whole video, which limits the number of object pointers.

    Yields:
        Masks of the paths at each step. With `blank` of `SamConfig.presence` logits are -1024 where the object is
        predicted absent.
    """
    settings = TrackSettings.of(sam.built_from)
    state = TrackState(sam, num_frames, settings)
    prompt = MaskPrompt.language(prompts_BC)
    for step, features in enumerate(steps):
        rows = len(features.levels[0])
        if rows < len(prompt):
            prompt = prompt.first(rows)
            state.keep_first(rows)
        if step == 0:
            yield state.decode_prompted(step, features, prompt)
        else:
            yield state.decode_tracked(step, features, prompt if settings.inject_every_frame else None)
            state.forget(step - sam.max_obj_ptrs_in_encoder)


def iter_tracks(
    sam: SegSam2, videos: Sequence[VideoFeatures], prompts_NC: Tensor, key_frames: Sequence[int]
) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Track one object through each of N videos from its key frame both ways, all side by side.

    The two ways know nothing of each other: each is `track_objects` with one conditioning frame and the settings
    `TrackSettings.of` the config of SAM 2, on videos of different lengths at once. No more is kept than the next steps
    need.

    Args:
        sam: SAM 2.
        videos: Features of the frames of each video. All videos are of one length, or at least as long as SAM 2's
            number of object pointers.
        prompts_NC: One language token per video.
        key_frames: The prompted frame of each video.

    Yields:
        Position of the video, frame, mask logits [h, w] and presence logit [] of every frame, and of the key frame
        twice.
    """
    paths = []
    for video, (features, key) in enumerate(zip(videos, key_frames, strict=True)):
        paths += [(video, range(key, len(features))), (video, range(key, -1, -1))]
    paths.sort(key=lambda path: -len(path[1]))
    steps = (
        FrameFeatures.stack([videos[video].row(frames[step]) for video, frames in paths if step < len(frames)])
        for step in range(len(paths[0][1]))
    )
    index = torch.tensor([video for video, _ in paths], device=prompts_NC.device)
    num_frames = max(len(features) for features in videos)
    for step, masks in enumerate(track_paths(sam, steps, prompts_NC[index], num_frames)):
        for row, (video, frames) in enumerate(paths[: len(masks.presence_N)]):
            yield video, frames[step], masks.logits_NHW[row], masks.presence_N[row]
