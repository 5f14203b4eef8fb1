"""A ledger as a busy day leaves it, for metrics and the status page: filled through the real verbs, without a
store and without a byte of weather.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import ColumnElement, literal

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import Artifact, Claim, Failed, Outcome, Postponed, Published, Sighting
from ingest_platform.catalog.tables import UtcTime
from ingest_platform.weather import tally
from ingest_platform.weather.config import load_models
from ingest_platform.weather.discover import Cursor
from ingest_platform.weather.keys import Value, parse, template
from ingest_platform.weather.model import Model, Rejected

NOW = datetime(2026, 11, 20, 12, 20, 30, tzinfo=UTC)
GRID_BYTES = 1_000


@dataclass(slots=True)
class StatusWorld:
    """Objects appear with `see`, are worked on with `work`; the clock stands until it is moved."""

    url: str
    at: datetime = NOW
    catalog: Catalog = field(init=False)

    def __post_init__(self) -> None:
        self.catalog = Catalog.open(self.url, now=self._clock)

    def _clock(self) -> ColumnElement[datetime]:
        return literal(self.at, UtcTime())

    def see(self, model: Model, *keys: tuple[datetime, str], late: float = 30) -> None:
        """These objects, by event time and name, appeared `late` seconds before now."""
        sightings = []
        for moment, key in keys:
            bucket = next(model.sources_at(moment)).bucket
            file = parse(model, bucket, key)
            assert file is not None, key
            partition = model.partition_key(file.event_time)
            uploaded = self.at - timedelta(seconds=late)
            etag = f'"{uploaded.timestamp()}"'
            end = model.partition_end(partition)
            sightings.append(Sighting(bucket, key, etag, 10, uploaded, partition, end, file.slot))
        self.catalog.see(model.source_name, sightings)

    def listed(self, model: Model, newest: datetime) -> None:
        """The source was listed just now, and this is the newest it showed."""
        start = model.partition_start(model.partition_key(newest))
        self.catalog.keep_cursor(model.source_name, Cursor(listed_at=self.at, newest=start).text())

    def work(
        self,
        model: Model,
        moment: datetime,
        *,
        error: str | None = None,
        postponed: str | None = None,
        partly: str | None = None,
        rejected: Sequence[Rejected] = (),
        seconds: float = 0.7,
    ) -> None:
        """A batch over all that is due in the moment's partition, counted as an ingest counts it."""
        claim = self.catalog.claim(model.source_name, model.partition_key(moment), owner="test")
        assert claim is not None, f"nothing is due in {model.partition_key(moment)}"
        outcomes = list(_outcomes(claim, error, postponed, partly))
        if error or postponed:
            assert self.catalog.fail(claim, outcomes)
            self.catalog.add(tally.handed_back(model, outcomes, rejected, seconds=seconds, broken=False))
        else:
            counters = tally.committed(model, outcomes, rejected, seconds=seconds, now=self.at)
            self.catalog.commit(claim, f"s{claim.token}", outcomes, counters=counters)

    def close(self) -> None:
        self.catalog.close()


def _outcomes(
    claim: Claim, error: str | None, postponed: str | None, partly: str | None
) -> Iterable[Outcome]:
    for item in claim.objects:
        if error:
            yield Failed(item, error, permanent=True)
        elif postponed:
            yield Postponed(item, postponed)
        else:
            artifact = Artifact(f"{item.slot}/grid", GRID_BYTES, "crc32:0", "1")
            yield Published(item, (artifact,), partly)


def key_of(model: Model, moment: datetime, *, lead: int | None = None, parameter: int = 0) -> str:
    """The name that the source gives to such an object."""
    of = model.parameters[parameter]
    end = moment + timedelta(seconds=157.3)
    values: dict[str, Value] = {"cycle": moment, "valid": moment, "start": moment, "end": end, "created": end}
    values |= {"lead": lead or 0, "mode": 6, "band": of.band or 0, "product": of.product or ""}
    return template(next(model.sources_at(moment)).key).render(values)


def lead_of(model: Model, cycle: datetime, lead: int) -> tuple[datetime, str]:
    return cycle, key_of(model, cycle, lead=lead)


def models() -> dict[str, Model]:
    """The shipped ones by id."""
    return {model.id: model for model in load_models()}


def busy_day(folder: Path) -> StatusWorld:
    """A new ledger, in which this is all that ever happened."""
    world = StatusWorld(f"sqlite:///{folder / 'ledger.db'}")
    live_a_day(world)
    return world


def live_a_day(world: StatusWorld) -> None:
    """All five models: most of it present, some late, some missing, some partial, three objects given up."""
    known = models()
    for age in range(4):
        _forecast_day(world, known["gfs"], NOW.replace(hour=6, minute=0, second=0) - age * timedelta(hours=6))
    for age in range(6):
        cycle = NOW.replace(hour=10, minute=0, second=0) - age * timedelta(hours=1)
        _forecast_day(world, known["hrrr"], cycle)
    for name in ("goes_east", "goes_west", "mrms"):
        for age in range(6):
            _observed_hour(world, known[name], NOW.replace(minute=0, second=0) - age * timedelta(hours=1))


def _forecast_day(world: StatusWorld, model: Model, cycle: datetime) -> None:
    leads = model.expected_leads(cycle)
    newest = cycle.hour in (6, 10)
    published = leads[: len(leads) * 2 // 3] if newest else leads
    absent = {7, 45} if cycle.hour == 0 else set()
    world.see(model, *(lead_of(model, cycle, lead) for lead in published if lead not in absent), late=70)
    world.work(model, cycle, seconds=40)
    if newest:
        _trouble(world, model, cycle, leads[len(published)], leads[len(published) + 1])
    world.listed(model, NOW.replace(hour=6 if model.id == "gfs" else 10))


def _trouble(world: StatusWorld, model: Model, cycle: datetime, first: int, second: int) -> None:
    world.see(model, lead_of(model, cycle, first))
    told = "message 2 at byte 41,723: 7777 expected at byte 83,101, found 4f4b"
    damaged = Rejected("message 2", told, "framing")
    world.work(model, cycle, error=f"f{first:03d}: no usable grid ({told})", rejected=[damaged])
    world.see(model, lead_of(model, cycle, second))
    world.work(model, cycle, postponed="the source answered 503 SlowDown to 3 tries in 15 s")
    world.see(model, lead_of(model, cycle, model.expected_leads(cycle)[-1]))
    world.work(model, cycle, partly="1 of 86 messages rejected: WDIR:surface: identity")


def _observed_hour(world: StatusWorld, model: Model, hour: datetime) -> None:
    step = timedelta(minutes=model.cadence_minutes)
    until = min(hour + timedelta(hours=1), NOW - timedelta(minutes=model.delay_minutes))
    times = [hour + timedelta(seconds=17.5) + n * step for n in range(60 // model.cadence_minutes)]
    seen = [
        (time, key_of(model, time, parameter=parameter))
        for number, time in enumerate(time for time in times if time < until)
        for parameter in range(len(model.parameters))
        if (hour.hour, number, parameter) not in ((9, 4, 1), (9, 5, 1))
    ]
    world.see(model, *seen, late=6)
    world.work(model, hour)
    world.listed(model, NOW)
