"""Frames and masks that are images: converted as Pillow does it and upright, or refused in one sentence."""

from __future__ import annotations

import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from cot_data.formats.png_masks import read_ids
from env.errors import DataError
from env.frames import Video, probe, probe_with_notes
from env.media.image_file import MAX_SCANS, image_size, read_image
from env.types import VideoRef
from tests.helpers.env_videos import numbered_frame, read_number
from tests.helpers.media import many_scans, save_each

NOISE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


# ---- kinds of pixels ----


def test_sixteen_bits_are_shown_by_their_upper_eight(tmp_path: Path):
    deep = np.random.default_rng(1).integers(0, 65536, (24, 40), np.uint16)
    Image.fromarray(deep).save(tmp_path / "grey.png")
    expected = np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, 2)
    assert (read_image(tmp_path / "grey.png") == expected).all()
    assert (cv2.imread(str(tmp_path / "grey.png")) == expected).all(), "as OpenCV reads it"
    colour = np.random.default_rng(2).integers(0, 65536, (24, 40, 3), np.uint16)
    cv2.imwrite(str(tmp_path / "colour.png"), colour)
    assert (read_image(tmp_path / "colour.png") == (colour >> 8)[..., ::-1]).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK"])
def test_other_pixels_are_converted_as_pillow_does(tmp_path: Path, mode: str):
    image = Image.fromarray(NOISE).convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(path)
    with Image.open(path) as opened:
        assert opened.mode == mode
        expected = np.array(opened.convert("RGB"))
    assert (read_image(path) == expected).all()


def test_transparent_pixels_are_refused_and_an_opaque_channel_is_not(tmp_path: Path):
    alpha = np.full((24, 40), 255, np.uint8)
    opaque = Image.fromarray(np.dstack([NOISE, alpha]))
    opaque.save(tmp_path / "opaque.png")
    assert (read_image(tmp_path / "opaque.png") == NOISE).all()
    alpha[3, 5] = 254
    Image.fromarray(np.dstack([NOISE, alpha])).save(tmp_path / "alpha.png")
    Image.fromarray(NOISE).quantize(8).save(tmp_path / "palette.png", transparency=0)
    Image.fromarray(NOISE).save(tmp_path / "key.png", transparency=tuple(int(value) for value in NOISE[0, 0]))
    Image.fromarray(np.dstack([NOISE[..., 0], alpha])).save(tmp_path / "grey.png")
    for name in ("alpha.png", "palette.png", "key.png", "grey.png"):
        with pytest.raises(DataError, match="expected opaque pixels, found transparent ones"):
            read_image(tmp_path / name)


# ---- orientation ----


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_obeyed(tmp_path: Path, orientation: int, suffix: str):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"0{suffix}"
    Image.fromarray(NOISE).save(path, exif=exif, quality=95)
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image))
    found = read_image(path)
    assert found.shape == expected.shape and (found == expected).all()
    assert image_size(path) == (found.shape[1], found.shape[0])
    ref = probe(tmp_path)
    assert (ref.height, ref.width) == found.shape[:2] and (Video(ref).frame(0) == expected).all()


def test_a_frame_whose_exif_turns_it_away_from_its_video_is_refused(tmp_path: Path):
    save_each(tmp_path / "clip", ["0.jpg", "1.jpg"])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(numbered_frame(1)).save(tmp_path / "clip" / "1.jpg", exif=exif)
    with pytest.raises(DataError, match="frame is 48x80 after the rotation that its EXIF asks for, expected 80x48"):
        Video(probe(tmp_path / "clip")).frame(1)


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\x08", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\1" * 40, b"Exif\0\0"])
def test_a_damaged_exif_block_ends_in_pixels_or_one_sentence(tmp_path: Path, exif: bytes):
    Image.fromarray(NOISE).save(tmp_path / "a.jpg", exif=exif)
    try:
        assert read_image(tmp_path / "a.jpg").shape == NOISE.shape
    except DataError as error:
        assert "EXIF" in error.problem or "cannot be decoded" in error.problem


# ---- cost ----


@pytest.mark.timeout(30)
def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(tmp_path: Path):
    many_scans(tmp_path / "bomb.jpg", 12_000, side=1024)
    begun = time.monotonic()
    with pytest.raises(DataError, match=r"expected a JPEG of at most 100 scans, found 120\d\d"):
        read_image(tmp_path / "bomb.jpg")
    with pytest.raises(DataError, match="at most 100 scans"):
        image_size(tmp_path / "bomb.jpg")
    assert time.monotonic() - begun < 1
    most = many_scans(tmp_path / "most.jpg", MAX_SCANS - 20)
    assert read_number(read_image(most)) == 3


