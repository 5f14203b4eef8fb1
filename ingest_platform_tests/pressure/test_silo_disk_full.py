"""No space left on device at each step of a SILO import: the old index is served, and with room again the
same unchanged data is indexed. Upstream's importer stalled for ever here.
"""

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ingest_platform.silo.engines.choice import engine_of
from ingest_platform.silo.model import EngineSettings
from ingest_platform.silo.read import SOURCE
from ingest_platform_tests.conftest import needed
from ingest_platform_tests.pressure.disk import Disk, small_disk
from ingest_platform_tests.silo_station import Station, new_station
from ingest_platform_tests.silo_world import Answer, Json, answer, record

# Its index is as large as its records: what fits and what does not is then known beforehand.
COPIES = """#!/bin/sh
config=$SILO_PREPROCESSING_CONFIG
output=$(sed -n 's/^outputDirectory: //p' "$config")/1795269573
mkdir -p "$output" || exit 2
cp "$(sed -n 's/^inputDirectory: //p' "$config")/data.ndjson.zst" "$output/default.silo" || exit 2
printf 'timestamp: 1795269573\\nserializationVersion: 1\\n' >"$output/data_version.silo" || exit 2
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with needed(), small_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
def new(tmp_path: Path, disk: Disk) -> Iterator[Station]:
    """Scratch, kept bodies, store and output lie on the small disk; the ledger does not."""
    binary = tmp_path / "silo"
    binary.write_text(COPIES)
    binary.chmod(0o755)
    with new_station(
        tmp_path,
        environ={"INGEST_STORE_URL": (disk.folder / "store").as_uri()},
        output=disk.folder / "out",
        engine=EngineSettings(kind="cli", binary=binary),
    ) as made:
        made.rails = replace(
            made.rails,
            scratch=disk.folder / "scratch",
            kept=disk.folder / "kept",
            environ={"PATH": "/usr/bin:/bin"},
            choose_engine=engine_of,
        )
        yield made


@pytest.fixture
def place(new: Station) -> Station:
    """Three records are indexed and served."""
    new.server.release(released(3, '"e1"'))
    assert new.round().what == "imported"
    return new


def released(rows: int, etag: str) -> Answer:
    return answer([noisy(number) for number in range(rows)], etag)


def noisy(number: int) -> Json:
    """A record that no compression makes small."""
    return record(number, note=random.Random(number).randbytes(2000).hex())


@pytest.mark.silo_case(16)
@pytest.mark.parametrize(
    ("share", "downloaded_again"),
    [(0.0, True), (0.75, True), (1.4, True), (2.4, False), (3.4, False)],
    ids=["no folder", "at download", "at transform", "in the engine", "at the store"],
)
def test_a_disk_that_was_full_costs_nothing_once_there_is_room(
    share: float, downloaded_again: bool, place: Station, disk: Disk
) -> None:
    """Else a full disk on a Sunday leaves the genomes out until somebody submits another."""
    before, index = place.output_tree(), place.index
    body = released(600, '"e2"')
    place.server.release(body)
    disk.fill(leaving=int(share * len(body.body)))

    for _ in range(4):
        place.poll()
        report = place.ingest()
        assert report.what == "failed"
        # The engine's own words did not fit on the disk either.
        assert ("failed with exit 2" if share == 2.4 else "No space left") in str(report.error)
        assert (place.output_tree(), place.index) == (before, index)
        assert not (disk.folder / "scratch").exists() or list((disk.folder / "scratch").iterdir()) == []
        assert list((disk.folder / "out" / ".importing").iterdir()) == []
        place.advance(minutes=20)

    assert [row.attempts for row in place.rows if row.state == "pending"] == [0]
    disk.free()
    assert place.poll().what == "known"
    healed = place.ingest()
    assert (healed.what, healed.downloaded) == ("imported", downloaded_again)
    assert (place.index.rows, place.index.etag) == (600, '"e2"')
    assert place.served is not None
    assert place.served.timestamp == place.index.index_timestamp


@pytest.mark.silo_case(16)
def test_a_first_index_that_did_not_fit_beside_its_copy_leaves_the_room_that_there_was(
    new: Station, disk: Disk
) -> None:
    """Else each try leaves half a copy: a little more room does not help, the disk stays full for ever."""
    body = released(600, '"e1"')
    new.server.release(body)
    disk.fill(leaving=int(3.4 * len(body.body)))

    free = []
    for _ in range(4):
        new.poll()
        report = new.ingest()
        assert report.what == "failed"
        assert "No space left" in str(report.error)
        assert list(new.rails.store.list_uris({SOURCE})) == []
        free.append(shutil.disk_usage(disk.folder).free)
        new.advance(minutes=20)

    assert len(set(free)) == 1
    disk.free()
    # Body, records, index and its copy, and not one body more than another copy would need.
    disk.fill(leaving=int(4.9 * len(body.body)))
    assert new.ingest().what == "imported"
    assert new.served is not None
    assert list(new.rails.store.list_uris({SOURCE})) == [new.index.uri]
