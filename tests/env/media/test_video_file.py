"""Frames of video files are those that a player shows, compared with PyAV's own decoding from start to end."""

from __future__ import annotations

import os
import random
import socket
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from env.errors import DataError
from env.frames import Video, probe, probe_with_notes
from env.media.container_size import cuts_cluster, ends_early
from env.media.display_matrix import turned
from env.media.video_file import VideoFile
from env.types import VideoRef
from tests.helpers.env_videos import numbered_frame, read_number
from tests.helpers.media import (
    FILTERS,
    MATRICES,
    damaged_packet,
    filtered,
    numbered_video,
    remuxed,
    sequential,
    two_sizes,
    with_matrix,
)

FORMATS = [
    ("a.avi", "libx264", {"bf": "2", "g": "12"}, "yuv420p"),  # reordered, and AVI holds the decoding order alone
    ("b.avi", "mpeg4", {"bf": "2", "g": "12"}, "yuv420p"),
    ("c.mpg", "mpeg2video", {"bf": "2", "g": "12"}, "yuv420p"),
    ("d.h264", "libx264", {"bf": "2", "g": "12"}, "yuv420p"),  # no times at all
    ("e.gif", "gif", {}, "rgb8"),
    ("f.mp4", "libx264", {"bf": "3", "g": "250"}, "yuv420p10le"),
    ("g.mkv", "ffv1", {}, "gray16le"),
    ("h.flv", "flv1", {}, "yuv420p"),
    ("i.avi", "mjpeg", {}, "yuvj420p"),
]


OPEN = "keyint=20:open-gop=1:bframes=3:scenecut=0"


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.shape == expected.shape and bool((found == expected).all())


@pytest.mark.parametrize(("name", "codec", "options", "pix_fmt"), FORMATS)
def test_every_frame_is_that_of_decoding_from_the_start(tmp_path: Path, name, codec, options, pix_fmt):
    path = numbered_video(tmp_path / name, 40, codec, options, pix_fmt)
    expected, file = sequential(path), VideoFile(path)
    order = list(range(len(expected)))
    random.Random(1).shuffle(order)
    assert len(file) == len(expected) == 40
    assert all(same(file.frame(at), expected[at]) for at in order)


# ---- what a player shows ----


