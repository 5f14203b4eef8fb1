"""What discovery is tested with: a bucket that pages like the real one, a set for a ledger, real names."""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count, islice, takewhile

from ingest_platform.catalog.model import Sighting
from ingest_platform.weather.config import load_models
from ingest_platform.weather.discover import Cursor, Discovery, discover
from ingest_platform.weather.model import Model

MODELS = {model.id: model for model in load_models()}
NOW = datetime(2026, 7, 18, 12, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
PAGE_KEYS = 1000


@dataclass(frozen=True)
class Item:
    key: str
    last_modified: datetime
    etag: str = '"e1"'
    size_bytes: int = 1


@dataclass
class Source:
    """A bucket that pages by the thousand and counts requests; `at` hides what is published later."""

    items: Sequence[Item]
    at: datetime = NOW + timedelta(days=1)
    requests: Counter[str] = field(default_factory=Counter)
    broken: bool = False

    def __post_init__(self) -> None:
        self.items = sorted(self.items, key=lambda item: item.key)
        self.keys = [item.key for item in self.items]

    def list(self, prefix: str, *, start_after: str | None = None) -> Iterator[Sequence[Item]]:
        first = max(bisect_left(self.keys, prefix), bisect_right(self.keys, start_after or ""))
        held = takewhile(lambda item: item.key.startswith(prefix), islice(self.items, first, None))
        public = [item for item in held if item.last_modified <= self.at]
        for begin in range(0, max(1, len(public)), PAGE_KEYS):
            self.requests[prefix] += 1
            if self.broken:
                raise ConnectionError("the listing failed")
            if public:
                yield public[begin : begin + PAGE_KEYS]


@dataclass
class Ledger:
    """A set of what was seen, and what was new when it was."""

    known: set[tuple[str, str]] = field(default_factory=set)
    new: list[Sighting] = field(default_factory=list)

    def see(self, seen: Sequence[Sighting]) -> int:
        fresh = [s for s in seen if (s.key, s.etag) not in self.known]
        self.new += fresh
        self.known |= {(s.key, s.etag) for s in fresh}
        return len(fresh)

    @property
    def keys(self) -> set[str]:
        return {key for key, _ in self.known}


def tick(
    model: Model,
    source: Source,
    ledger: Ledger,
    cursor: Cursor | None = None,
    *,
    now: datetime = NOW,
    budget: Callable[[], float] = lambda: 40.0,
) -> Discovery:
    """One tick, with the cursor sent through its text as the scheduler does."""
    told = Cursor.parse((cursor or Cursor()).text())
    return discover(model, lambda _: source, ledger.see, now=now, cursor=told, budget=budget)


def pages_left(pages: int) -> Callable[[], float]:
    """A budget that is used up after so many pages."""
    left = count(pages - 1, -1)
    return lambda: float(next(left))


def gfs(cycle: datetime, lead: int, after: timedelta = 4 * HOUR) -> Item:
    key = f"gfs.{cycle:%Y%m%d}/{cycle:%H}/atmos/gfs.t{cycle:%H}z.pgrb2.0p25.f{lead:03}"
    return Item(key, cycle + after)


def hrrr(cycle: datetime, lead: int, after: timedelta) -> Item:
    key = f"hrrr.{cycle:%Y%m%d}/conus/hrrr.t{cycle:%H}z.wrfsfcf{lead:02}.grib2"
    return Item(key, cycle + after)


def radar(valid: datetime, after: timedelta = timedelta(seconds=50)) -> Item:
    key = f"CONUS/PrecipRate_00.00/{valid:%Y%m%d}/MRMS_PrecipRate_00.00_{valid:%Y%m%d-%H%M%S}.grib2.gz"
    return Item(key, valid + after)


def scan(start: datetime, *, band: int = 13, created: datetime | None = None, satellite: int = 19) -> Item:
    made = created or start + timedelta(minutes=3)
    key = (
        f"ABI-L2-CMIPC/{start:%Y/%j/%H}/OR_ABI-L2-CMIPC-M6C{band:02}_G{satellite}_s{start:%Y%j%H%M%S}3"
        f"_e{start:%Y%j%H%M%S}9_c{made:%Y%j%H%M%S}1.nc"
    )
    return Item(key, made + timedelta(seconds=20))
