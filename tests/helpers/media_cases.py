"""Generate videos and images of many kinds, each with what a reader should find in it.

A case is built into a folder of its own. `frames` of a case are what other programs read from it: PyAV, which decodes a
video from start to end, or Pillow with its own EXIF transposition; None where a reader may only refuse it.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from tests.helpers.env_videos import numbered_frame
from tests.helpers.media import (
    FILTERS,
    MATRICES,
    filtered,
    many_scans,
    numbered_video,
    picture,
    remuxed,
    save_each,
    sequential,
    two_sizes,
    with_matrix,
)

COUNT = 12  # frames of a case
Frames = list[np.ndarray] | None


@dataclass(frozen=True)
class Case:
    """One file or folder. `build` writes it into an empty folder and returns its path.

    `kind` is "video", "folder", "annotations" (a data set in the layout of MeViS) or "png_masks" (one in that of
    Ref-YouTube-VOS). `frames` reads it in another way;
    None: the case may only be refused. `intact` cases must be read, damaged ones may be refused.
    """

    name: str
    kind: str
    build: Callable[[Path], Path]
    frames: Callable[[Path], Frames] = lambda path: None
    intact: bool = True


FORMATS = {
    "h264.mp4": ("libx264", {"g": "6", "bf": "2"}, "yuv420p"),
    "h264.mkv": ("libx264", {"g": "6", "bf": "2"}, "yuv420p"),
    "h264.avi": ("libx264", {"g": "6", "bf": "2"}, "yuv420p"),
    "h264.ts": ("libx264", {"g": "6", "bf": "2"}, "yuv420p"),
    "h264.mov": ("libx264", {"g": "6"}, "yuv444p"),
    "h264.flv": ("libx264", {"g": "6", "bf": "2"}, "yuv420p"),
    "raw.h264": ("libx264", {"g": "6", "bf": "2"}, "yuv420p"),
    "ten_bits.mp4": ("libx264", {"g": "6", "bf": "2"}, "yuv420p10le"),
    "mpeg4.avi": ("mpeg4", {"g": "6"}, "yuv420p"),
    "mpeg4_b.avi": ("mpeg4", {"g": "6", "bf": "2"}, "yuv420p"),
    "mpeg4.mp4": ("mpeg4", {"g": "6", "bf": "2"}, "yuv420p"),
    "mpeg2.mpg": ("mpeg2video", {"g": "6", "bf": "2"}, "yuv420p"),
    "vp9.webm": ("libvpx-vp9", {"g": "6", "deadline": "realtime"}, "yuv420p"),
    "vp8.webm": ("libvpx", {"g": "6", "deadline": "realtime"}, "yuv420p"),
    "mjpeg.avi": ("mjpeg", {}, "yuvj420p"),
    "mjpeg.mov": ("mjpeg", {}, "yuvj422p"),
    "ffv1.mkv": ("ffv1", {}, "yuv444p"),
    "grey16.mkv": ("ffv1", {}, "gray16le"),
    "alpha.mov": ("qtrle", {}, "argb"),
    "prores.mov": ("prores_ks", {}, "yuv422p10le"),
    "wmv2.wmv": ("wmv2", {"g": "6"}, "yuv420p"),
    "flash.flv": ("flv1", {"g": "6"}, "yuv420p"),
    "animated.gif": ("gif", {}, "rgb8"),
    "animated.apng": ("apng", {}, "rgb24"),
    "raw.y4m": ("rawvideo", {}, "yuv420p"),
}
CUT = (
    "h264.mp4", "h264.mkv", "h264.avi", "h264.ts", "h264.flv", "ten_bits.mp4", "mpeg4.avi", "mpeg4.mp4", "mpeg2.mpg",
    "vp9.webm", "vp8.webm", "mjpeg.mov", "animated.gif", "raw.h264",
)  # fmt: skip
SIZES = ((48, 80), (96, 64), (34, 130))
IMAGE_MODES = ("1", "L", "P", "RGB", "CMYK", "LA", "RGBA")


def media_cases(rng: random.Random) -> list[Case]:
    """Return the cases of videos and images in a fixed order; `rng` chooses what is damaged and cut where."""
    makers = (_formats, _shown, _turned, _cut, _damaged, _images, _broken_images, _folders, _odd_files)
    return [case for maker in makers for case in maker(rng)]


# ---- videos ----


def _video(name: str, build: Callable[[Path], Path], intact: bool = True) -> Case:
    return Case(name, "video", build, sequential, intact)


def _plain(name: str, size: tuple[int, int] = SIZES[0]) -> Callable[[Path], Path]:
    codec, options, pix_fmt = FORMATS[name]
    return lambda folder: numbered_video(folder / name, COUNT, codec, options, pix_fmt, size=size)


def _formats(_: random.Random) -> Iterator[Case]:
    for name in FORMATS:
        for size in SIZES:
            yield _video(f"{name} {size[1]}x{size[0]}", _plain(name, size))


def _shown(rng: random.Random) -> Iterator[Case]:
    """Edit lists, dropped frames, uneven times, pixels that are not square, sizes that change."""

    def cut(skip: float, options: dict[str, str], suffix: str) -> Callable[[Path], Path]:
        def build(folder: Path) -> Path:
            source = numbered_video(folder / "source.mp4", 3 * COUNT, options=options)
            made = remuxed(source, folder / f"cut{suffix}", skip)
            source.unlink()
            return made

        return build

    def timed(name: str, times: list[int]) -> Callable[[Path], Path]:
        codec, options, pix_fmt = FORMATS[name]
        return lambda folder: numbered_video(folder / name, COUNT, codec, options, pix_fmt, times)

    def wide(name: str, ratio: Fraction) -> Callable[[Path], Path]:
        codec, options, pix_fmt = FORMATS[name]
        return lambda folder: numbered_video(folder / name, COUNT, codec, options, pix_fmt, ratio=ratio)

    for bf in ("0", "2"):
        for skip in (0.1, 0.3, 0.5, 0.7, 0.9):
            for suffix in (".mp4", ".mov"):
                yield _video(f"cut at {skip} s, bf {bf}{suffix}", cut(skip, {"g": "10", "bf": bf}, suffix))
    for name in ("mpeg4.avi", "mjpeg.avi", "h264.mp4", "h264.mkv", "vp9.webm", "h264.flv"):
        for most in (2, 9):
            steps = [rng.randint(1, most) for _ in range(COUNT)]
            yield _video(f"uneven times up to {most}, {name}", timed(name, [sum(steps[:at]) for at in range(COUNT)]))
    for name in ("h264.mp4", "h264.mkv", "mpeg4.avi", "mpeg2.mpg"):
        for ratio in (Fraction(16, 15), Fraction(1, 2)):
            yield _video(f"pixels {ratio}, {name}", wide(name, ratio))
    yield _video("two sizes", lambda folder: two_sizes(folder / "two.h264", COUNT // 2), intact=False)


def _turned(_: random.Random) -> Iterator[Case]:
    def turned(rows: tuple[int, int, int, int], suffix: str) -> Callable[[Path], Path]:
        def build(folder: Path) -> Path:
            source = numbered_video(folder / f"source{suffix}", COUNT)
            made = with_matrix(source, folder / f"turned{suffix}", rows)
            source.unlink()
            return made

        return build

    def reader(rows: tuple[int, int, int, int]) -> Callable[[Path], Frames]:
        return lambda path: [filtered(pixels, FILTERS[rows]) for pixels in sequential(path)]

    for rows in MATRICES:
        for suffix in (".mp4", ".mov"):
            yield Case(f"matrix {rows}{suffix}", "video", turned(rows, suffix), reader(rows))
    for rows in ((1, 1, -1, 1), (2, 1, -1, 2), (0, 0, 0, 0)):
        yield Case(f"matrix {rows}", "video", turned(rows, ".mp4"), intact=False)


def _changed(build: Callable[[Path], Path], change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def changed(folder: Path) -> Path:
        path = build(folder)
        path.write_bytes(change(path.read_bytes()))
        return path

    return changed


def first_part(share: float) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(len(data) * share)]


def _noise(seed: int, count: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        rng, broken = random.Random(seed), bytearray(data)
        for _ in range(count):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        return bytes(broken)

    return change


def _cut(_: random.Random) -> Iterator[Case]:
    for name in CUT:
        for tenth in range(10):
            yield _video(f"{tenth} tenths of {name}", _changed(_plain(name), first_part(tenth / 10)), intact=False)


def _damaged(rng: random.Random) -> Iterator[Case]:
    for name in CUT:
        for count in (1, 4, 20, 100):
            change = _noise(rng.randrange(1 << 30), count)
            yield _video(f"{count} damaged bytes in {name}", _changed(_plain(name), change), intact=False)


# ---- images ----


def _folder(name: str, build: Callable[[Path], Path], intact: bool = True) -> Case:
    return Case(name, "folder", build, pillow_frames, intact)


def pillow_frames(folder: Path) -> Frames:
    """Read a folder's images as Pillow converts them, in the order in which the cases write them."""
    from env.media.folder_listing import natural_key  # the order is tested by the numbers that frames show

    names = [path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    found = []
    for path in sorted((path for path in names if path.name[0] != "."), key=lambda path: natural_key(path.stem)):
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            deep = upright.mode.startswith("I")
            pixels = np.asarray(upright)
            shown = Image.fromarray((pixels >> 8).astype(np.uint8)) if deep else upright
            found.append(np.array(shown.convert("RGB")))
    return found


def _save(mode: str, suffix: str, size: tuple[int, int] = (48, 80), **more: object) -> Callable[[Path], Path]:
    def save(at: int, path: Path) -> None:
        pixels = picture(at, *size)
        deep = pixels[..., 0].astype(np.uint16) * 257
        image = Image.fromarray(deep) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
        image.save(path, "PNG" if suffix == ".png" else "JPEG", **more)

    return lambda folder: save_each(folder / "clip", [f"{at:03d}{suffix}" for at in range(COUNT)], save)


def _images(_: random.Random) -> Iterator[Case]:
    for mode in (*IMAGE_MODES, "I;16"):
        if mode != "CMYK":
            yield _folder(f"{mode} PNG", _save(mode, ".png"))
    for mode in ("L", "RGB", "CMYK"):
        for progressive in (False, True):
            yield _folder(f"{mode} JPEG, progressive {progressive}", _save(mode, ".jpg", progressive=progressive))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for suffix in (".jpg", ".png"):
            yield _folder(f"EXIF {orientation}{suffix}", _save("RGB", suffix, exif=exif))
    for size in ((8, 8), (1, 64), (300, 9), (719, 1281)):
        for suffix in (".jpg", ".png"):
            yield _folder(f"{size[1]}x{size[0]}{suffix}", _save("RGB", suffix, size))
    for subsampling in (0, 1, 2):
        yield _folder(f"subsampling {subsampling}", _save("RGB", ".jpg", subsampling=subsampling))
    yield _folder("transparent palette", _save("P", ".png", transparency=0), intact=False)
    yield _folder("transparent colour", _save("RGB", ".png", transparency=(0, 0, 0)), intact=False)


def _broken_images(rng: random.Random) -> Iterator[Case]:
    """One image of the folder is cut or damaged."""

    def broken(build: Callable[[Path], Path], change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
        def made(folder: Path) -> Path:
            clip = build(folder)
            path = sorted(clip.iterdir())[COUNT // 2]
            path.write_bytes(change(path.read_bytes()))
            return clip

        return made

    kinds = {
        "JPEG": _save("RGB", ".jpg"),
        "progressive JPEG": _save("RGB", ".jpg", progressive=True),
        "PNG": _save("RGB", ".png"),
        "16-bit PNG": _save("I;16", ".png"),
        "palette PNG": _save("P", ".png"),
    }
    for kind, build in kinds.items():
        for tenth in range(10):
            yield _folder(f"{tenth} tenths of a {kind}", broken(build, first_part(tenth / 10)), intact=False)
        for count in (1, 5, 25):
            change = _noise(rng.randrange(1 << 30), count)
            yield _folder(f"{count} damaged bytes in a {kind}", broken(build, change), intact=False)


def _folders(_: random.Random) -> Iterator[Case]:
    def named(names: list[str], others: tuple[str, ...] = ()) -> Callable[[Path], Path]:
        def build(folder: Path) -> Path:
            clip = save_each(folder / "clip", names)
            for other in others:
                (clip / other).write_bytes(b"\0\5\26\7 no image")
            return clip

        return build

    numbers = range(COUNT)
    suffixes = (".jpg", ".JPG", ".jpeg", ".PNG", ".png", ".Jpeg")
    yield _folder("unpadded", named([f"{at}.jpg" for at in numbers]))
    yield _folder("unpadded from 95", named([f"{at + 95}.png" for at in numbers]))
    yield _folder("unpadded with words", named([f"frame{at}_left.jpg" for at in numbers]))
    yield _folder(
        "padded and not", named([*(f"{at:02d}.jpg" for at in range(6)), *(f"{at}.jpg" for at in range(6, 12))])
    )
    yield _folder("mixed suffixes", named([f"IMG_{at:04d}{suffixes[at % 6]}" for at in numbers]))
    yield _folder("gaps", named([f"{at + 5 * (at > 6):05d}.jpg" for at in numbers]))
    yield _folder("every fifth", named([f"{5 * at:05d}.jpg" for at in numbers]))
    yield _folder("words", named([f"{letter}.png" for letter in "abcdefghijkl"]))
    yield _folder("two numbers", named([f"{1 + at // 6}_{at % 6}.jpg" for at in numbers]))
    for others in ((".DS_Store", "Thumbs.db"), ("._000.jpg", "._001.jpg"), ("notes.txt", "meta.json", "video.mp4")):
        yield _folder(f"with {', '.join(others)}", named([f"{at:03d}.jpg" for at in numbers], others))
    yield _folder("one name twice", named(["0.jpg", "1.jpg", "1.png"]), intact=False)
    yield _folder("empty", named([]), intact=False)
    yield _folder("other files alone", named([], ("a.txt", "b.webp")), intact=False)


def _odd_files(_: random.Random) -> Iterator[Case]:
    def among(make: Callable[[Path], object]) -> Callable[[Path], Path]:
        def build(folder: Path) -> Path:
            clip = save_each(folder / "clip", [f"{at}.jpg" for at in range(4)])
            (clip / "2.jpg").unlink()
            make(clip / "2.jpg")
            return clip

        return build

    def alone(name: str, make: Callable[[Path], object]) -> Callable[[Path], Path]:
        def build(folder: Path) -> Path:
            make(folder / name)
            return folder / name

        return build

    def bind(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            here = Path.cwd()
            os.chdir(path.parent)  # the path of a socket is short
            server.bind(path.name)
            os.chdir(here)

    def zero(path: Path) -> None:
        path.symlink_to("/dev/zero")

    def scans(path: Path) -> None:
        many_scans(path, 12_000, side=512)

    odd = {"a FIFO": os.mkfifo, "a socket": bind, "a device": zero, "12,000 scans": scans, "a folder": Path.mkdir}
    for kind, make in odd.items():
        yield Case(f"{kind} among frames", "folder", among(make), intact=False)
        if kind not in ("12,000 scans", "a folder"):
            yield Case(f"{kind} as a video", "video", alone("v.mp4", make), intact=False)
    for name, text in (
        ("list.ffconcat", "ffconcat version 1.0\nfile other.mp4\n"),
        ("v.mp4", "no video"),
        ("v.avi", ""),
    ):
        yield Case(
            f"{name}: {text[:9]}", "video", alone(name, lambda path, text=text: path.write_text(text)), intact=False
        )

    def of_another_size(path: Path) -> None:
        Image.fromarray(numbered_frame(2, 40, 80)).save(path)

    yield Case("a frame of another size", "folder", among(of_another_size), intact=False)
    yield Case(
        "a huge frame", "folder", among(lambda path: Image.new("1", (12_000, 7_000)).save(path, "PNG")), intact=False
    )
