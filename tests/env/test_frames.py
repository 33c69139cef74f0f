"""Choice and size of frames; their pixels are right, or an error names the file."""

import random
import struct
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from env.errors import DataError
from env.frames import FrameCache, Video, fit_size, frame_refs, probe, sample_indices
from env.node_cache import NodeCache
from env.types import FrameRef, Interval, VideoRef
from tests.helpers.env_videos import numbered_frame, read_number, write_folder, write_video

CONTAINERS = [
    ("a.mp4", "libx264", {"g": "12", "bf": "3"}),
    ("b.mkv", "libx264", {"g": "250", "bf": "3"}),
    ("c.webm", "libvpx-vp9", {"g": "20", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    ("d.mp4", "libx265", {"x265-params": "open-gop=1:keyint=12:bframes=3:log-level=none"}),
    ("e.avi", "mpeg4", {"g": "12"}),  # its packets carry no presentation times
    ("f.ts", "libx264", {"g": "12", "bf": "3"}),  # has no index: seeking is inexact
]


@pytest.mark.parametrize(
    ("start", "end", "count", "expected"),
    [
        (0, 10, 4, (0, 3, 6, 9)),
        (0, 66, 10, (0, 7, 14, 22, 29, 36, 43, 51, 58, 65)),
        (3, 10, 1, (6,)),
        (0, 10, 1, (5,)),
        (3, 4, 1, (3,)),
        (3, 4, 5, (3,)),
        (3, 8, 5, (3, 4, 5, 6, 7)),
        (3, 8, 9, (3, 4, 5, 6, 7)),
        (3, 8, 2, (3, 7)),
        (3, 8, 0, ()),
    ],
)
def test_sample_indices_are_exact(start, end, count, expected):
    assert sample_indices(Interval(start, end), count) == expected


def test_sampled_indices_are_sorted_unique_and_hold_both_ends():
    for length in range(2, 40):
        for count in range(2, length + 1):
            indices = sample_indices(Interval(7, 7 + length), count)
            assert (len(indices), indices[0], indices[-1]) == (count, 7, 6 + length)
            gaps = {right - left for left, right in pairwise(indices)}
            assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("height", "width", "max_pixels", "factor", "expected"),
    [
        (480, 854, 32 * 784, 32, (192, 128)),  # the released code: 196x112 in turn 0 and 211x118 later
        (480, 854, 128 * 784, 32, (416, 224)),
        (240, 432, 32 * 784, 32, (192, 128)),
        (240, 432, 256 * 784, 32, (448, 256)),  # larger than the source only by rounding up to the factor
        (30, 2000, 32 * 784, 28, (896, 28)),  # the released code: 1293x28, above the budget
        (1000, 10, 32 * 784, 28, (28, 896)),  # the released code: a side of 0
        (64, 64, 4 * 256, 16, (32, 32)),
        (64, 64, 20 * 256, 16, (64, 64)),
        (64, 64, 10, 32, (32, 32)),  # one cell is the smallest size
        (96, 128, 10**9, 32, (128, 96)),
    ],
)
def test_fit_size_is_exact(height, width, max_pixels, factor, expected):
    assert fit_size(height, width, max_pixels, factor) == expected


def test_fit_size_keeps_its_bounds():
    rng = random.Random(0)
    for _ in range(5000):
        height, width = rng.randint(1, 3000), rng.randint(1, 3000)
        max_pixels, factor = rng.randint(1, 10**6), rng.choice((14, 16, 28, 32))
        fitted_w, fitted_h = fit_size(height, width, max_pixels, factor)
        assert fitted_w % factor == fitted_h % factor == 0 and fitted_w >= factor and fitted_h >= factor
        assert fitted_w * fitted_h <= max(max_pixels, factor**2)
        assert fitted_w < width + factor and fitted_h < height + factor


def test_fit_size_turns_with_the_frame():
    for height, width in ((480, 854), (240, 432), (720, 1280), (100, 101)):
        wide = fit_size(height, width, 25088, 32)
        assert fit_size(width, height, 25088, 32) == wide[::-1]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_folder_gives_its_frames(tmp_path, suffix):
    ref = probe(write_folder(tmp_path / "clip", 5, suffix))
    assert ref == VideoRef(str(tmp_path), "clip", ("00000", "00001", "00002", "00003", "00004"), 5, 48, 80)
    frames = [Video(ref).frame(i) for i in (4, 0, 2)]
    assert [read_number(frame) for frame in frames] == [4, 0, 2]
    assert {(frame.dtype.name, frame.shape) for frame in frames} == {("uint8", (48, 80, 3))}


@pytest.mark.parametrize(("name", "codec", "options"), CONTAINERS)
def test_video_frames_are_exact_in_any_order(tmp_path, name, codec, options):
    ref = probe(write_video(tmp_path / name, 90, codec, options))
    assert (ref.num_frames, ref.height, ref.width, ref.frames) == (90, 48, 80, ())
    order = list(range(90))
    random.Random(0).shuffle(order)
    video = Video(ref)
    assert [read_number(video.frame(i)) for i in order] == order
    assert read_number(Video(ref).frame(89)) == 89


def test_a_video_recorded_sideways_is_turned_upright(tmp_path):
    path = write_video(tmp_path / "phone.mp4", 3, "libx264")
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44  # ISO/IEC 14496-12: the 3x3 matrix of a version 0 track header
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)  # a quarter right
    path.write_bytes(bytes(data))
    ref = probe(path)
    assert (ref.height, ref.width) == (80, 48)
    assert read_number(np.rot90(Video(ref).frame(2), 1)) == 2


