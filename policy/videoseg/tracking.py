"""Compute the masks of finished trajectories.

The last [SEG] prompts SAM 2 on the key frame, and SAM 2's memory carries the mask through the video. What is kept in
memory does not grow with the length of the video times its size: features are encoded in chunks, and masks are encoded
as they come.
A trajectory whose frames cannot be read ends in an error, and the others are not affected. A failed trajectory gets no
masks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from env.errors import DataError
from env.frames import FrameCaches
from env.rle import encode
from env.types import RLE, Malformed, Trajectory, VideoRef
from policy.sam.losses import binary_masks
from policy.sam.model import FrameFeatures
from policy.sam.tracking import iter_tracks
from policy.sam.video_features import ChunkedFeatures
from policy.videoseg.model import SegPolicy
from policy.videoseg.start_frame import is_decoded, start_frame
from policy.vlm.batch import FrameSource, TokenSequence, collate, pack, to_sequence

CHUNK = 16  # most frames encoded at once
CHUNK_PIXELS = 2**22  # of SAM 2's inputs that are encoded at once: 4 frames at 1024 x 1024, 16 up to 512 x 512
MASK_PIXELS = 2**23  # of masks at native size that are encoded at once: 4 frames of 1920 x 1080, one of 4K
MAX_PIXELS = 2**25  # of SAM 2's inputs whose features are kept at once: 32 frames at 1024 x 1024, 2048 at 128 x 128


def with_masks(
    policy: SegPolicy, trajectories: Sequence[Trajectory], frames: FrameCaches, malformed: str = "empty"
) -> Iterator[Trajectory]:
    """Yield trajectories in order, with `masks` of all frames where the last turn has a decision.

    Args:
        policy: The policy that wrote the trajectories.
        trajectories: Finished trajectories, filled in place.
        frames: Sources of pixels for the policy and for SAM 2.
        malformed: `eval.malformed`; with `decode` a last text with [SEG] has masks too where it has no decision.
    """
    yield from track(policy, trajectories, last_prompts(policy, trajectories, frames.policy, malformed), frames.sam)


def track(
    policy: SegPolicy,
    trajectories: Sequence[Trajectory],
    prompts: Sequence[torch.Tensor | None],
    sam_frames: FrameSource,
) -> Iterator[Trajectory]:
    """Yield trajectories in order, with the masks of known prompts.

    Args:
        policy: The policy whose SAM 2 tracks.
        trajectories: Finished trajectories, filled in place.
        prompts: Projected last [SEG] state [C] of each trajectory; those with None get no masks.
        sam_frames: Source of SAM 2's pixels.
    """

    def run(rows: Sequence[int]) -> None:
        propagate(policy, [(trajectories[at], prompts[at]) for at in rows], sam_frames)

    for batch in _batches(policy, trajectories):
        _or_one_by_one(run, [at for at in batch if prompts[at] is not None], trajectories)
        yield from (trajectories[at] for at in batch)


def _or_one_by_one(
    run: Callable[[Sequence[int]], None], rows: Sequence[int], trajectories: Sequence[Trajectory]
) -> None:
    """Run over several trajectories at once; if data cannot be read, over each alone, and fail those that need it.

    Args:
        run: Called with positions in `trajectories`; it raises DataError for data that cannot be read.
        rows: All positions.
        trajectories: Those that `rows` refers to.
    """
    try:
        run(rows)
    except DataError:
        for at in rows:
            try:
                run([at])
            except DataError as error:
                trajectories[at].fail(str(error))


def _batches(policy: SegPolicy, trajectories: Sequence[Trajectory]) -> Iterator[list[int]]:
    """Yield batches of consecutive trajectories whose videos fit into memory and can be tracked side by side.

    A video too long for its features to be kept has a batch of its own, or several: each trajectory keeps two chunks.
    """
    most_of_long = max(1, MAX_PIXELS // policy.sam.image_size**2 // _chunk(policy) // 2)
    batch: list[int] = []
    videos: set[VideoRef] = set()
    for at, trajectory in enumerate(trajectories):
        wider = videos | {trajectory.task.video}
        lengths = {min(video.num_frames, policy.sam.max_obj_ptrs_in_encoder) for video in wider}
        fits = _all_are_kept(policy, wider) or (len(wider) == 1 and len(batch) < most_of_long)
        if batch and (not fits or len(lengths) > 1):
            yield batch
            batch, wider = [], {trajectory.task.video}
        batch.append(at)
        videos = wider
    if batch:
        yield batch


@torch.no_grad()
def last_prompts(
    policy: SegPolicy, trajectories: Sequence[Trajectory], policy_frames: FrameSource, malformed: str = "empty"
) -> list[torch.Tensor | None]:
    """Return the projected last [SEG] state [C] of each trajectory; None where it is not decoded.

    A failed trajectory has None too.

    Args:
        policy: The policy that wrote the trajectories.
        trajectories: Finished trajectories.
        policy_frames: Source of the policy's pixels.
        malformed: `eval.malformed`.
    """
    prompts: list[torch.Tensor | None] = [None] * len(trajectories)
    sequences = {
        at: to_sequence(trajectory, policy.chat, policy.layout)
        for at, trajectory in enumerate(trajectories)
        if is_decoded(trajectory, malformed) and not trajectory.has_failed
    }
    sequences = {
        at: sequence
        for at, sequence in sequences.items()
        if len(trajectories[at].turns) - 1 in sequence.seg_turns  # malformed text may hold no [SEG]
    }

    def run(rows: Sequence[int]) -> None:
        picked = [sequences[at] for at in rows]
        output = policy(collate(picked, policy.chat, policy.layout, policy_frames, policy.device))
        for at, last in zip(rows, _last_rows(picked), strict=True):
            prompts[at] = output.prompts_MC[last]

    rows = list(sequences)
    for group in pack([len(sequences[at]) for at in rows], max_tokens=8192):
        _or_one_by_one(run, [rows[at] for at in group], trajectories)
    return prompts


def _last_rows(sequences: Sequence[TokenSequence]) -> list[int]:
    """Return the index of each sequence's last [SEG] among those of the whole batch."""
    rows, total = [], 0
    for sequence in sequences:
        total += len(sequence.seg_positions)
        rows.append(total - 1)
    return rows


