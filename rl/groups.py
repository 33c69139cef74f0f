"""The groups that held-out figures are told by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def groups_of(rows: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    """Group name ("all", each family, whether exploring pays) -> positions of its rows."""
    positions = range(len(rows))
    groups = {"all": list(positions)}
    for family in sorted({row["family"] for row in rows}):
        groups[family] = [at for at in positions if rows[at]["family"] == family]
    if any(row["explore"] for row in rows):
        groups["exploring pays"] = [at for at in positions if rows[at]["explore"]]
        groups["exploring does not pay"] = [at for at in positions if not rows[at]["explore"]]
    return groups
