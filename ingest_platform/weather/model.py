"""What a weather model is: its settings (one YAML file a model), its files and its grids.

Settings are dated facts: where the objects lie, since when, which cycles and leads exist, which
parameters we take. No I/O but reading YAML, no network, no Dagster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


UtcDatetime = Annotated[datetime, AfterValidator(_utc)]
CycleHour = Annotated[int, Field(ge=0, le=23)]


class Kind(StrEnum):
    """How a model's objects are named and packed."""

    FORECAST = "forecast"  # GRIB2 by cycle and lead, with a wgrib2 inventory beside it
    SATELLITE = "satellite"  # ABI netCDF by scan start and band
    RADAR = "radar"  # one gzipped GRIB2 message by product and valid time


class Window(StrEnum):
    """Which of the GRIB messages that share a variable and a level: their statistical window tells."""

    INSTANT = "instant"
    ACC_RUN = "acc run"  # accumulated since the cycle
    ACC_RECENT = "acc recent"  # accumulated since the model's last reset: the latest start wins
    AVE_RECENT = "ave recent"
    MAX_RECENT = "max recent"
    MIN_RECENT = "min recent"


class Settings(BaseModel):
    """Frozen; an unknown key is an error, so that a typo cannot pass for a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(Settings):
    """Where a model's objects lie for the cycles, scans or observations in [since, until)."""

    since: UtcDatetime = Field(description="First cycle, scan start or valid time that lies here, UTC")
    until: UtcDatetime | None = Field(default=None, description="First one that does not; empty: still valid")
    bucket: str = Field(description="Name of the public bucket")
    key: str = Field(description="Key template; its fields are listed above")
    index: str | None = Field(default=None, description="Forecast: suffix of the wgrib2 inventory, e.g. .idx")

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> Self:
        if self.until is not None and self.until <= self.since:
            raise ValueError(
                f"until {self.until:%Y-%m-%dT%H:%MZ} is not after since {self.since:%Y-%m-%dT%H:%MZ}"
            )
        return self

    def holds_at(self, moment: datetime) -> bool:
        return self.since <= moment and (self.until is None or moment < self.until)


class LeadRange(Settings):
    """Leads from `first` to `last` hours, both included."""

    first: int = Field(ge=0, description="First lead, hours")
    last: int = Field(ge=0, description="Last lead, hours, included")
    step: int = Field(default=1, ge=1, description="Hours between two leads")

    @model_validator(mode="after")
    def _is_not_empty(self) -> Self:
        if self.last < self.first:
            raise ValueError(f"last {self.last} is before first {self.first}")
        return self


class Horizon(Settings):
    """The leads of some cycles: HRRR runs to 48 h at 00/06/12/18 and to 18 h otherwise."""

    cycles: tuple[CycleHour, ...] = Field(min_length=1, description="Cycle hours, UTC")
    leads: tuple[LeadRange, ...] = Field(min_length=1, description="Ranges of lead hours these cycles run to")

    def hours(self) -> tuple[int, ...]:
        return tuple(h for span in self.leads for h in range(span.first, span.last + 1, span.step))


# Axes, coordinates and grid mappings stand beside the arrays.
RESERVED_NAMES = frozenset(
    [
        "lead",
        "time",
        "cycle",
        "valid_time",
        "isobaric",
        "latitude",
        "longitude",
        "x",
        "y",
        "crs",
        "goes_imager_projection",
        "x_500m",
        "y_500m",
        "x_1km",
        "y_1km",
        "x_2km",
        "y_2km",
    ]
)


class Parameter(Settings):
    """One array of the published dataset, and how to recognise its messages at the source."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Array name in the dataset")
    units: str = Field(description="Units of the source, as CF writes them")
    long_name: str = Field(description="What a plot's title says")
    standard_name: str | None = Field(default=None, description="CF standard name")
    valid_range: tuple[float, float] = Field(description="Physically possible values, in units")
    variable: str | None = Field(default=None, description="GRIB: wgrib2 name, e.g. TMP")
    grib: tuple[tuple[int, int, int], ...] = Field(
        default=(), description="GRIB2 discipline, category, number; alternatives after a table change"
    )
    level: str | None = Field(default=None, description="GRIB: wgrib2 level, e.g. 2 m above ground")
    levels_hpa: tuple[int, ...] = Field(
        default=(), description="GRIB: isobaric levels, one axis of the array"
    )
    window: Window = Field(
        default=Window.INSTANT, description="GRIB: which of the messages that share variable and level"
    )
    not_at_lead_zero: bool = Field(default=False, description="GRIB: no such grid at lead 0")
    product: str | None = Field(default=None, description="Radar: product with its level, as in the key")
    missing: tuple[float, ...] = Field(default=(), description="Radar: sentinels that mean no value")
    band: int | None = Field(default=None, ge=1, le=16, description="Satellite: ABI band")

    @model_validator(mode="after")
    def _name_is_free(self) -> Self:
        if self.name in RESERVED_NAMES or "__" in self.name:
            raise ValueError(f"name {self.name!r}: the dataset uses it, or a double underscore, for itself")
        if len(set(self.levels_hpa)) < len(self.levels_hpa):
            raise ValueError(f"levels_hpa names a level twice: {list(self.levels_hpa)}")
        return self

    @model_validator(mode="after")
    def _range_is_a_range(self) -> Self:
        low, high = self.valid_range
        if not low < high:
            raise ValueError(f"valid_range [{low:g}, {high:g}] holds no value")
        return self

    def levels(self) -> tuple[str, ...]:
        """wgrib2 level texts of this parameter's messages, in axis order."""
        return tuple(f"{hpa} mb" for hpa in self.levels_hpa) or (self.level or "",)


