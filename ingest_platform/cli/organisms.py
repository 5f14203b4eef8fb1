"""SILO's organisms in the commands: what is left undone, reports and states as rows and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from ingest_platform.catalog.model import ObjectRow
from ingest_platform.catalog.tables import LIVE
from ingest_platform.silo.model import Organism
from ingest_platform.silo.read import SOURCE

if TYPE_CHECKING:
    from ingest_platform.catalog.ledger import Catalog
    from ingest_platform.silo.ingest import Report
    from ingest_platform.silo.status import OrganismStatus


type Undone = Mapping[str, Sequence[str]]


def left_undone(catalog: Catalog, organisms: Sequence[Organism]) -> Undone:
    """Per organism, a sentence for each version newer than the live one that waits or was given up."""
    now = catalog.clock()
    holders = {
        row.partition: f"{row.lease_owner} holds the organism until {_moment(row.lease_until)}"
        for row in catalog.partitions(SOURCE)
        if row.lease_until is not None and row.lease_until > now
    }
    return {o.id: _undone(catalog.objects(SOURCE, o.id), holders.get(o.id)) for o in organisms}


def _undone(rows: Sequence[ObjectRow], holder: str | None) -> tuple[str, ...]:
    """`rows`: all versions of one organism. What is older than the live one gave way to it."""
    live = max(((row.version_time, row.id) for row in rows if row.state in LIVE), default=None)
    newer = [row for row in rows if live is None or (row.version_time, row.id) > live]
    waiting = [_waits(row, holder) for row in newer if row.state == "pending"]
    return (*waiting, *(_given_up(row) for row in newer if row.state == "quarantined"))


def _waits(row: ObjectRow, holder: str | None) -> str:
    if holder is not None:
        return f"{row.etag} is not imported yet: {holder}. Try again then"
    due = f" It is tried again at {_moment(row.next_attempt_at)}." if row.next_attempt_at else ""
    return f"{row.etag} waits: {row.error or 'nobody has tried it yet'}.{due}"


def _given_up(row: ObjectRow) -> str:
    return f"{row.etag} was given up: {row.error}. `ingest requeue` tries it again"


def whole(reports: Sequence[Report], undone: Undone) -> bool:
    """Whether all due work reached a good end."""
    return not any(undone.values()) and not any(report.error for report in reports)


def tell_undone(reports: Sequence[Report], undone: Undone) -> None:
    """What no report of this time has told already."""
    told = {report.organism for report in reports if report.error}
    for organism, sentences in undone.items():
        for sentence in sentences if organism not in told else ():
            click.echo(f"{organism}: {sentence}", err=True)


def plain(report: Report) -> dict[str, Any]:
    index = report.index
    return {
        "organism": report.organism,
        "what": report.what,
        "rows": index.rows if index else None,
        "etag": index.etag if index else None,
        "index": index.index_timestamp if index else None,
        "index_hash": index.index_hash if index else None,
        "downloaded": report.downloaded,
        "engine_seconds": round(report.engine_seconds, 3),
        "seconds": round(report.seconds, 3),
        "warnings": report.warnings,
        "error": str(report.error) if report.error else None,
    }


def tell(report: Report) -> None:
    """One import, as a line for whoever watches."""
    index = report.index
    if report.what in ("imported", "unchanged") and index is not None:
        click.echo(
            f"{report.organism}: {report.what}, {index.rows:,} rows in index {index.index_timestamp},"
            f" ETag {index.etag}, {report.seconds:.1f} s"
        )
    for warning in report.warnings:
        click.echo(f"{report.organism}: warning: {warning}", err=True)
    if report.error is not None:
        click.echo(f"{report.organism}: {report.error}", err=True)


def print_reports(reports: Sequence[Report]) -> None:
    table = Table(title="organisms")
    for column in ("organism", "what", "rows", "index", "engine s", "s"):
        table.add_column(column, justify="left" if column in ("organism", "what") else "right")
    for report in sorted(reports, key=lambda report: report.organism):
        index = report.index
        table.add_row(
            report.organism,
            report.what,
            f"{index.rows:,}" if index else "",
            str(index.index_timestamp) if index else "none",
            f"{report.engine_seconds:.1f}",
            f"{report.seconds:.1f}",
        )
    Console().print(table)
    for report in reports:
        for told in (*report.warnings, *([report.error] if report.error else [])):
            click.echo(f"{report.organism}: {told}", err=True)


def table_of(states: Sequence[OrganismStatus]) -> Table:
    table = Table(title="organisms")
    for column in (
        "organism",
        "rows",
        "built",
        "refreshed",
        "served",
        "waiting",
        "quarantine",
        "last errors",
    ):
        table.add_column(column, overflow="fold")
    for state in states:
        table.add_row(
            state.organism,
            "" if state.rows is None else f"{state.rows:,}",
            _moment(state.built_at),
            _moment(state.refreshed_at),
            state.served or "nothing",
            str(state.waiting),
            str(state.quarantined),
            "\n".join(state.last_errors[:3]),
        )
    return table


def _moment(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}Z"
