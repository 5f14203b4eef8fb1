"""How the database goes about each verb's statements: taken down as they run, explained afterwards.

Both dialects' answers in one form: the tables that are read whole, and the indexes that are used, under the
names that the schema gives them.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Engine, event

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import Failed, Published, Sighting
from ingest_platform_tests.contract.ledger_crowd import NEWEST, SOURCES, key_of
from ingest_platform_tests.contract.ledger_world import grid

SOURCE = SOURCES[0]
# These grow with every file; the table of partitions is read whole where that is cheaper.
BIG = ("source_object", "artifact", "weather_grid")
# Of what waits and what is in quarantine: as long as the queue, not as the table.
SHORT = ("ix_source_object_pending", "ix_source_object_quarantined", "ix_source_object_due")
# SQLite numbers the indexes of its constraints.
_SQLITE_NAMES = {
    "sqlite_autoindex_source_object_1": "uq_source_object_source_bucket_key_etag",
    "sqlite_autoindex_artifact_1": "uq_artifact_partition_id_name",
    "sqlite_autoindex_partition_1": "uq_partition_source_key",
    "sqlite_autoindex_weather_grid_1": "pk_weather_grid",
}


@dataclass(slots=True)
class Plan:
    """How the statements of one verb are worked off."""

    used: set[str] = field(default_factory=set)  # indexes
    whole: list[str] = field(default_factory=list)  # lines that read a big table, or an index of it, whole


@dataclass(frozen=True, slots=True)
class Statement:
    text: str
    parameters: Any


Played = Mapping[str, Sequence[Statement]]


def play(engine: Engine, catalog: Catalog) -> Played:
    """Run every verb over a crowded ledger; their statements by verb."""
    recorder = _Recorder(engine)
    newest, oldest = key_of(0), NEWEST - timedelta(hours=30)
    seen = [_sighting(f"new{i}", "e1") for i in range(20)]
    with recorder("see"):
        catalog.see(SOURCE, seen)
        catalog.see(SOURCE, [_sighting("f3", "e2", minute=1)])  # the newer version of a published one
    with recorder("request"):
        catalog.request(SOURCE)
    with recorder("has_due"):
        catalog.has_due(SOURCE, newest)
    with recorder("due_partitions"):
        catalog.due_partitions(SOURCE)
    with recorder("claim"):
        claim = catalog.claim(SOURCE, newest, owner="a")
    assert claim is not None
    with recorder("commit"):
        made = [Published(o, (grid(f"{o.slot}/temperature_2m"),)) for o in claim.objects]
        catalog.commit(claim, "s2", made)
    catalog.see(SOURCE, [_sighting("bad", "e1")])
    claim = catalog.claim(SOURCE, newest, owner="a")
    assert claim is not None
    with recorder("fail"):
        catalog.fail(claim, [Failed(o, "no GRIB", permanent=True) for o in claim.objects])
    with recorder("requeue"):
        catalog.requeue(SOURCE)
    with recorder("expirable"):
        catalog.expirable(SOURCE, cutoff=oldest, keep_latest=2)
    with recorder("expire"):
        (purge,) = catalog.expire(SOURCE, cutoff=oldest, keep_latest=2, owner="p", limit=1)
    with recorder("erase"):
        catalog.erase(purge)
    with recorder("forget"):
        catalog.forget(SOURCE)
    held = catalog.hold(SOURCE, key_of(2), owner="r")
    assert held is not None
    with recorder("repair"):
        catalog.repair(held)
    _play_reads(recorder, catalog)
    return recorder.played


def _play_reads(recorder: "_Recorder", catalog: Catalog) -> None:
    with recorder("gauges"):
        catalog.gauges()
    with recorder("gauges of one source"):
        catalog.gauges(SOURCE)
    with recorder("quarantined"):
        catalog.quarantined(SOURCE)
    with recorder("retrying"):
        catalog.retrying(SOURCE)
    with recorder("published"):
        catalog.published(SOURCE, key_of(3))
    with recorder("objects"):
        catalog.objects(SOURCE, key_of(3))
    with recorder("coverage"):
        catalog.coverage(SOURCE, partition=key_of(3))


def _sighting(name: str, etag: str, *, minute: int = 0) -> Sighting:
    key = f"{key_of(0)}/{name}"
    moment = NEWEST + timedelta(minutes=minute)
    return Sighting("noaa", key, etag, 1_000, moment, key_of(0), NEWEST, key)


class _Recorder:
    """Takes down what is sent to the database, verb by verb."""

    def __init__(self, engine: Engine) -> None:
        self.played: defaultdict[str, list[Statement]] = defaultdict(list)
        self._verb: str | None = None
        event.listen(engine, "before_cursor_execute", self._take_down)

    @contextmanager
    def __call__(self, verb: str) -> Iterator[None]:
        self._verb = verb
        yield
        self._verb = None

    def _take_down(self, _c: Any, _cursor: Any, text: str, parameters: Any, _ctx: Any, many: bool) -> None:
        explainable = text.startswith(("SELECT", "UPDATE", "DELETE"))
        if self._verb is not None and explainable and any(table in text for table in (*BIG, "partition")):
            self.played[self._verb].append(Statement(text, parameters[0] if many else parameters))


def explain(tx: Connection, statements: Sequence[Statement]) -> Plan:
    """How the database would work these off, with the indexes that it has in this transaction."""
    plan = Plan()
    for statement in dict.fromkeys(statement.text for statement in statements):
        parameters = next(s.parameters for s in statements if s.text == statement)
        if tx.dialect.name == "sqlite":
            _read_sqlite(plan, _lines(tx, f"EXPLAIN QUERY PLAN {statement}", parameters))
        else:
            _read_postgresql(plan, _lines(tx, f"EXPLAIN {statement}", parameters))
    return plan


def _lines(tx: Connection, text: str, parameters: Any) -> list[str]:
    return [row[-1] for row in tx.exec_driver_sql(text, parameters)]


def _read_sqlite(plan: Plan, lines: Sequence[str]) -> None:
    """Lines as `SEARCH t USING INDEX i (a=?)`, `SCAN t`, `SCAN t USING INDEX i`; t may be an alias."""
    for line in lines:
        if found := re.search(r"USING (?:COVERING )?INDEX (\w+)", line):
            plan.used.add(_SQLITE_NAMES.get(found[1], found[1]))
        scanned = re.match(r"SCAN (\w+)", line)
        small = scanned is None or scanned[1] in ("partition", "source", "CONSTANT")
        if not small and not any(index in line for index in SHORT):
            plan.whole.append(line)


def _read_postgresql(plan: Plan, lines: Sequence[str]) -> None:
    """Lines as `Seq Scan on t`, `Index Scan using i on t`, `Bitmap Index Scan on i`, then `Index Cond`."""
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if re.search(rf"Seq Scan on ({'|'.join(BIG)})\b", line):
            plan.whole.append(line)
        if found := re.search(r"Index.* Scan.* using (\w+) on|Bitmap Index Scan on (\w+)", line):
            name = found[1] or found[2]
            plan.used.add(name)
            if "Index Cond" not in below and name not in SHORT and "partition" not in name[:12]:
                plan.whole.append(line)
