"""The status page for people: how each model is, what is missing, what was given up and how to retry it.

One read-only HTML page from the ledger, complete without scripts and without anything from elsewhere.
Keys and error texts come from outside: the template escapes everything, and nothing is marked safe.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from importlib.resources import files
from itertools import groupby
from shlex import quote
from typing import Literal

from jinja2 import Environment, StrictUndefined, Template

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import Count, ObjectRow, SourceGauges
from ingest_platform.operations import results
from ingest_platform.operations.matrix import Row, row_of
from ingest_platform.operations.standing import (
    Standing,
    lag_limit,
    recent_partitions,
    silence_limit,
    standings,
)
from ingest_platform.weather.discover import Cursor
from ingest_platform.weather.model import Model

# A day of six-hourly cycles; of hourly partitions what a screen shows.
CYCLES_SHOWN, HOURS_SHOWN = 4, 6
# A screenful of trouble; the rest is in `ingest status` and in Dagster.
OBJECTS_SHOWN = 20
# The beginning of an error names the object and what was found.
ERROR_CHARACTERS = 400

Health = Literal["well", "behind", "silent", "never"]


def page(catalog: Catalog, models: Sequence[Model], *, now: datetime, dagster_url: str | None = None) -> str:
    """The page as it is at `now` (UTC). Raises SQLAlchemyError: a part that could not be read is no page.

    `dagster_url`: where links lead to; without it there are none.
    """
    gauges = catalog.gauges()
    states = standings(catalog, models, gauges)
    return _template().render(
        now=now,
        models=[_section(catalog, state, now) for state in states],
        trouble=[_trouble(catalog, model) for model in models],
        totals=_totals(catalog.counts()),
        operations=_operations(gauges),
        unpurged=results.unpurged(gauges, now),
        dagster=dagster_url.rstrip("/") if dagster_url else None,
        span=span,
    )


@dataclass(frozen=True, slots=True)
class _Section:
    """One model, as the page shows it."""

    model: Model
    state: Standing
    health: Health
    lag: timedelta | None
    lag_limit: timedelta
    rows: tuple[Row, ...]

    @property
    def told(self) -> str:
        """The model's health in words."""
        return {
            "well": "as it should be",
            "behind": f"behind: the newest is older than {span(self.lag_limit)}",
            "silent": f"the source has shown nothing new for more than {span(silence_limit(self.model))}",
            "never": "nothing to read yet",
        }[self.health]


def _section(catalog: Catalog, state: Standing, now: datetime) -> _Section:
    model = state.model
    lag = None if state.newest_live is None else now - state.newest_live
    return _Section(model, state, _health(state, now), lag, lag_limit(model), _rows(catalog, state, now))


def _health(state: Standing, now: datetime) -> Health:
    if state.newest_live is None:
        return "never"
    if state.newest_seen is not None and now - state.newest_seen > silence_limit(state.model):
        return "silent"
    return "behind" if now - state.newest_live > lag_limit(state.model) else "well"


def _rows(catalog: Catalog, state: Standing, now: datetime) -> tuple[Row, ...]:
    """The newest partitions, the newest first."""
    model = state.model
    shown = CYCLES_SHOWN if model.partition_hours > 1 else HOURS_SHOWN
    cursor = Cursor.parse(state.gauges.cursor if state.gauges else None)
    return tuple(
        row_of(model, partition, catalog.objects(model.source_name, partition), now)
        for partition in recent_partitions(model, cursor, shown)
    )


@dataclass(frozen=True, slots=True)
class _Given:
    """The quarantined objects of one partition, and the command that gives them another try."""

    partition: str
    retry: str
    objects: tuple[ObjectRow, ...]


@dataclass(frozen=True, slots=True)
class _Trouble:
    """What does not work in one model."""

    model: Model
    quarantined: tuple[_Given, ...]
    retrying: tuple[ObjectRow, ...]


def _trouble(catalog: Catalog, model: Model) -> _Trouble:
    given_up = catalog.quarantined(model.source_name, limit=OBJECTS_SHOWN)
    by_partition = groupby(
        sorted(given_up, key=lambda row: row.partition, reverse=True), lambda row: row.partition
    )
    return _Trouble(
        model,
        tuple(_Given(key, _retry(model, key), tuple(objects)) for key, objects in by_partition),
        catalog.retrying(model.source_name, limit=OBJECTS_SHOWN),
    )


def _retry(model: Model, partition: str) -> str:
    return f"ingest requeue --models {quote(model.id)} --partition {quote(partition)}"


def _totals(counts: Iterable[Count]) -> Mapping[str, int]:
    """What retention and reconcile did since the ledger began, over all sources."""
    sums = dict.fromkeys(
        ("partitions_purged_total", "artifacts_purged_total", "bytes_purged_total", "orphans_removed_total"),
        0,
    )
    for count in counts:
        if count.name in sums:
            sums[count.name] += int(count.value)
    return sums


def _operations(gauges: Sequence[SourceGauges]) -> Mapping[str, results.Result | None]:
    return {name: results.last(gauges, name) for name in (results.PURGE, results.RECONCILE)}


def span(length: timedelta) -> str:
    """A length of time in the two units that matter: 42 s, 3 min, 2 h 5 min, 3 d 4 h."""
    seconds = max(0, int(length.total_seconds()))
    for unit, name, smaller, smaller_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if seconds >= unit:
            rest = seconds % unit // smaller
            return f"{seconds // unit} {name}" + (f" {rest} {smaller_name}" if rest else "")
    return f"{seconds // 60} min" if seconds >= 60 else f"{seconds} s"


def size(number: float) -> str:
    """Bytes as people say them: 812 B, 1.4 MB, 2.0 TB."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


@cache
def _template() -> Template:
    text = (files("ingest_platform.operations") / "status.html").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(span=span, size=size, error=_shortened)
    return environment.from_string(text)


def _shortened(text: str | None) -> str:
    told = text or "no reason was recorded"
    return told if len(told) <= ERROR_CHARACTERS else f"{told[:ERROR_CHARACTERS]}…"