@torch.no_grad()
def propagate(
    policy: SegPolicy, prompted: Sequence[tuple[Trajectory, torch.Tensor | None]], sam_frames: FrameSource
) -> None:
    """Fill the `masks` of trajectories by tracking from their key frame (`start_frame`) to both ends of the video.

    Args:
        policy: The policy whose SAM 2 tracks.
        prompted: Trajectories with a [SEG] in the last turn, each with its projected state [C].
        sam_frames: Source of SAM 2's pixels.
    """
    prompts, keys = [], []
    for trajectory, prompt_C in prompted:
        assert prompt_C is not None
        prompts.append(prompt_C.float())
        keys.append(start_frame(trajectory))
    if not prompts:
        return
    counts = Counter(trajectory.task.video for trajectory, _ in prompted)
    kept = _all_are_kept(policy, counts)
    encoded = {
        video: encode_video(policy, video, sam_frames, video.num_frames if kept else 2 * count)
        for video, count in counts.items()
    }
    videos = [encoded[trajectory.task.video] for trajectory, _ in prompted]
    writers = [_MaskWriter(trajectory.task.video, policy.sam.blanking) for trajectory, _ in prompted]
    for index, at, logits_HW, presence_1 in iter_tracks(policy.sam, videos, torch.stack(prompts), keys):
        writers[index].add(at, logits_HW, presence_1)
    for (trajectory, _), key_frame, writer in zip(prompted, keys, writers, strict=True):
        masks = writer.finish()
        if not writer.is_finite:  # they would read as empty masks
            trajectory.fail("SAM 2's mask logits are not finite; are the weights of the checkpoint damaged?")
            continue
        trajectory.masks = masks
        last = trajectory.turns[-1]
        last.key_mask = trajectory.masks[key_frame]
        if isinstance(last.decision, Malformed):
            last.mask_frame = key_frame


class _MaskWriter:
    """The masks of one trajectory, enlarged and run-length encoded a few frames at a time."""

    def __init__(self, video: VideoRef, blanking: Callable[[torch.Tensor], torch.Tensor | None]):
        """Start with no mask; `blanking` is `SegSam2.blanking`."""
        self._blanking = blanking
        self._size = (video.height, video.width)
        self._at_once = max(1, MASK_PIXELS // (video.height * video.width))
        self._waiting: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # mask and presence logits by frame
        self._masks: dict[int, RLE] = {}
        self.is_finite = True  # all logits so far

    def add(self, at: int, logits_HW: torch.Tensor, presence_1: torch.Tensor) -> None:
        """Add the logits of a frame; of the key frame they come twice, and are the same."""
        self._waiting[at] = (logits_HW, presence_1)
        if len(self._waiting) >= self._at_once:
            self._encode()

    def finish(self) -> dict[int, RLE]:
        """Return the masks in order of the frames."""
        self._encode()
        return dict(sorted(self._masks.items()))

    def _encode(self) -> None:
        if self._waiting:
            logits, presence = zip(*self._waiting.values(), strict=True)
            self.is_finite &= all(bool(torch.isfinite(each).all()) for each in logits)
            blanking_N = self._blanking(torch.stack(presence))
            masks_NHW = binary_masks(torch.stack(logits), blanking_N, *self._size).cpu().numpy()
            self._masks |= {at: encode(mask) for at, mask in zip(self._waiting, masks_NHW, strict=True)}
            self._waiting = {}


def encode_video(policy: SegPolicy, video: VideoRef, sam_frames: FrameSource, kept: int) -> ChunkedFeatures:
    """Return SAM 2's image features of a video, which are encoded as they are asked for.

    Args:
        policy: The policy with SAM 2.
        video: The video.
        sam_frames: Source of SAM 2's pixels.
        kept: Most chunks whose features stay in memory.
    """

    def encode_frames(indices: range) -> FrameFeatures:
        return policy.sam.encode_frames(sam_frames.full(video, at) for at in indices)

    return ChunkedFeatures(encode_frames, video.num_frames, _chunk(policy), kept)


def _chunk(policy: SegPolicy) -> int:
    return max(1, min(CHUNK, CHUNK_PIXELS // policy.sam.image_size**2))


def _all_are_kept(policy: SegPolicy, videos: Iterable[VideoRef]) -> bool:
    """Return whether the features of all frames may stay in memory."""
    return sum(video.num_frames for video in videos) * policy.sam.image_size**2 <= MAX_PIXELS
