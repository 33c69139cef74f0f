"""RLE masks compared with pycocotools, and masks of broken files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as pycocotools_mask

from env.errors import DataError
from env.rle import MAX_PIXELS, decode, decode_tracklet, encode, is_empty, union

coco: Any = pycocotools_mask  # its stubs have neither plain dicts nor lists


def _random_masks(seed: int, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = rng.integers(1, 70, (count, 2))
    return [rng.random(tuple(shape)) < rng.choice([0.0, 0.01, 0.3, 0.97, 1.0]) for shape in shapes]


def test_decode_reverses_encode_and_agrees_with_pycocotools():
    for mask_HW in _random_masks(seed=0, count=300):
        rle = encode(mask_HW)
        assert isinstance(rle["counts"], str) and rle["size"] == list(mask_HW.shape)
        decoded_HW = decode(rle)
        assert decoded_HW.dtype == bool and decoded_HW.flags.c_contiguous
        assert np.array_equal(decoded_HW, mask_HW)
        assert np.array_equal(decoded_HW, np.asarray(coco.decode(rle), bool))
        assert is_empty(rle) == (not mask_HW.any())


def test_runs_that_pycocotools_never_writes_are_read():
    # Uncompressed runs 0, 0, 4: the first run of set pixels is empty. Then 2, 1, 0, 0, 1.
    assert encode(np.zeros((2, 2), bool))["counts"] == "4"
    assert is_empty({"size": [2, 2], "counts": "004"}) and not decode({"size": [2, 2], "counts": "004"}).any()
    odd = coco.frPyObjects([{"size": [2, 2], "counts": [2, 0, 1, 1]}], 2, 2)[0]
    rle = {"size": [2, 2], "counts": odd["counts"].decode("ascii")}
    assert not is_empty(rle) and decode(rle).tolist() == [[False, False], [False, True]]


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [2, 2], "counts": "0"}, "fill 2 x 2 pixels, found 0"),  # pycocotools: uninitialised memory
        ({"size": [2, 2], "counts": "5"}, "fill 2 x 2 pixels, found 5"),
        ({"size": [2, 2], "counts": ""}, "not a compressed COCO"),
        ({"size": [2, 2], "counts": "P"}, "not a compressed COCO"),  # continues past its end
        ({"size": [2, 2], "counts": "4 "}, "not a compressed COCO"),
        ({"size": [2, 2], "counts": "4\x7f"}, "not a compressed COCO"),
        ({"size": [2, 2], "counts": "é"}, "compressed ASCII string"),
        ({"size": [2, 2], "counts": [1, 3]}, "found list"),
        ({"size": [2, 2], "counts": None}, "found NoneType"),
        ({"size": [2, 2]}, "found NoneType"),
        ({"size": [2, 2], "counts": "o" * 50 + "0"}, "a run of 51 characters"),
        ({"size": [2, 2], "counts": "5O"}, "fill 2 x 2 pixels"),  # a negative run
        ({"size": [10**9, 10**9], "counts": "04"}, f"1 to {MAX_PIXELS} pixels"),  # pycocotools: crash
        ({"size": [-1, 4], "counts": "04"}, "found -1 x 4"),
        ({"size": [0, 4], "counts": "0"}, "found 0 x 4"),
        ({"size": [2.0, 2], "counts": "4"}, "[height, width]"),
        ({"size": [2], "counts": "4"}, "[height, width]"),
        ({"counts": "4"}, "[height, width]"),
    ],
)
def test_broken_masks_are_errors_that_name_the_place(rle: dict[str, Any], message: str):
    with pytest.raises(DataError) as caught:
        decode(rle, "mask_dict.json, anno 7, frame 3")
    assert str(caught.value).startswith("mask_dict.json, anno 7, frame 3: ") and message in str(caught.value)


def test_random_strings_never_decode_to_another_size():
    rng = np.random.default_rng(1)
    for _ in range(3000):
        text = "".join(chr(c) for c in rng.integers(48, 112, rng.integers(0, 9)))
        try:
            assert decode({"size": [4, 6], "counts": text}).shape == (4, 6)
        except DataError:
            continue


def test_tracklets_and_unions():
    left, right = np.zeros((3, 4), bool), np.zeros((3, 4), bool)
    left[:, 0], right[1, 1:] = True, True
    masks_THW = decode_tracklet([encode(left), None, encode(right)], (3, 4))
    assert np.array_equal(masks_THW, np.stack([left, np.zeros((3, 4), bool), right]))
    both = union([encode(left), None, encode(right)])
    assert both == encode(left | right)
    assert union([]) is None and union([None, None]) is None
    with pytest.raises(DataError, match=r"video 5, frame 1: expected a mask of 3 x 4 pixels, found 4 x 3"):
        decode_tracklet([None, encode(left.T)], (3, 4), "video 5")
    with pytest.raises(DataError, match="masks of one size"):
        union([encode(left), encode(left.T)])


def chars(value: int, at_least: int = 1) -> str:
    """COCO's characters of one run, low five bits first; `at_least` of them."""
    made = []
    while True:
        bits, value = value & 31, value >> 5
        is_last = len(made) + 1 >= at_least and ((value == 0 and not bits & 16) or (value == -1 and bool(bits & 16)))
        made.append(chr(48 + (bits if is_last else bits | 32)))
        if is_last:
            return "".join(made)


def test_a_run_has_at_most_six_characters():
    height, width = 1 << 13, 1 << 13  # the largest mask: its one run of 2^26 takes 27 bits
    largest = {"size": [height, width], "counts": chars(height * width)}
    assert len(largest["counts"]) == 6 and is_empty(largest)
    assert len(coco.encode(np.zeros((height, width), np.uint8, order="F"))["counts"]) == 6
    assert decode({"size": [2, 2], "counts": chars(4, 6)}).tolist() == [[False, False], [False, False]]
    with pytest.raises(DataError, match="holds a run of 7 characters, expected at most 6"):
        decode({"size": [2, 2], "counts": chars(4, 7)})


@pytest.mark.parametrize("size", [[2, 2], [2, 3], [1080, 1920]])
def test_runs_whose_sum_wraps_around_to_the_size_are_refused(size: list[int]):
    """Both kinds of runs rise by about 2^28 each time; 524,286 of them reach 2^64 + H W, which 64 bits hold as H W."""
    count, step = (1 << 18) - 1, 1 << 28
    rest = (1 << 64) + size[0] * size[1] - step * count * (count + 1)
    steps = np.full((count, 2), step)
    for at in range(count):  # a larger step counts in all later runs of its kind
        more = min(1 << 27, rest // (count - at))
        steps[at, 0] += more
        rest -= more * (count - at)
    assert rest == 0
    runs = np.concatenate([[0], steps.ravel()])  # the first run is 0, and the second and third are no differences
    assert runs.max() < 1 << 29
    digits = runs[:, None] >> 5 * np.arange(6) & 31 | np.array([32] * 5 + [0])
    rle = {"size": size, "counts": (digits + 48).astype(np.uint8).tobytes().decode("ascii")}
    with pytest.raises(DataError, match=f"expected runs that fill {size[0]} x {size[1]} pixels"):
        decode(rle)
    with pytest.raises(DataError, match="expected runs that fill"):
        union([rle])
