"""Lineage definitions: which file goes with a release, whether it is sound, and whether it knows the data.

A file that is missing, broken or behind the data is Incomplete: the source publishes genomes and definitions
apart, so one waits for the other; the snapshot of the genomes is kept and not loaded again for it.
"""

import graphlib
import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import urllib3
import yaml
from urllib3.exceptions import HTTPError

from ingest_platform.errors import Damaged, Incomplete, SourceUnavailable
from ingest_platform.silo.backend import arriving, without_query
from ingest_platform.silo.database import Database
from ingest_platform.silo.model import Organism, Timeouts

# The pango file has 240 kB and 4,000 names; what is 100 times as large is no definition file.
LARGEST_FILE_BYTES = 25_000_000
# As upstream waits for these files; for 25 MB that is a line of 3 Mbit/s.
LONGEST_SECONDS = 60.0
# Files are served by web hosts that move them; nothing else is tried again here.
REDIRECTS = urllib3.Retry(total=None, connect=0, read=0, status=0, other=0, redirect=3)
TOLD_VALUES = 20  # of the unknown ones; the rest is counted
SAID_BYTES = 500  # of an error page; the rest explains nothing
NO_LINEAGES = b"{}\n"
WAITS = "The published index stays, the downloaded genomes are kept; it is tried again."


