"""Write cold-start traces for a data set: `python -m cot_data.traces --root DIR --out FILE.json [--style brief]`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.progress import track

from configs.schema import EnvConfig
from cot_data.datasets import DATASETS, load_tasks
from cot_data.fields import read_json
from cot_data.mevis import META
from cot_data.records import write_records
from cot_data.write_trace import STYLES, write_trace
from env.errors import command
from env.types import names_in


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--dataset", default="mevis", choices=DATASETS, help="its layout")
    parser.add_argument("--style", default="full", choices=STYLES, help="wording")
    parser.add_argument("--seed", type=int, default=0, help="of the choice between answering at once and looking first")
    parser.add_argument("--strip-frames", type=int, default=EnvConfig.strip_frames)
    parser.add_argument("--detail-frames", type=int, default=EnvConfig.detail_frames)
    parser.add_argument("--zoom-frames", type=int, default=EnvConfig.zoom_frames)
    args = parser.parse_args()
    config = EnvConfig("full", args.strip_frames, args.detail_frames, args.zoom_frames)
    videos = read_json(args.root / META)["videos"]
    records = []
    for i, task in enumerate(track(load_tasks(args.dataset, args.root), "Traces")):
        video_name, exp_id = names_in(task.task_id)
        anno_id = videos[video_name]["expressions"][exp_id].get("anno_id", [])
        anno_id = tuple(anno_id) if isinstance(anno_id, list) else (anno_id,)
        records.append(write_trace(task, config, np.random.default_rng([args.seed, i]), args.style, anno_id))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_records(args.out, records)
    words = sum(len(turn.split()) for record in records for turn in record.gpt_turns) / max(len(records), 1)
    print(f"{args.out}: {len(records)} records, {words:.1f} words each")


if __name__ == "__main__":
    main()