class Model(Settings):
    """One weather model, as its YAML file says."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Name in assets, commands and metrics")
    family: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Asset group; selects all its models")
    title: str = Field(description="Name for people")
    kind: Kind = Field(description="How the objects are named and packed")
    aliases: tuple[str, ...] = Field(default=(), description="Other names that select this model")
    enabled: bool = Field(default=True, description="false: known, never ingested")
    sources: tuple[Source, ...] = Field(min_length=1, description="Where the objects lie, dated")
    horizons: tuple[Horizon, ...] = Field(default=(), description="Forecast: leads by cycle")
    cadence_minutes: int = Field(ge=1, description="Time between cycles, scans or observations")
    poll_interval_seconds: int = Field(ge=1, description="Time between two listings")
    delay_minutes: int = Field(
        ge=0, description="When objects usually appear after their time; listings never wait for it"
    )
    complete_after_minutes: int = Field(
        ge=1, description="Deadline of the completeness check, from the partition's start"
    )
    retention_hours: int = Field(ge=1, description="Age at which the purge takes a partition, from its end")
    keep_latest: int = Field(ge=0, description="Newest partitions that the purge never takes")
    index_grace_minutes: int = Field(
        default=10, ge=0, description="Forecast: wait for a missing inventory, then read the whole object"
    )
    parameters: tuple[Parameter, ...] = Field(min_length=1, description="The arrays of the dataset")

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [p.name for p in self.parameters]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"parameters named twice: {', '.join(twice)}")
        return self

    @property
    def source_name(self) -> str:
        """The ledger's name of this model."""
        return f"weather.{self.id}"

    @property
    def partition_hours(self) -> int:
        """Forecasts are kept by cycle, observations by hour."""
        return self.cadence_minutes // 60 if self.kind is Kind.FORECAST else 1

    def partition_key(self, moment: datetime) -> str:
        """Key of the partition that holds this cycle, scan start or valid time (UTC)."""
        hour = moment.hour - moment.hour % self.partition_hours
        return moment.replace(hour=hour).strftime(PARTITION_FORMAT)

    def partition_start(self, key: str) -> datetime:
        return datetime.strptime(key, PARTITION_FORMAT).replace(tzinfo=UTC)

    def partition_end(self, key: str) -> datetime:
        """End of the partition's event time: retention counts from here."""
        return self.partition_start(key) + timedelta(hours=self.partition_hours)

    def expected_leads(self, cycle: datetime) -> tuple[int, ...]:
        """Lead hours that this cycle publishes, ascending; () for observations."""
        return tuple(h for horizon in self.horizons if cycle.hour in horizon.cycles for h in horizon.hours())

    def sources_at(self, moment: datetime) -> Iterator[Source]:
        return (source for source in self.sources if source.holds_at(moment))


# The hour is enough: the shortest partition is an hour.
PARTITION_FORMAT = "%Y-%m-%dT%H"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One object of the source, as its key tells. Times are UTC, to the second or finer."""

    model: str
    bucket: str
    key: str
    source: Source
    event_time: datetime  # cycle, scan start, or valid time
    lead: timedelta | None = None  # forecast only
    band: int | None = None  # satellite only
    product: str | None = None  # radar only
    created: datetime | None = None  # satellite only: creation stamp in the name

    @property
    def slot(self) -> str:
        """The logical thing whose versions compete, whatever the template of the day."""
        stamp = self.event_time.strftime("%Y%m%dT%H%M%S.%f")[:-5]
        if self.lead is not None:
            return f"{stamp}/f{int(self.lead.total_seconds()) // 3600:03d}"
        return f"{stamp}/C{self.band:02d}" if self.band is not None else f"{stamp}/{self.product}"


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where a grid's cells lie, in CF terms."""

    y_name: str  # dimension and coordinate: latitude, y, y_2km
    x_name: str
    y: NDArray[np.float64]  # 1-D, in the grid's own order; degrees, metres or radians as attributes say
    x: NDArray[np.float64]
    y_attributes: tuple[tuple[str, Any], ...]
    x_attributes: tuple[tuple[str, Any], ...]
    grid_mapping: str  # name of the grid mapping variable
    crs: tuple[tuple[str, Any], ...]  # its CF attributes
    bbox: tuple[float, float, float, float]  # west, south, east, north; degrees


@dataclass(frozen=True, slots=True)
class Packing:
    """CF packing of integer values: value = stored · scale_factor + add_offset; fill means missing."""

    scale_factor: float
    add_offset: float
    fill: int
    unsigned: bool = False


@dataclass(frozen=True, slots=True)
class Grid:
    """One decoded field, y × x: float32 with NaN where missing, or integers with their packing."""

    parameter: Parameter
    level: str  # as the source calls it
    window: str  # "instant", or as wgrib2 says: "6-7 hour acc"
    reference_time: datetime  # cycle, or the scan start / valid time itself
    valid_time: datetime
    lead: timedelta
    geometry: Geometry
    values: NDArray[np.float32] | NDArray[np.int16] | NDArray[np.uint16]
    packing: Packing | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message or variable that could not be used; its neighbours are not affected."""

    what: str  # e.g. "message 2 at byte 41,723: WDIR:surface"
    reason: str
    kind: Literal["framing", "decode", "identity", "range", "missing"]
