"""Write the checkpoint that comes with the package (`policy.SHIPPED`, with its card).

    python -m policy.export_shipped runs/cold_start/policy policy/tiny

Weights are stored in half precision. The configs still say float32, and the weights are loaded as that.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from env.errors import CheckpointError, command
from env.files import replace_folder, replace_path
from policy.checkpoint_io import read_safetensors, require_finite


def ship(source: Path, target: Path) -> None:
    """Copy the checkpoint folder `source` to `target` with weights in half precision; other files of `target` stay.

    Raises CheckpointError where `source` is not the folder of a policy, or a weight is too large for half precision.
    """
    if not (source / "policy.json").is_file():
        raise CheckpointError(f"{source}: no policy.json; expected the folder of a policy")
    with replace_folder(target) as draft:
        for folder in (target, source):
            if folder.is_dir():
                shutil.copytree(folder, draft, dirs_exist_ok=True)
        for path in draft.rglob("*.safetensors"):
            tensors = read_safetensors(path)
            halved = {name: t.to(torch.float16) if t.dtype == torch.float32 else t for name, t in tensors.items()}
            require_finite(halved, f"{path.relative_to(draft)} in half precision")
            with replace_path(path) as partial:  # tensors in half precision already are still read from `path`
                save_file(halved, partial, metadata={"format": "pt"})


@command
def main() -> None:
    parser = argparse.ArgumentParser(description="Copy a checkpoint in half precision, as it is shipped.")
    parser.add_argument("source", type=Path, help="folder of a policy")
    parser.add_argument("target", type=Path, help="folder to write")
    args = parser.parse_args()
    ship(args.source, args.target)
    print(f"{args.target}: {sum(p.stat().st_size for p in args.target.rglob('*') if p.is_file()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