def test_a_file_of_many_bytes_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    size = (tmp_path / "a.png").stat().st_size
    monkeypatch.setattr("env.media.image_file.MAX_BYTES", size)
    assert (read_image(tmp_path / "a.png") == NOISE).all()
    monkeypatch.setattr("env.media.image_file.MAX_BYTES", size - 1)
    with pytest.raises(DataError, match=f"expected at most {size - 1} bytes, found {size}"):
        read_image(tmp_path / "a.png")


@pytest.mark.timeout(20)
def test_a_fifo_among_frames_or_masks_is_one_sentence(tmp_path: Path):
    clip = save_each(tmp_path / "clip", ["0.jpg", "1.jpg"])
    os.mkfifo(clip / "2.jpg")
    os.mkfifo(tmp_path / "mask.png")
    (clip / "3.jpg").symlink_to("/dev/zero")
    video = Video(VideoRef(str(tmp_path), "clip", ("0", "1", "2"), 3, 48, 80))
    assert read_number(video.frame(1)) == 1
    with pytest.raises(DataError, match=r"2\.jpg: expected a regular file, found a FIFO"):
        video.frame(2)
    with pytest.raises(DataError, match="found a FIFO"):
        read_ids(tmp_path / "mask.png")
    with pytest.raises(DataError, match="found a device"):
        read_image(clip / "3.jpg")


# ---- folders ----


def test_unpadded_numbers_are_in_order_of_their_values(tmp_path: Path):
    for first, names in enumerate(
        ([f"{at}.jpg" for at in range(12)], [f"f{at}_x.png" for at in (1, 2, 10, 100)], ["a9.jpg", "a10.jpg", "b1.jpg"])
    ):
        ref = probe(save_each(tmp_path / f"clip{first}", names))
        assert ref.frames == tuple(name.rpartition(".")[0] for name in names)
        assert [read_number(Video(ref).frame(at)) for at in range(len(names))] == list(range(len(names)))


def test_suffixes_of_any_case_are_frames_of_one_video(tmp_path: Path):
    names = [f"IMG_{at:04d}.{('jpg', 'JPG', 'Jpeg', 'PNG')[at % 4]}" for at in range(12)]
    found = probe_with_notes(save_each(tmp_path / "clip", names))
    assert found.notes == () and found.video.num_frames == 12
    assert [read_number(Video(found.video).frame(at)) for at in (11, 0, 5, 2)] == [11, 0, 5, 2]
    save_each(tmp_path / "clip", ["IMG_0000.JPG"])
    with pytest.raises(DataError, match="two frames share the name 'IMG_0000'"):
        probe(tmp_path / "clip")


def test_companion_files_are_ignored_with_a_word(tmp_path: Path):
    clip = save_each(tmp_path / "clip", ["0.jpg", "1.jpg"])
    for name in (".DS_Store", "Thumbs.db", "._0.jpg", "notes.txt", "meta.json"):
        (clip / name).write_bytes(b"\0\5\26\7")
    found = probe_with_notes(clip)
    assert found.video.frames == ("0", "1")
    assert found.notes == ("5 other files are ignored: .DS_Store, ._0.jpg, Thumbs.db, meta.json, notes.txt",)
    (clip / "sub.png").mkdir()
    (clip / "0.jpg").unlink()
    (clip / "1.jpg").unlink()
    with pytest.raises(DataError, match=r"expected frames .* found none; 6 other files are ignored: .* and 1 more"):
        probe(clip)


@pytest.mark.parametrize(
    ("numbers", "note"),
    [
        ([0, 1, 2, 6, 7], "2 to 6"),
        ([0, 5, 10, 20, 25], "10 to 20"),
        ([3, 4, 5], ""),
        ([0, 5, 10], ""),
        ([0, 2, 3, 4, 9, 10], "0 to 2, 4 to 9"),
    ],
)
def test_gaps_in_the_numbers_are_told(tmp_path: Path, numbers: list[int], note: str):
    found = probe_with_notes(save_each(tmp_path / "clip", [f"{number:05d}.jpg" for number in numbers]))
    assert found.video.num_frames == len(numbers)
    assert found.notes == (
        (f"the numbers of the frames leave gaps, and frames are counted without them: {note}",) if note else ()
    )
