"""Monotonic counters, moved in the transaction of the fact they count.

Runs are too short to be scraped and their memory dies with them; a counter in the ledger neither
forgets nor counts what was rolled back.
"""

import json
from collections.abc import Iterable, Mapping

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from ingest_platform.catalog.tables import counter

Labels = Iterable[tuple[str, str]]
Increments = Mapping[tuple[str, Labels], float]


def count(tx: Connection, source: str, **amounts: float) -> None:
    """Add to this source's own counters; the keyword is the counter's name."""
    add(tx, of_source(source, **amounts))


def of_source(source: str, **amounts: float) -> Increments:
    """The same as increments, for a verb that has more to add."""
    return {(name, (("source", source),)): amount for name, amount in amounts.items()}


def add(tx: Connection, *parts: Increments) -> None:
    """Add to the counters, new ones beginning at 0. Once a transaction, with all its parts.

    ValueError for a negative amount: they only grow.
    """
    sums: dict[tuple[str, str], float] = {}
    for (name, labels), amount in (item for increments in parts for item in increments.items()):
        if amount < 0:
            raise ValueError(
                f"counter {name}: {amount} is negative, and counters only grow. Nothing was counted."
            )
        row = (name, json.dumps(dict(labels), sort_keys=True))
        sums[row] = sums.get(row, 0.0) + amount
    # In one order for all: two verbs that take the same rows the other way round would wait for each other.
    rows = [{"name": n, "labels": text, "value": v} for (n, text), v in sorted(sums.items()) if v]
    for row_values in rows:
        tx.execute(_upsert(tx.dialect.name), row_values)


def _upsert(dialect: str) -> postgresql.Insert | sqlite.Insert:
    insert = postgresql.insert(counter) if dialect == "postgresql" else sqlite.insert(counter)
    return insert.on_conflict_do_update(
        index_elements=[counter.c.name, counter.c.labels],
        set_={"value": counter.c.value + insert.excluded.value},
    )