@pytest.mark.parametrize("skip", [0.3, 0.9, 1.5])
def test_a_video_cut_without_encoding_begins_where_its_edit_list_says(tmp_path: Path, skip: float):
    source = numbered_video(tmp_path / "source.mp4", 60, options={"g": "15", "bf": "2"})
    path = remuxed(source, tmp_path / "cut.mp4", skip)
    ref, expected = probe(path), sequential(path)
    assert 0 < ref.num_frames == len(expected) < 60
    video = Video(ref)
    assert read_number(video.frame(0)) == 60 - ref.num_frames
    assert all(same(video.frame(at), expected[at]) for at in (ref.num_frames - 1, 0, ref.num_frames // 2))


def test_dropped_frames_of_an_avi_are_not_counted(tmp_path: Path):
    times = [at if at < 20 else at + 4 for at in range(40)]
    path = numbered_video(tmp_path / "dropped.avi", 40, "mpeg4", times=times)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 44
    video = Video(probe(path))
    assert [read_number(video.frame(at)) for at in (39, 0, 20, 19)] == [39, 0, 20, 19]


def test_frames_that_no_player_can_decode_at_the_start_are_not_counted(tmp_path: Path):
    source = numbered_video(
        tmp_path / "s.mkv", 60, options={"x264-params": "keyint=20:open-gop=1:bframes=3:scenecut=0"}
    )
    with av.open(str(source)) as given, av.open(str(tmp_path / "cut.mkv"), "w") as out:
        stream = given.streams.video[0]
        copy = out.add_stream_from_template(stream)
        packets = [packet for packet in given.demux(stream) if packet.dts is not None]
        first = [at for at, packet in enumerate(packets) if packet.is_keyframe][1]
        for packet in packets[first:]:
            packet.stream = copy
            out.mux(packet)
    expected, file = sequential(tmp_path / "cut.mkv"), VideoFile(tmp_path / "cut.mkv")
    assert len(file) == len(expected) < len(packets) - first + 1
    assert all(same(file.frame(at), expected[at]) for at in (0, 5, len(file) - 1))


def test_uneven_times_do_not_matter(tmp_path: Path):
    times = np.cumsum(np.random.default_rng(0).integers(1, 9, 50)).tolist()
    for name in ("v.mp4", "v.mkv"):
        video = Video(probe(numbered_video(tmp_path / name, 50, options={"bf": "2"}, times=times)))
        assert [read_number(video.frame(at)) for at in (49, 3, 20, 0)] == [49, 3, 20, 0]


# ---- rotation and mirroring ----


@pytest.mark.parametrize("rows", MATRICES)
def test_rotation_and_mirroring_are_those_of_ffmpeg(tmp_path: Path, rows: tuple[int, int, int, int]):
    source = numbered_video(tmp_path / "source.mp4", 3)
    path = with_matrix(source, tmp_path / "turned.mp4", rows)
    expected = [filtered(pixels, FILTERS[rows]) for pixels in sequential(source)]
    video = Video(probe(path))
    assert (video.ref.height, video.ref.width) == expected[0].shape[:2]
    assert all(same(video.frame(at), expected[at]) for at in (2, 0, 1))


def test_each_matrix_turns_differently():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    made = {turned(pixels, (a, b, 0, c, d, 0, 0, 0, 1), Path("v")).tobytes() for a, b, c, d in MATRICES}
    assert len(made) == 8


def test_other_angles_are_refused(tmp_path: Path):
    pixels = np.zeros((4, 6, 3), np.uint8)
    for rows in ((46341, 46341, -46341, 46341), (0, 0, 0, 0), (65536, 6000, -6000, 65536)):
        a, b, c, d = rows
        with pytest.raises(DataError, match="expected a rotation by quarter turns"):
            turned(pixels, (a, b, 0, c, d, 0, 0, 0, 1), tmp_path / "v.mp4")
    slight = turned(pixels, (65526, 572, 0, -572, 65526, 0, 0, 0, 1), tmp_path / "v.mp4")  # half a degree
    assert slight.shape == (4, 6, 3)


# ---- sizes ----


def test_a_size_that_changes_is_refused_where_it_does(tmp_path: Path):
    ref = probe(two_sizes(tmp_path / "two.h264"))
    assert (ref.num_frames, ref.height, ref.width) == (20, 48, 80)
    video = Video(ref)
    assert read_number(video.frame(9)) == 9
    with pytest.raises(DataError, match="frame 10 is 96x64, expected 80x48"):
        video.frame(10)
    assert read_number(video.frame(3)) == 3


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
def test_pixels_that_are_not_square_are_told(tmp_path: Path, name: str):
    found = probe_with_notes(numbered_video(tmp_path / name, 3, ratio=Fraction(4, 3)))
    assert (found.video.height, found.video.width) == (48, 80)
    assert found.notes == (
        "its pixels are not square (4:3); frames and masks have the stored size, which a player stretches",
    )
    assert probe_with_notes(numbered_video(tmp_path / f"square{name}", 3)).notes == ()


def test_frames_are_bounded_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = numbered_video(tmp_path / "v.mp4", 12)
    monkeypatch.setattr("env.media.video_file.MAX_FRAMES", 11)
    with pytest.raises(DataError, match="at most 11 frames"):
        VideoFile(path)
    monkeypatch.undo()
    monkeypatch.setattr("env.media.image_file.MAX_FRAME_PIXELS", 48 * 80 - 1)
    with pytest.raises(DataError, match="frames are 80x48, expected 1 to 3839 pixels"):
        VideoFile(path)


# ---- missing and damaged packets ----


@pytest.mark.parametrize(
    ("name", "source", "codec", "remux_options"),
    [
        ("a.mp4", ".mp4", "libx264", {"movflags": "faststart"}),
        ("b.mkv", ".mp4", "libx264", {}),
        ("c.webm", ".webm", "libvpx-vp9", {}),
    ],
)
def test_a_file_that_is_cut_off_is_refused_or_complete(tmp_path: Path, name, source, codec, remux_options):
    given = numbered_video(tmp_path / f"source{source}", 50, codec, {"g": "12"})
    whole = remuxed(given, tmp_path / name, options=remux_options).read_bytes()
    complete = 0
    for tenth in [*range(1, 10), 9.7, 9.9, 9.99]:
        path = tmp_path / f"{tenth}{name}"
        path.write_bytes(whole[: int(len(whole) * tenth / 10)])
        try:
            file = VideoFile(path)
        except DataError as error:
            assert "cut short" in error.problem or "is the file complete?" in error.problem
            continue
        complete += 1
        assert [read_number(file.frame(at)) for at in range(len(file))] == list(range(50))
    assert complete <= 3


def test_an_avi_without_its_index_is_complete(tmp_path: Path):
    data = numbered_video(tmp_path / "v.avi", 30, "mpeg4").read_bytes()
    (tmp_path / "no_index.avi").write_bytes(data[: data.rfind(b"idx1")])
    assert len(VideoFile(tmp_path / "no_index.avi")) == 30
    for share in (0.5, 0.8):
        path = tmp_path / f"{share}.avi"
        path.write_bytes(data[: int(data.rfind(b"idx1") * share)])
        with pytest.raises(DataError, match=r"cut short|is the file complete"):
            VideoFile(path)


def test_the_end_that_a_container_promises_is_read_from_its_header(tmp_path: Path):
    for name, codec in (("v.avi", "mpeg4"), ("v.mkv", "libx264"), ("v.mp4", "libx264")):
        path = numbered_video(tmp_path / name, 10, codec)
        assert not ends_early(path) and not cuts_cluster(path)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        assert ends_early(path) == (not name.endswith("mp4"))
        assert cuts_cluster(path) == name.endswith("mkv")
    (tmp_path / "empty").write_bytes(b"")
    assert not ends_early(tmp_path / "empty") and not cuts_cluster(tmp_path / "empty")


@pytest.mark.parametrize("number", [20, 31, 44])
def test_a_damaged_packet_costs_its_group_of_pictures_and_shifts_nothing(tmp_path: Path, number: int):
    path = numbered_video(tmp_path / "v.mp4", 60, options={"g": "10", "bf": "0"})
    expected = sequential(path)
    bad = damaged_packet(path, number)
    for order in (range(60), range(59, -1, -1), random.Random(2).sample(range(60), 60)):
        file, failed = VideoFile(path), set()
        assert len(file) == 60
        for at in order:
            try:
                assert same(file.frame(at), expected[at])
            except DataError as error:
                assert f"frame {at} of 60 is missing or damaged" in error.problem
                failed.add(at)
        assert bad in failed and failed <= set(range(bad, bad // 10 * 10 + 10))


def test_a_damaged_frame_of_an_avi_costs_itself_alone(tmp_path: Path):
    path = numbered_video(tmp_path / "v.avi", 20, "mjpeg", pix_fmt="yuvj420p")
    expected = sequential(path)
    bad = damaged_packet(path, 7)
    file = VideoFile(path)
    assert len(file) == 20
    for at in range(20):
        if at == bad:
            with pytest.raises(DataError, match="frame 7 of 20 is missing or damaged"):
                file.frame(at)
        else:
            assert same(file.frame(at), expected[at])


def test_a_damaged_stream_without_times_is_refused(tmp_path: Path):
    path = numbered_video(tmp_path / "v.h264", 30, options={"g": "10", "bf": "2"})
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    path.write_bytes(data)
    try:
        assert len(VideoFile(path)) == len(sequential(path))  # FFmpeg may conceal it
    except DataError as error:
        assert str(path) in error.where


# ---- other kinds of files ----


def test_playlists_are_refused(tmp_path: Path):
    numbered_video(tmp_path / "v.mp4", 3)
    numbered_video(tmp_path / "v.ts", 3)
    (tmp_path / "list.ffconcat").write_text("ffconcat version 1.0\nfile v.mp4\n")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nv.ts\n#EXT-X-ENDLIST\n")
    assert len(sequential(tmp_path / "list.ffconcat")) == 3, "FFmpeg itself follows it"
    for name in ("list.ffconcat", "list.m3u8"):
        with pytest.raises(DataError, match=name):
            VideoFile(tmp_path / name)


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.avi"])
def test_tags_in_another_encoding_do_not_matter(tmp_path: Path, name: str):
    with av.open(str(tmp_path / name), "w") as container:
        container.metadata["title"] = "a title in UTF-8"
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(5), format="rgb24")))
        container.mux(stream.encode(None))
    data = (tmp_path / name).read_bytes()
    assert b"a title" in data
    (tmp_path / name).write_bytes(data.replace(b"a title", b"\xe9\xff title"[:7]))
    assert read_number(VideoFile(tmp_path / name).frame(0)) == 5


@pytest.mark.timeout(20)
def test_only_regular_files_are_opened(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(tmp_path)  # the path of a socket is short
        server.bind("socket.mp4")
        os.chdir(here)
        (tmp_path / "device.mp4").symlink_to("/dev/zero")
        for name, kind in (("fifo.mp4", "a FIFO"), ("socket.mp4", "a socket"), ("device.mp4", "a device")):
            with pytest.raises(DataError, match=f"expected a regular file, found {kind}"):
                VideoFile(tmp_path / name)
    with pytest.raises(DataError, match="found a FIFO"):
        probe(tmp_path / "fifo.mp4")
    with pytest.raises(DataError, match="expected a video file, found none"):
        Video(VideoRef(str(tmp_path), "fifo.mp4", (), 3, 48, 80))
