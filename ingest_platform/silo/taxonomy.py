"""Hierarchical filters: the file that a service makes for the very values of a metadata field in a release.

What it answers is judged like a lineage file, and changes the index like one.
"""

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches

import urllib3

from ingest_platform.silo.database import BadDatabaseConfig, Database
from ingest_platform.silo.lineage import NO_LINEAGES, Answer, LineageFile, ask, names, require_file
from ingest_platform.silo.model import Organism
from ingest_platform.silo.released import Layout

PATH = "/silo-lineage"
TOO_LARGE = 413  # the answer would be: the service then leaves out all that nobody asked for
PRUNED = "?prune=true"


def layout_of(organism: Organism, database: Database) -> Layout:
    """What to look at in the records: as the database says, and the fields of the hierarchical filters.

    BadDatabaseConfig if one of these is no field of a database that is known here.
    """
    known = [column.name for column in database.columns]
    for name in organism.hierarchical_filters:
        if known and name not in known:
            guess = get_close_matches(name, known, n=1)
            raise BadDatabaseConfig(
                f"{organism.id}: hierarchical_filters.{name}: no such metadata field in the database's"
                f" configuration{f'. Did you mean {guess[0]}?' if guess else '.'} Nothing was downloaded."
            )
    counted = dict.fromkeys([*database.layout.lineage_fields, *organism.hierarchical_filters])
    return replace(database.layout, lineage_fields=tuple(counted))


def hierarchies(
    organism: Organism, values: Mapping[str, Mapping[str, int]], pool: urllib3.PoolManager
) -> tuple[LineageFile, ...]:
    """The file of each hierarchical filter. `values`: metadata field → value → records.

    A field without values: an empty definition, and nobody is asked. Incomplete: refused or unsound;
    SourceUnavailable. Whether all values are known is `require_known`'s question.
    """
    # Asked at each import although upstream keeps the answer while the values stay the same: one small
    # request, and a taxonomy that was corrected is in the index after the next hard refresh.
    return tuple(
        _made(organism, name, values.get(name, {}), pool) for name in sorted(organism.hierarchical_filters)
    )


def _made(organism: Organism, name: str, values: Mapping[str, int], pool: urllib3.PoolManager) -> LineageFile:
    service = organism.hierarchical_filters[name]
    if not values:
        return LineageFile(name, None, None, NO_LINEAGES, frozenset(), service)
    what = f"{organism.id}: hierarchical filter {name}, {len(values):,} values"
    url = service.rstrip("/") + PATH
    answer = _asked(organism, url, values, pool, what)
    if answer.status == TOO_LARGE:
        url += PRUNED
        answer = _asked(organism, url, values, pool, what)
    content = require_file(answer, what=what, url=url)
    return LineageFile(name, None, url, content, names(content, what=f"{what} ({url})"), service)


def _asked(
    organism: Organism, url: str, values: Mapping[str, int], pool: urllib3.PoolManager, what: str
) -> Answer:
    return ask(pool, url, organism.timeouts, what=what, post={"values": sorted(values)})
