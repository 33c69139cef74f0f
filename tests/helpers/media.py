"""Awkward videos and images: cut, turned, damaged, of uneven times or sizes. Frames show their number."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.filter import Graph
from PIL import Image

from tests.helpers.env_videos import numbered_frame

# The rows (a, b, c, d) of the display matrix for the eight ways to turn and mirror a frame by quarter turns.
MATRICES = (
    (1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0),
    (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0),
)  # fmt: skip


# How FFmpeg's own program turns them (fftools/ffmpeg_filter.c, configure_input_video_filter).
FILTERS: dict[tuple[int, int, int, int], list[tuple[str, str]]] = {
    (1, 0, 0, 1): [],
    (0, 1, -1, 0): [("transpose", "clock")],
    (-1, 0, 0, -1): [("hflip", ""), ("vflip", "")],
    (0, -1, 1, 0): [("transpose", "cclock")],
    (-1, 0, 0, 1): [("hflip", "")],
    (1, 0, 0, -1): [("vflip", "")],
    (0, 1, 1, 0): [("transpose", "cclock_flip")],
    (0, -1, -1, 0): [("transpose", "clock_flip")],
}


def filtered(pixels_HWC: np.ndarray, filters: list[tuple[str, str]]) -> np.ndarray:
    """Return the pixels after filters of FFmpeg."""
    graph: Any = Graph()
    height, width, _ = pixels_HWC.shape
    chain = [graph.add_buffer(width=width, height=height, format="rgb24", time_base=Fraction(1, 25))]
    chain += [graph.add(name, arguments) for name, arguments in filters] + [graph.add("buffersink")]
    for before, after in pairwise(chain):
        before.link_to(after)
    graph.configure()
    graph.push(av.VideoFrame.from_ndarray(pixels_HWC, format="rgb24"))
    return graph.pull().to_ndarray(format="rgb24")


def picture(at: int, height: int, width: int) -> np.ndarray:
    """Return `numbered_frame` for any width in pixels: the last bar is the widest; a width below 8 shows a part."""
    frame_HWC = numbered_frame(at % 256, height, max(8, width // 8 * 8))
    return np.pad(frame_HWC, ((0, 0), (0, width % 8 if width > 8 else 0), (0, 0)), "edge")[:, :width]


def numbered_video(
    path: Path,
    count: int = 60,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    times: Sequence[int] | None = None,
    size: tuple[int, int] = (48, 80),
    ratio: Fraction | None = None,
) -> Path:
    """Write frames 0 to count - 1 of (height, width) `size` at 25 frames per second; return `path`.

    Args:
        path: Of the file; its suffix chooses the container.
        count: Number of frames.
        codec: Of FFmpeg.
        options: Of the codec.
        pix_fmt: Of FFmpeg.
        times: Of the frames in units of 1/25 s; None: one after another.
        size: Height and width in pixels.
        ratio: Width of a pixel over its height.
    """
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.time_base = Fraction(1, 25)
        if ratio is not None:
            stream.codec_context.sample_aspect_ratio = ratio
        for at in range(count):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture(at, *size)), format="rgb24")
            frame.pts, frame.time_base = at if times is None else times[at], Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def remuxed(source: Path, target: Path, skip_seconds: float = 0.0, options: dict[str, str] | None = None) -> Path:
    """Copy packets from the key frame before a time on, shown from that time on: a cut without encoding."""
    with av.open(str(source)) as given, av.open(str(target), "w", options=options or {}) as out:
        stream: Any = given.streams.video[0]
        copy = out.add_stream_from_template(stream)
        start = int(skip_seconds / stream.time_base)
        if start:
            given.seek(start, stream=stream, backward=True)
        for packet in given.demux(stream):
            if packet.dts is None or packet.pts is None:
                continue
            packet.pts -= start
            packet.dts -= start
            packet.stream = copy
            out.mux(packet)
    return target


def with_matrix(source: Path, target: Path, rows: tuple[int, int, int, int]) -> Path:
    """Copy an MP4 with the display matrix (a, b, c, d) in the header of its track."""
    data = bytearray(source.read_bytes())
    at = data.find(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in rows)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    target.write_bytes(data)
    return target


def damaged_packet(path: Path, number: int) -> int:
    """Overwrite the content of the packet `number` (in decoding order); return the presentation rank of its frame."""
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size, p.pts) for p in container.demux(video=0) if p.size]
    pos, size, pts = packets[number]
    data = bytearray(path.read_bytes())
    assert pos is not None and pts is not None
    data[pos : pos + size] = bytes([0x5A]) * size
    path.write_bytes(data)
    return sorted(time for _, _, time in packets if time is not None).index(pts)


def two_sizes(path: Path, count: int = 10) -> Path:
    """Write a raw H.264 stream whose second half has another size."""
    parts = [path.with_name(f"{path.stem}.{side}.h264") for side in (0, 1)]
    numbered_video(parts[0], count)
    numbered_video(parts[1], count, size=(64, 96))
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    for part in parts:
        part.unlink()
    return path


def sequential(path: Path) -> list[np.ndarray]:
    """Return all frames that PyAV decodes one after another, as RGB."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def many_scans(path: Path, scans: int, side: int = 64) -> Path:
    """Write a progressive JPEG and repeat one of its scans, which decoders read over and over."""
    Image.fromarray(numbered_frame(3, side, side)).save(path, "JPEG", progressive=True)
    data = path.read_bytes()
    start = data.rfind(b"\xff\xda")
    last = data[start:-2]
    path.write_bytes(data[:start] + last * scans + data[-2:])
    return path


def save_each(folder: Path, names: Sequence[str], save: Callable[[int, Path], object] | None = None) -> Path:
    """Write one numbered frame for each file name, as JPEG or PNG by its suffix; return `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for at, name in enumerate(names):
        if save is not None:
            save(at, folder / name)
        else:
            kind = "PNG" if name.lower().endswith(".png") else "JPEG"
            Image.fromarray(numbered_frame(at)).save(folder / name, kind)
    return folder
