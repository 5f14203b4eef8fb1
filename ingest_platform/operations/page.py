"""The status page for people: how each model and organism is, what is missing, what was given up and how to
retry it.

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
from ingest_platform.silo import status as silo
from ingest_platform.silo.model import Organism
from ingest_platform.silo.status import OrganismStanding
from ingest_platform.weather.discover import Cursor
from ingest_platform.weather.model import Model

# A day of six-hourly cycles; of hourly partitions what a screen shows.
CYCLES_SHOWN, HOURS_SHOWN = 4, 6
# A screenful of trouble; the rest is in `ingest status` and in Dagster.
OBJECTS_SHOWN = 20
# The beginning of an error names the object and what was found.
ERROR_CHARACTERS = 400

Health = Literal["well", "behind", "silent", "never"]


def page(
    catalog: Catalog,
    models: Sequence[Model],
    organisms: Sequence[Organism] = (),
    *,
    now: datetime,
    dagster_url: str | None = None,
) -> str:
    """The page as it is at `now` (UTC). Raises SQLAlchemyError: a part that could not be read is no page.

    `dagster_url`: where links lead to; without it there are none.
    """
    gauges = catalog.gauges()
    states = standings(catalog, models, gauges)
    species = silo.standings(catalog, organisms)
    return _template().render(
        now=now,
        models=[_section(catalog, state, now) for state in states],
        genomes=[_genome(state, now) for state in species],
        trouble=[
            *(_trouble(catalog, model) for model in models),
            *(_trouble_of_organism(state) for state in species),
        ],
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


GenomeHealth = Literal["well", "behind", "failing", "never"]


@dataclass(frozen=True, slots=True)
class _Genome:
    """One organism, as the page shows it."""

    state: OrganismStanding
    health: GenomeHealth
    next_refresh: datetime | None
    limit: timedelta

    @property
    def told(self) -> str:
        """The organism's health in words."""
        return {
            "well": "as it should be",
            "behind": f"not confirmed for more than {span(self.limit)}",
            "failing": "a release was given up: see below",
            "never": "nothing was imported yet",
        }[self.health]

    @property
    def pipeline_versions(self) -> str:
        """Nearly always one; of several each with its records."""
        versions = self.state.live.pipeline_versions if self.state.live else {}
        names = {version: "none" if version is None else str(version) for version in versions}
        if len(versions) == 1:
            return next(iter(names.values()))
        return ", ".join(f"{names[version]}: {number:,}" for version, number in versions.items()) or "–"


def _genome(state: OrganismStanding, now: datetime) -> _Genome:
    limit = silo.longest_unconfirmed(state.organism)
    return _Genome(state, _genome_health(state, now - limit), state.refresh_due(now), limit)


def _genome_health(state: OrganismStanding, oldest: datetime) -> GenomeHealth:
    if state.live is None:
        return "never"
    if state.live.refreshed_at < oldest:
        return "behind"
    return "failing" if state.quarantined else "well"


@dataclass(frozen=True, slots=True)
class _Given:
    """Quarantined objects that go together, and the command that gives them another try."""

    title: str
    retry: str
    objects: tuple[ObjectRow, ...]


@dataclass(frozen=True, slots=True)
class _Trouble:
    """What does not work in one model or organism."""

    name: str
    quarantined: tuple[_Given, ...]
    retrying: tuple[ObjectRow, ...]


def _trouble(catalog: Catalog, model: Model) -> _Trouble:
    given_up = catalog.quarantined(model.source_name, limit=OBJECTS_SHOWN)
    by_partition = groupby(
        sorted(given_up, key=lambda row: row.partition, reverse=True), lambda row: row.partition
    )
    return _Trouble(
        model.id,
        tuple(
            _Given(f"{model.id} {key}", _retry(model, key), tuple(objects)) for key, objects in by_partition
        ),
        catalog.retrying(model.source_name, limit=OBJECTS_SHOWN),
    )


def _retry(model: Model, partition: str) -> str:
    return f"ingest requeue --models {quote(model.id)} --partition {quote(partition)}"


def _trouble_of_organism(state: OrganismStanding) -> _Trouble:
    name = state.organism.id
    given = _Given(name, f"ingest requeue --models {quote(name)}", state.quarantined[:OBJECTS_SHOWN])
    return _Trouble(name, (given,) if given.objects else (), state.retrying[:OBJECTS_SHOWN])


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
