"""Generate annotation files of many kinds, and list the cases of `tests.helpers.media_cases` with them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers.media_cases import Case, first_part, media_cases
from tests.helpers.published_layouts import mevis, ref_youtube_vos


def every_case(seed: int = 0) -> list[Case]:
    """Return all cases, about 500, in a fixed order; the seed chooses what is damaged and cut where."""
    rng = random.Random(seed)
    return [*media_cases(rng), *annotation_cases(rng)]


def annotation_cases(rng: random.Random) -> Iterator[Case]:
    """Yield data sets with whole and damaged annotations; `rng` chooses the damage."""

    def changed(file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
        def build(folder: Path) -> Path:
            root = mevis(folder)
            (root / file).write_bytes(change((root / file).read_bytes()))
            return root

        return build

    def with_mask(value: object) -> Callable[[bytes], bytes]:
        def change(data: bytes) -> bytes:
            masks = json.loads(data)
            masks["7"][0] = value
            return json.dumps(masks).encode()

        return change

    yield Case("annotations as they are", "annotations", changed("mask_dict.json", lambda data: data))
    for file in ("mask_dict.json", "meta_expressions.json"):
        for tenth in range(10):
            yield Case(f"{tenth} tenths of {file}", "annotations", changed(file, first_part(tenth / 10)), intact=False)
    size = [48, 80]
    values = ([], {}, 3, "x", {"size": size}, {"size": [48, 81], "counts": "0"}, {"size": size, "counts": [3840]})
    for value in values:
        change = with_mask(value)
        yield Case(f"mask {value}", "annotations", changed("mask_dict.json", change), intact=False)
    for _ in range(20):
        text = "".join(chr(48 + rng.randrange(64)) for _ in range(rng.randint(1, 12)))
        change = with_mask({"size": size, "counts": text})
        yield Case(f"runs {text}", "annotations", changed("mask_dict.json", change), intact=False)
    for mode in ("P", "L", "1", "RGB", "RGBA", "LA", "I;16"):
        yield Case(f"mask PNG of mode {mode}", "png_masks", _mask_png(mode, lambda data: data), intact=mode in "PL1")
    for tenth in range(10):
        yield Case(f"{tenth} tenths of a mask PNG", "png_masks", _mask_png("P", first_part(tenth / 10)), intact=False)


def _mask_png(mode: str, change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        root = ref_youtube_vos(folder)
        path = sorted((root / "Annotations" / "train").iterdir())[1]
        if mode != "P":
            with Image.open(path) as image:
                values = np.array(image)
            grey = (
                Image.fromarray(values.astype(np.uint16)) if mode == "I;16" else Image.fromarray(values).convert(mode)
            )
            grey.save(path)
        path.write_bytes(change(path.read_bytes()))
        return root

    return build
