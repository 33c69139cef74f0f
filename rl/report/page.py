"""The report of a whole run as one self-contained HTML page: tables, curves, overlays, provenance. No torch.

The page fetches nothing and runs no script; stored text is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from env.frames import FrameCache
from env.viewer.overlay import ImageBook
from rl.report.charts import Chart
from rl.report.mask_strips import NUM_FRAMES, overlays
from rl.report.metric_rows import METRICS, WITH_BLIND, Evaluated, change_rows, failure_notes, main_rows, slice_rows
from rl.runtime.phases import PhaseCost


@dataclass(frozen=True)
class RunReport:
    """The contents of the page."""

    title: str
    sentence: str
    stages: list[Evaluated]
    charts: dict[str, list[Chart]]  # heading -> charts
    links: dict[str, str]  # label -> file beside the report
    phases: list[PhaseCost]
    memory_unit: str  # PSS or RSS
    facts: dict[str, str]
    config_text: str


def render_report(report: RunReport, cache: FrameCache) -> str:
    """Return the page as text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["csp_hash"] = _csp_hash
    return environment.get_template("page.html").render(
        report=report,
        columns=METRICS,
        num_frames=NUM_FRAMES,
        with_blind=WITH_BLIND,
        main=main_rows(report.stages),
        changes=change_rows(report.stages),
        failures=failure_notes(report.stages),
        slices=slice_rows(report.stages),
        overlays=overlays(report.stages, ImageBook(cache)),
        minutes=sum(phase.seconds for phase in report.phases) / 60,
        peak_gb=max((phase.peak_bytes for phase in report.phases), default=0) / 2**30,
    )


def facts_of(provenance: Mapping[str, Any], seed: int) -> dict[str, str]:
    """Return provenance as rows of text."""
    facts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in provenance.items()}
    packages = provenance.get("packages", {})
    facts["packages"] = ", ".join(f"{name} {version}" for name, version in packages.items())
    return facts | {"seed": str(seed)}


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(str(text).encode("utf-8")).digest()).decode("ascii")
