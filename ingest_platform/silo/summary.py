"""What people look at: numbers, tables, the engine's last words and a growth plot of one organism's index.

Plain values of the live index; `defs.py` turns them into Dagster's metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ingest_platform.silo.read import Live
from ingest_platform.silo.record import TRANSFORM_VERSION

# Longer Markdown hides behind a click in Dagster's UI.
SHOWN_IN_PLACE_CHARACTERS = 1_000
# As many imports as the plot has room for points of 7 characters each.
PLOTTED = 40
_WIDTH, _HEIGHT = 480, 60
_URL_SAFE = "/:;,='!*@$&?+.-_~"

type Table = list[dict[str, Any]]  # one kind of row


@dataclass(frozen=True, slots=True)
class Told:
    """What one asset is told of: the data version says whether it is news."""

    data_version: str
    facts: Mapping[str, Any]


def told(live: Live, *, output: Path, history: Sequence[int]) -> Mapping[str, Told]:
    """By asset, in the order of their lineage. `history`: rows of earlier imports, the oldest first."""
    facts = {
        "released_snapshot": Told(live.content_hash, _snapshot(live)),
        "silo_ndjson": Told(f"{live.content_hash}.{TRANSFORM_VERSION}", _records(live)),
        "silo_index": Told(live.index_hash, _index(live, output, history)),
    }
    if live.lineages:
        known = json.dumps(live.lineages, sort_keys=True)
        facts["lineage_definitions"] = Told(
            hashlib.sha256(known.encode()).hexdigest(),
            {"systems": len(live.lineages), "definitions": _table(live.lineages)},
        )
    return {name: facts[name] for name in ORDER if name in facts}


ORDER = ("released_snapshot", "lineage_definitions", "silo_ndjson", "silo_index")


def _snapshot(live: Live) -> Mapping[str, Any]:
    return {
        "dagster/row_count": live.rows,
        "bytes_received": live.body_bytes,
        "bytes_decompressed": live.content_bytes,
        "pipeline_versions": _versions(live),
        "etag": live.etag,
        "sha256": live.content_hash,
        **_warnings(live),
    }


def _records(live: Live) -> Mapping[str, Any]:
    return {"dagster/row_count": live.rows, "transformation": TRANSFORM_VERSION}


def _index(live: Live, output: Path, history: Sequence[int]) -> Mapping[str, Any]:
    path = output / str(live.index_timestamp)
    return {
        # Dagster keeps this order: first what one looks at, then numbers, last what hides behind a click.
        "growth": growth([*history, live.rows]),
        "dagster/row_count": live.rows,
        "rows_more": live.rows - (history[-1] if history else 0),
        "bytes_received": live.body_bytes,
        "bytes_index": live.index_bytes,
        "engine_seconds": round(live.engine_seconds, 3),
        "engine": live.engine,
        "pipeline_versions": _versions(live),
        "lineages": _table(live.lineages),
        "index": str(path),
        "engine_log": f"```\n{live.log_tail}\n```",
        **_warnings(live),
    }


def _versions(live: Live) -> Table:
    versions = live.pipeline_versions.items()
    return [{"pipeline version": str(version or "none"), "records": count} for version, count in versions]


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    return [{name: "" if value is None else value for name, value in row.items()} for row in rows]


def _warnings(live: Live) -> Mapping[str, Any]:
    return {"warnings": list(live.warnings)} if live.warnings else {}


def growth(rows: Sequence[int]) -> str:
    """The rows of one import after the other, drawn small enough that Dagster shows it in place.

    Markdown of less than SHOWN_IN_PLACE_CHARACTERS; the newest PLOTTED imports; the axis begins at zero.
    """
    shown = rows[-PLOTTED:]
    drawn = shown if len(shown) > 1 else [*shown, *shown]  # a line has two ends
    most = max(1, *drawn)
    step = _WIDTH / (len(drawn) - 1)
    points = " ".join(
        f"{n * step:.0f},{_HEIGHT - count * _HEIGHT / most:.0f}" for n, count in enumerate(drawn)
    )
    svg = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{_WIDTH}' viewBox='0 -2 {_WIDTH} {_HEIGHT + 4}'>"
        f"<polyline points='{points}' fill='none' stroke='teal' stroke-width='2'/></svg>"
    )
    words = f"{shown[0]:,} → {shown[-1]:,} rows" if len(shown) > 1 else f"{shown[0]:,} rows"
    return f"{words}\n\n![growth](data:image/svg+xml,{quote(svg, safe=_URL_SAFE)})"
