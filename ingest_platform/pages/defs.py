"""Plain values, verdicts and failures as Dagster shows them. Knows no source."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg

from ingest_platform.errors import PermanentError, TransientError
from ingest_platform.pages.verdict import Verdict

type Metadata = Mapping[str, dg.MetadataValue[Any]]


@contextmanager
def families_of_failure() -> Iterator[None]:
    """Translate our two families: Dagster retries neither, the ledger does; a permanent error says so."""
    try:
        yield
    except (PermanentError, TransientError) as error:
        raise dg.Failure(str(error), allow_retries=False) from error


def check_result(name: str, key: dg.AssetKey, verdict: Verdict, shown: Metadata) -> dg.AssetCheckResult:
    """`shown`: the verdict's facts, drawn."""
    return dg.AssetCheckResult(
        check_name=name,
        asset_key=key,
        passed=verdict.passed,
        severity=dg.AssetCheckSeverity.ERROR if verdict.severe else dg.AssetCheckSeverity.WARN,
        description=verdict.message,
        metadata=shown,
    )


def drawn(value: Any) -> dg.MetadataValue[Any]:
    """A list of rows as a table, anything else as `plain` does."""
    match value:
        case [dict(), *_]:
            return table(value)
    return plain(value)


def plain(value: Any) -> dg.MetadataValue[Any]:
    """Numbers as what Dagster plots, lists and mappings as JSON, the rest as text."""
    match value:
        case bool():
            return dg.MetadataValue.bool(value)
        case int():
            return dg.MetadataValue.int(value)
        case float():
            return dg.MetadataValue.float(value)
        case list() | dict():
            return dg.MetadataValue.json(value)
    return dg.MetadataValue.text(str(value))


def table(rows: Sequence[Mapping[str, Any]], *, columns: Sequence[str] = ()) -> dg.MetadataValue[Any]:
    """The rows under the names of the first one; `columns`: the names where there may be no row."""
    records = [dg.TableRecord({name: _cell(value) for name, value in row.items()}) for row in rows]
    names = records[0].data if records else columns
    schema = dg.TableSchema(columns=[dg.TableColumn(name) for name in names])
    return dg.MetadataValue.table(records, schema=schema)


def _cell(value: Any) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else str(value)
