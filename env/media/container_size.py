"""Tell whether a video file ends before its container says, for those containers whose demuxers pass over that."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_EBML, _SEGMENT, _CLUSTER = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"
_HEAD = 4096  # bytes of a file in which its Segment begins


def ends_early(path: Path) -> bool:
    """Return whether an AVI or Matroska file is shorter than its header says; False for every other file."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
        segment = _segment(head)
        end = _riff_end(head) if segment is None else sum(segment)
        return end is not None and end > path.stat().st_size


def cuts_cluster(path: Path) -> bool:
    """Return whether a Matroska file ends inside of a Cluster, which holds the frames; False for every other file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        segment = _segment(file.read(_HEAD))
        at = size if segment is None else segment[0]
        while at < size:
            element = _element(file, at)
            if element is None:  # of unknown size, as in live recordings, or cut off
                return False
            name, begin, length = element
            at = begin + length
            if at > size:
                return name == _CLUSTER
    return False


def _element(file: BinaryIO, at: int) -> tuple[bytes, int, int] | None:
    """Return (id, offset of the content, its size) of the EBML element at an offset."""
    file.seek(at)
    head = file.read(12)  # four bytes of id, up to eight of size
    length = 9 - head[0].bit_length() if head else 9
    size = _variable_size(head, length)
    return None if length > 4 or size is None else (head[:length], at + size[0], size[1])


def _riff_end(head: bytes) -> int | None:
    """Return the offset behind the first RIFF chunk; None if there is none, or its writer never finished it."""
    if len(head) < 8 or head[:4] != b"RIFF":
        return None
    (size,) = struct.unpack_from("<I", head, 4)
    return 8 + size if 0 < size < 2**32 - 1 else None


def _segment(head: bytes) -> tuple[int, int] | None:
    """Return (offset, size) of what Matroska's Segment holds; None if there is none, or its size is unknown."""
    header = _variable_size(head, 4) if head.startswith(_EBML) else None
    if header is None:
        return None
    at = sum(header)
    return _variable_size(head, at + 4) if head[at : at + 4] == _SEGMENT else None


def _variable_size(head: bytes, at: int) -> tuple[int, int] | None:
    """Return (offset behind an EBML size, the size); None where it is cut off or unknown (all bits set)."""
    if at >= len(head) or head[at] == 0:
        return None
    length = 9 - head[at].bit_length()
    data = head[at : at + length]
    largest = (1 << 7 * length) - 1
    size = int.from_bytes(data, "big") & largest
    return None if len(data) < length or size == largest else (at + length, size)