def test_a_missing_frame_names_its_file(tmp_path):
    ref = probe(write_folder(tmp_path / "clip", 3))
    (tmp_path / "clip" / "00001.jpg").unlink()
    video = Video(ref)
    assert read_number(video.frame(2)) == 2
    with pytest.raises(DataError, match=r"clip/00001\.jpg: frame is missing"):
        video.frame(1)


def test_a_truncated_jpeg_names_its_file(tmp_path):
    ref = probe(write_folder(tmp_path / "clip", 3, height=240, width=432))
    path = tmp_path / "clip" / "00001.jpg"
    data = path.read_bytes()
    for share in (0.0, 0.05, 0.5, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(DataError, match=r"clip/00001\.jpg: cannot be decoded"):
            Video(ref).frame(1)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_damaged_image_gives_pixels_or_a_data_error(tmp_path, suffix):
    ref = probe(write_folder(tmp_path / "clip", 1, suffix))
    path = tmp_path / "clip" / f"00000{suffix}"
    data, rng = path.read_bytes(), random.Random(0)
    for _ in range(300):
        broken = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        path.write_bytes(bytes(broken))
        try:
            assert Video(ref).frame(0).shape == (48, 80, 3)
        except DataError as error:
            assert f"00000{suffix}" in error.where


def test_a_frame_of_another_size_is_refused(tmp_path):
    ref = probe(write_folder(tmp_path / "clip", 2))
    Image.fromarray(numbered_frame(1, 48, 88)).save(tmp_path / "clip" / "00001.jpg")
    with pytest.raises(DataError, match=r"00001\.jpg: frame is 88x48, expected 80x48"):
        Video(ref).frame(1)
    path = write_video(tmp_path / "v.mp4", 3, "libx264")
    with pytest.raises(DataError, match=r"v\.mp4: frame 0 is 80x48, expected 81x48"):
        Video(VideoRef(str(tmp_path), path.name, (), 3, 48, 81)).frame(0)


@pytest.mark.parametrize(("name", "codec", "options"), CONTAINERS)
def test_a_truncated_video_names_its_file(tmp_path, name, codec, options):
    path = write_video(tmp_path / name, 90, codec, options)
    data = path.read_bytes()
    for share in (0.0, 0.01, 0.5, 0.85):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(DataError, match=name):
            Video(VideoRef(str(tmp_path), name, (), 90, 48, 80)).frame(3)


def test_a_damaged_video_gives_pixels_or_a_data_error(tmp_path):
    path = write_video(tmp_path / "v.mp4", 30, "libx264", {"g": "12"})
    data, rng = path.read_bytes(), random.Random(0)
    ref = probe(path)
    for _ in range(100):
        broken = bytearray(data)
        for _ in range(rng.randint(1, 20)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        path.write_bytes(bytes(broken))
        try:
            assert Video(ref).frame(rng.randrange(30)).shape == (48, 80, 3)
        except DataError as error:
            assert "v.mp4" in error.where


def test_frames_outside_of_the_video_are_refused(tmp_path):
    video = Video(probe(write_folder(tmp_path / "clip", 3)))
    for frame_idx in (-1, 3):
        with pytest.raises(DataError, match=f"has frames 0 to 2, {frame_idx} was asked for"):
            video.frame(frame_idx)


def test_no_path_leaves_the_data_root(tmp_path):
    root = tmp_path / "root"
    write_folder(root / "clip", 1)
    secret = write_folder(tmp_path / "secret", 1)
    (root / "link").symlink_to(secret)
    (root / "clip" / "00001.jpg").symlink_to(secret / "00000.jpg")
    (root / "loop").symlink_to(root / "loop")
    for path in ("../secret", str(secret), "link", "clip/../../secret", "loop", "nul\0l", "x" * 5000):
        with pytest.raises(DataError):
            Video(VideoRef(str(root), path, ("00000",), 1, 48, 80))
    for name in ("00001", "../../secret/00000", str(secret / "00000")):
        with pytest.raises(DataError, match="leaves the data root"):
            Video(VideoRef(str(root), "clip", (name,), 1, 48, 80)).frame(0)
    (tmp_path / "alias").symlink_to(root)  # the root itself may be a link
    assert read_number(Video(VideoRef(str(tmp_path / "alias"), "clip", ("00000",), 1, 48, 80)).frame(0)) == 0


def test_huge_frames_are_refused_before_they_are_decoded(tmp_path):
    write_folder(tmp_path / "clip", 1)
    with pytest.raises(DataError, match="frames are 100000x100000"):
        Video(VideoRef(str(tmp_path), "clip", ("00000",), 1, 100_000, 100_000))
    Image.new("1", (12_000, 7_000)).save(tmp_path / "clip" / "00000.png")
    (tmp_path / "clip" / "00000.jpg").unlink()
    with pytest.raises(DataError, match="frames are 12000x7000"):
        probe(tmp_path / "clip")


def test_other_files_than_videos_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("not a video")
    for path, problem in (("empty", "expected frames"), ("text.mp4", "cannot be read"), ("none", "found neither")):
        with pytest.raises(DataError, match=problem):
            probe(tmp_path / path)
    with pytest.raises(DataError, match="expected 2 frame names, found 1"):
        Video(VideoRef(str(tmp_path), "empty", ("a",), 2, 4, 4))
    with pytest.raises(DataError, match="expected a video file, found none"):
        Video(VideoRef(str(tmp_path), "empty", (), 2, 4, 4))


def test_cached_pixels_are_area_averages_of_the_right_frame(tmp_path):
    ref = probe(write_folder(tmp_path / "clip", 3, ".png"))
    cache = FrameCache()
    shown = cache.pixels(ref, FrameRef(2, 40, 24, "strip"))
    blocks = numbered_frame(2).reshape(24, 2, 40, 2, 3).astype(float).mean(axis=(1, 3))
    assert shown.dtype == np.uint8 and np.abs(shown - blocks).max() <= 0.5
    assert cache.pixels(ref, FrameRef(2, 96, 64, "key")).shape == (64, 96, 3)
    assert (cache.full(ref, 2) == numbered_frame(2)).all()


@pytest.mark.parametrize(("width", "height"), [(160, 96), (120, 48), (100, 40), (80, 49)])
def test_pixels_that_grow_are_interpolated_linearly_between_pixel_centres(tmp_path, width, height):
    source = np.random.default_rng(5).integers(0, 256, (48, 80, 3), np.uint8)
    (tmp_path / "clip").mkdir()
    Image.fromarray(source).save(tmp_path / "clip" / "0.png")
    shown = FrameCache().pixels(probe(tmp_path / "clip"), FrameRef(0, width, height, "key"))
    if height >= 48 and width >= 80:
        expected = _linear(_linear(source.astype(float), height, 0), width, 1)
        assert np.abs(shown - expected).max() <= 1  # PIL rounds after each axis
        nearest = source[np.arange(height) * 48 // height][:, np.arange(width) * 80 // width]
        assert np.abs(nearest - expected).max() > 50
    assert shown.shape == (height, width, 3)


def _linear(values, size, axis):
    """Return values interpolated to `size` samples along an axis; outside of the outer centres they stay constant."""
    length = values.shape[axis]
    at = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
    low = np.minimum(at.astype(int), length - 2)
    part = (at - low).reshape([-1 if each == axis else 1 for each in range(3)])
    return values.take(low, axis) * (1 - part) + values.take(low + 1, axis) * part


def test_the_cache_decodes_and_resizes_once(tmp_path):
    ref = probe(write_folder(tmp_path / "clip", 2))
    cache = FrameCache()
    frame = FrameRef(0, 40, 24, "strip")
    first = cache.pixels(ref, frame)
    (tmp_path / "clip" / "00000.jpg").unlink()
    assert cache.pixels(ref, frame) is first
    assert cache.pixels(ref, FrameRef(0, 20, 12, "strip")).shape == (12, 20, 3)
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1


def test_the_cache_drops_the_least_recently_used(tmp_path):
    ref = probe(write_folder(tmp_path / "clip", 3))
    cache = FrameCache(max_bytes=2 * 48 * 80 * 3)
    cache.full(ref, 0)
    cache.full(ref, 1)
    cache.full(ref, 0)
    cache.full(ref, 2)  # drops 1
    for name in ("00000", "00001", "00002"):
        (tmp_path / "clip" / f"{name}.jpg").unlink()
    assert (read_number(cache.full(ref, 0)), read_number(cache.full(ref, 2))) == (0, 2)
    with pytest.raises(DataError, match="missing"):
        cache.full(ref, 1)
    tiny = FrameCache(max_bytes=10)
    write_folder(tmp_path / "other", 1)
    assert read_number(tiny.full(probe(tmp_path / "other"), 0)) == 0


def test_a_blind_cache_shows_grey(tmp_path):
    ref = probe(write_folder(tmp_path / "clip", 2))
    cache = FrameCache(blind=True)
    assert set(cache.pixels(ref, FrameRef(1, 40, 24, "key")).ravel()) == {127}
    assert read_number(cache.full(ref, 1)) == 1


def test_blind_zooms_replace_the_frames_of_tools_by_grey(tmp_path):
    ref = probe(write_folder(tmp_path / "clip", 2))
    cache = FrameCache(blind_zooms=True)
    for role in ("zoom", "key"):
        assert set(cache.pixels(ref, FrameRef(1, 40, 24, role)).ravel()) == {127}
    for role in ("strip", "detail"):
        assert len(set(cache.pixels(ref, FrameRef(1, 40, 24, role)).ravel())) > 1


def test_a_region_is_cut_from_the_source_and_resized_once(tmp_path):
    write_folder(tmp_path / "clip", 1, ".png")
    source = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
    Image.fromarray(source).save(tmp_path / "clip" / "00000.png")
    ref = probe(tmp_path / "clip")
    cache = FrameCache(node=NodeCache(str(tmp_path), 1 << 24, tmp_path))
    whole = cache.pixels(ref, FrameRef(0, 20, 12, "crop"))
    left = cache.pixels(ref, FrameRef(0, 20, 12, "crop", (0, 0, 40, 24)))
    right = cache.pixels(ref, FrameRef(0, 20, 12, "crop", (40, 24, 80, 48)))
    blocks = source[24:, 40:].reshape(12, 2, 20, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(right - blocks).max() <= 1  # PIL rounds after each axis
    assert len({whole.tobytes(), left.tobytes(), right.tobytes()}) == 3  # none is taken for another
    native = cache.pixels(ref, FrameRef(0, 40, 24, "crop", (0, 0, 40, 24)))
    assert (native == source[:24, :40]).all() and native.base is None
    (tmp_path / "clip" / "00000.png").unlink()
    again = FrameCache(node=NodeCache(str(tmp_path), 1 << 24, tmp_path))
    assert (again.pixels(ref, FrameRef(0, 20, 12, "crop", (40, 24, 80, 48))) == right).all()


@pytest.mark.parametrize("region", [(-1, 0, 4, 4), (0, 0, 81, 4), (4, 0, 4, 4), (0, 5, 4, 4), (0, 0, 4, 49)])
def test_a_region_outside_of_the_frame_is_refused(tmp_path, region):
    ref = probe(write_folder(tmp_path / "clip", 1))
    with pytest.raises(DataError, match="is empty or leaves its 80x48 pixels"):
        FrameCache().pixels(ref, FrameRef(0, 40, 24, "crop", region))


def test_frame_refs_have_one_size():
    ref = VideoRef("", "v", (), 66, 480, 854)
    assert frame_refs(ref, (3, 5), "zoom", 25088, 32) == (
        FrameRef(3, 192, 128, "zoom"),
        FrameRef(5, 192, 128, "zoom"),
    )
