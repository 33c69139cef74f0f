"""Features encoded in chunks: the same numbers as those of a whole video, with a bounded number of chunks kept."""

from __future__ import annotations

import pytest
import torch

from policy.sam.model import FrameFeatures, SegSam2
from policy.sam.prompts import MaskPrompt
from policy.sam.track_state import TrackSettings
from policy.sam.tracking import track_objects
from policy.sam.video_features import ChunkedFeatures
from tests.helpers.sam_parts import noise_frames, small_sam, track_videos

T, CHUNK = 23, 4


@pytest.fixture(scope="module")
def sam() -> SegSam2:
    return small_sam()


class Counted:
    """A video whose chunks are encoded on request; `asked` is what was encoded, in order."""

    def __init__(self, sam: SegSam2, kept: int, first: int = 0):
        frames = noise_frames(T + first)[first:]
        self.asked: list[int] = []

        def encode(indices: range) -> FrameFeatures:
            self.asked.append(indices.start // CHUNK)
            return sam.encode_frames([frames[at] for at in indices])

        chunks = range(0, T, CHUNK)
        self.whole = FrameFeatures.stack([encode(range(start, min(start + CHUNK, T))) for start in chunks])
        self.asked.clear()
        self.chunked = ChunkedFeatures(encode, T, CHUNK, kept)


@torch.no_grad()
def test_rows_are_those_of_the_whole_video_in_any_order(sam: SegSam2):
    video = Counted(sam, kept=2)
    assert len(video.chunked) == len(video.whole) == T
    for at in (0, 22, 7, 8, 21, 0, 3, 12):
        found, expected = video.chunked.row(at), video.whole.row(at)
        pairs = zip(found.levels + found.positions, expected.levels + expected.positions, strict=True)
        assert all(torch.equal(left, right) for left, right in pairs)
    assert video.asked == [0, 5, 1, 2, 5, 0, 3]


@torch.no_grad()
@pytest.mark.parametrize("key", [0, 9, 22])
def test_a_video_tracked_both_ways_encodes_each_chunk_once(sam: SegSam2, key: int):
    video = Counted(sam, kept=2)
    prompt_1C = torch.randn(1, 32, generator=torch.Generator().manual_seed(1))
    ((logits, presence),) = track_videos(sam, [video.chunked], prompt_1C, [key])
    ((expected, also),) = track_videos(sam, [video.whole], prompt_1C, [key])
    assert presence is not None and also is not None
    assert torch.equal(logits, expected) and torch.equal(presence, also), "bit for bit"
    assert sorted(video.asked) == list(range(6))


@torch.no_grad()
def test_videos_side_by_side_and_several_objects_of_one_keep_two_chunks_each(sam: SegSam2):
    one, other = Counted(sam, kept=4), Counted(sam, kept=2, first=5)
    prompts_NC = torch.randn(3, 32, generator=torch.Generator().manual_seed(2))
    keys = (2, 20, 11)
    found = track_videos(sam, [one.chunked, one.chunked, other.chunked], prompts_NC, keys)
    expected = track_videos(sam, [one.whole, one.whole, other.whole], prompts_NC, keys)
    for (logits, presence), (wanted, also) in zip(found, expected, strict=True):
        assert presence is not None and also is not None
        assert torch.equal(logits, wanted) and torch.equal(presence, also)
    assert sorted(other.asked) == list(range(6))
    assert len(one.asked) <= 12


@torch.no_grad()
@pytest.mark.parametrize("order", ["one_state", "two_states", "forward"])
def test_objects_with_several_prompts_need_no_more_than_two_chunks(sam: SegSam2, order):
    video = Counted(sam, kept=2)
    generator = torch.Generator().manual_seed(3)
    prompts = {at: MaskPrompt.language(torch.randn(2, 32, generator=generator)) for at in (6, 15)}
    found = track_objects(sam, video.chunked, prompts, TrackSettings(order))
    expected = track_objects(sam, video.whole, prompts, TrackSettings(order))
    assert all(torch.equal(left.logits_NHW, right.logits_NHW) for left, right in zip(found, expected, strict=True))
    assert len(video.asked) <= 9


@torch.no_grad()
def test_positions_are_the_same_for_every_frame_and_are_not_copied(sam: SegSam2):
    features = sam.encode_frames(noise_frames(3))
    for position in features.positions:
        assert all(torch.equal(position[0], position[at]) for at in range(3))
    many = features.pick(torch.tensor([2, 0, 2, 1, 1]))
    joined = FrameFeatures.stack([features.row(at % 3) for at in range(7)])
    for made, count in ((many, 5), (joined, 7)):
        for position, one in zip(made.positions, features.positions, strict=True):
            assert position.shape == (count, *one.shape[1:]) and torch.equal(position[count - 1], one[0])
            assert position.untyped_storage().nbytes() <= one.untyped_storage().nbytes()
