"""Generate Moving Shapes, a synthetic benchmark: `python -m cot_data.moving_shapes --out DIR --videos N --seed S`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.progress import Progress

from cot_data.moving_shapes.generate import ShapesConfig, write_moving_shapes
from env.errors import command
from env.folder_lock import lock_folder


@command
def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Generate Moving Shapes, a synthetic benchmark.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--videos", type=int, default=1500, help="number of videos")
    parser.add_argument("--seed", type=int, default=0, help="of everything random; give each split another one")
    parser.add_argument("--size", type=int, default=ShapesConfig.size, help="side of a frame in pixels")
    parser.add_argument("--processes", type=int, default=2, help="worker processes")
    args = parser.parse_args()
    with lock_folder(args.out), Progress() as bar:
        job = bar.add_task("Moving Shapes", total=args.videos)
        config = ShapesConfig(size=args.size)
        write_moving_shapes(
            args.out, args.videos, args.seed, config, args.processes, lambda done: bar.update(job, completed=done)
        )


if __name__ == "__main__":
    main()