@dataclass(frozen=True, slots=True)
class LineageFile:
    """One system's definitions, sound: for one pipeline version, or for the values of one metadata field."""

    system: str  # or the metadata field
    version: int | None  # None: no record has a version, the file is empty; or a service made it
    url: str | None  # as shown to people: without a query that may be secret
    content: bytes = field(repr=False)
    names: frozenset[str] = field(repr=False)  # labels and aliases
    service: str | None = None  # that made the file for the values of the metadata field `system`

    @property
    def what(self) -> str:
        made_for = f"service {self.service}" if self.service else f"pipeline version {self.version}"
        return f"lineage system {self.system}, {made_for}"

    @property
    def content_hash(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def file_name(self) -> str:
        return f"{self.system}.yaml"


def definitions(
    organism: Organism, versions: Mapping[int | None, int], pool: urllib3.PoolManager
) -> tuple[LineageFile, ...]:
    """The file of each configured system for a release whose records have these pipeline versions.

    Nothing configured: none. No record has a version: an empty definition each. Damaged if records
    have several versions; Incomplete (no URL, no such file, an unsound one); SourceUnavailable.
    """
    if not organism.lineage_definitions:
        return ()
    version = _one_version(organism, versions)
    if version is None:
        return tuple(
            LineageFile(system, None, None, NO_LINEAGES, frozenset())
            for system in sorted(organism.lineage_definitions)
        )
    return tuple(_fetched(organism, system, version, pool) for system in sorted(organism.lineage_definitions))


def _one_version(organism: Organism, versions: Mapping[int | None, int]) -> int | None:
    present = {version: count for version, count in versions.items() if version is not None}
    if len(present) > 1:
        told = ", ".join(f"{version}: {count:,} records" for version, count in sorted(present.items()))
        raise Damaged(
            f"{organism.id}: several pipeline versions in one release ({told}), but a lineage file belongs to"
            f" one. Nothing of it was used, the published index stays; it is tried again."
        )
    return next(iter(present), None)


def _fetched(organism: Organism, system: str, version: int, pool: urllib3.PoolManager) -> LineageFile:
    urls = organism.lineage_definitions[system]
    what = f"{organism.id}: lineage system {system}, pipeline version {version}"
    if version not in urls:
        raise Incomplete(
            f"{what}: no URL; there are URLs for {', '.join(map(str, sorted(urls)))}."
            f" Add one to lineage_definitions. {WAITS}"
        )
    url = urls[version]
    shown = without_query(url)
    content = require_file(ask(pool, url, organism.timeouts, what=what, shown=shown), what=what, url=shown)
    return LineageFile(system, version, shown, content, names(content, what=f"{what} ({shown})"))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a host of definitions answered. Of a refusal only the beginning of the text is kept."""

    status: int
    content: bytes = field(repr=False)


def ask(
    pool: urllib3.PoolManager,
    url: str,
    timeouts: Timeouts,
    *,
    what: str,
    post: object = None,
    shown: str | None = None,
) -> Answer:
    """GET `url`, or POST it this JSON. `shown`: the URL in messages, if it is not the same.

    SourceUnavailable: away, tired (5xx, 429) or too slow; Incomplete: too much for a definition file.
    """
    shown = shown or url
    deadline = time.monotonic() + min(LONGEST_SECONDS, timeouts.total_seconds)
    timeout = urllib3.Timeout(
        connect=min(LONGEST_SECONDS, timeouts.connect_seconds),
        read=min(LONGEST_SECONDS, timeouts.read_seconds),
    )
    method = "GET" if post is None else "POST"
    try:
        response = pool.request(
            method, url, json=post, timeout=timeout, retries=REDIRECTS, preload_content=False
        )
    except HTTPError as error:
        # Without its cause, which names the URL as it is.
        why = without_query(str(error))
        raise SourceUnavailable(f"{what}: no answer from {shown}: {why}. {WAITS}") from None
    try:
        pieces = arriving(response, what=f"{what}: {shown}", deadline=deadline)
        if response.status == 200:
            return Answer(200, _small(pieces, f"{what}: {shown}"))
        answer = Answer(response.status, next(pieces, b"")[:SAID_BYTES])
    finally:
        response.close()
    if answer.status >= 500 or answer.status == 429:
        raise SourceUnavailable(_refused(answer, what=what, url=shown))
    return answer


def require_file(answer: Answer, *, what: str, url: str) -> bytes:
    """The file that was asked for. Incomplete if it is refused."""
    if answer.status != 200:
        raise Incomplete(_refused(answer, what=what, url=url))
    return answer.content


def _refused(answer: Answer, *, what: str, url: str) -> str:
    said = f" and says {answer.content.decode(errors='replace')!r}" if answer.content else ""
    return f"{what}: {url} answered {answer.status} where 200 was expected{said}. {WAITS}"


def _small(pieces: Iterator[bytes], what: str) -> bytes:
    content = bytearray()
    for piece in pieces:
        content += piece
        if len(content) > LARGEST_FILE_BYTES:
            raise Incomplete(f"{what}: more than {LARGEST_FILE_BYTES:,} bytes, no definition file. {WAITS}")
    return bytes(content)


def names(content: bytes, *, what: str) -> frozenset[str]:
    """All names that a definition file knows. Incomplete, with every mistake, if it is no sound DAG.

    A file maps labels to {parents: [...], aliases: [...]}, both optional; parents may be aliases. All
    scalars are texts: a lineage called NO or 1.10 is neither false nor 1.1.
    """
    lineages, mistakes = _parsed(content, what)
    owner = dict.fromkeys(lineages)
    for label, (_, aliases) in lineages.items():
        for alias in aliases:
            if alias in owner and alias != label:
                mistakes.append(f"alias {alias} of {label} already names another lineage")
            owner.setdefault(alias, label)
    parents = {}
    for label, (above, _) in lineages.items():
        mistakes += [f"parent {parent} of {label} is not defined" for parent in above if parent not in owner]
        parents[label] = {owner.get(parent) or parent for parent in above}
    mistakes += _cycle(parents)
    if mistakes:
        raise Incomplete(f"{what}: not a sound lineage file: {'; '.join(mistakes[:TOLD_VALUES])}. {WAITS}")
    return frozenset(owner)


def _parsed(
    content: bytes, what: str
) -> tuple[dict[str, tuple[tuple[str, ...], tuple[str, ...]]], list[str]]:
    """Label → parents, aliases; and what does not fit this shape."""
    try:
        root = yaml.compose(content, Loader=yaml.CBaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Incomplete(f"{what}: not YAML: {' '.join(str(error).split())}. {WAITS}") from error
    if not isinstance(root, yaml.MappingNode):
        raise Incomplete(f"{what}: expected a mapping of lineages, found {content[:80]!r}. {WAITS}")
    mistakes = [f"{name} is defined twice" for name, n in _counts(root).items() if n > 1]
    lineages = {}
    for key, value in root.value:
        known, wrong = _lineage(value)
        mistakes += [f"{key.value}: {text}" for text in wrong]
        lineages[str(key.value)] = (known.get("parents", ()), known.get("aliases", ()))
    return lineages, mistakes


def _counts(root: yaml.MappingNode) -> Counter[str]:
    return Counter(str(key.value) for key, _ in root.value)


def _lineage(node: yaml.Node) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    if isinstance(node, yaml.ScalarNode) and node.value in ("", "~", "null"):
        return {}, []
    if not isinstance(node, yaml.MappingNode):
        return {}, ["expected parents and aliases"]
    known, wrong = {}, []
    for key, value in node.value:
        texts = _texts(value)
        if key.value not in ("parents", "aliases"):
            wrong.append(f"{key.value} is neither parents nor aliases")
        elif texts is None:
            wrong.append(f"{key.value} is no list of names")
        else:
            known[key.value] = texts
    return known, wrong


def _texts(node: yaml.Node) -> tuple[str, ...] | None:
    if isinstance(node, yaml.ScalarNode) and node.value in ("", "~", "null"):
        return ()
    if not isinstance(node, yaml.SequenceNode):
        return None
    scalars = [item for item in node.value if isinstance(item, yaml.ScalarNode)]
    return tuple(item.value for item in scalars) if len(scalars) == len(node.value) else None


def _cycle(parents: Mapping[str, set[str]]) -> Iterator[str]:
    try:
        graphlib.TopologicalSorter(parents).prepare()
    except graphlib.CycleError as error:
        yield f"a circle: {' ← '.join(error.args[1])}"


def require_known(
    organism: Organism,
    database: Database,
    files: Sequence[LineageFile],
    lineages: Mapping[str, Mapping[str, int]],
) -> tuple[str, ...]:
    """Incomplete, naming them with their counts, if the data has values that its system's file does not know.

    `lineages`: metadata field → value → records. Unknown values that the database takes for null are
    returned as warnings. A field whose system has no file here is left to the engine.
    """
    warnings: list[str] = []
    for name, file, null_instead in _looked_up(database, files):
        unknown = unknown_values(file, lineages.get(name, {}))
        if not unknown:
            continue
        told = f"{file.what}: {_told(name, unknown)}"
        if not null_instead:
            raise Incomplete(
                f"{organism.id}: {told} not in {file.url or 'an empty definition for no version'}. SILO would"
                f" refuse all records. Define them there, or set treatUnknownLineagesAsNull. {WAITS}"
            )
        warnings.append(f"{told} unknown, and taken for null")
    return tuple(warnings)


def _looked_up(database: Database, files: Sequence[LineageFile]) -> Iterator[tuple[str, LineageFile, bool]]:
    """Metadata field, the file that must know its values, and whether unknown ones are null instead."""
    by_system = {file.system: file for file in files}
    only = files[0] if len(files) == 1 else None
    indexed = set()
    for column in database.columns:
        file = only if column.lineage_system == "" else by_system.get(column.lineage_system or "")
        if file is not None:
            indexed.add(column.name)
            yield column.name, file, column.unknown_lineages_are_null
    # A service was asked for these values, whether or not the database is known here.
    yield from ((file.system, file, False) for file in files if file.service and file.system not in indexed)


def _told(metadata_field: str, unknown: Mapping[str, int]) -> str:
    first = ", ".join(f"{value!r}: {count:,}" for value, count in list(unknown.items())[:TOLD_VALUES])
    more = f" and {len(unknown) - TOLD_VALUES:,} more" if len(unknown) > TOLD_VALUES else ""
    return f"{len(unknown):,} values of metadata.{metadata_field} ({first}{more}) are"


def unknown_values(file: LineageFile, values: Mapping[str, int]) -> Mapping[str, int]:
    """Value → records, the most frequent first."""
    unknown = ((value, count) for value, count in values.items() if value not in file.names)
    return dict(sorted(unknown, key=lambda pair: (-pair[1], pair[0])))
