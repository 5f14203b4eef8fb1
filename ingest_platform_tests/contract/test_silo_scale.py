"""Many organisms at once, and a large one: what the importer asks of its neighbours, and its own memory."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from backports.zstd import ZstdCompressor

from ingest_platform.silo import feed
from ingest_platform.silo.model import Organism
from ingest_platform.silo.rails import DOWNLOADS_AT_ONCE
from ingest_platform_tests.silo_station import NOON, Station, station
from ingest_platform_tests.silo_world import TWELVE, Answer, answer, line, loculus, record

ORGANISMS = 20
# As many bytes as RSV-A's release has, and as many records: 475 MB, 19,662 genomes.
STREAM_BYTES, GENOMES = 475_000_000, 19_662
MOST_MEMORY_KB = 300_000
IMPORTER = """
import sys
from pathlib import Path
from ingest_platform_tests.silo_station import station
from ingest_platform_tests.silo_world import Loculus
with station(Path(sys.argv[1]), Loculus(url=sys.argv[2])) as place:
    report = place.round()
    assert report.what == "imported", report.error
    # Not ru_maxrss, which begins with the memory of whoever started this process.
    peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    print(place.index.rows, place.index.content_bytes, peak)
"""


@dataclass
class Downloads:
    """Counts those under way; each waits for so many others as may run beside it."""

    together: threading.Barrier = field(default_factory=lambda: threading.Barrier(DOWNLOADS_AT_ONCE))
    lock: threading.Lock = field(default_factory=threading.Lock)
    now: int = 0
    most: int = 0
    all: int = 0

    def at(self, point: str) -> None:
        if point == "during download":
            with self.lock:
                self.now, self.all = self.now + 1, self.all + 1
                self.most = max(self.most, self.now)
            self.together.wait(timeout=60)
        if point == "after download":
            with self.lock:
                self.now -= 1


def herd(place: Station) -> list[Organism]:
    """Organisms of one backend, which differ in name, address and output folder."""
    names = [f"organism-{n}" for n in range(ORGANISMS)]
    return [
        place.organism.model_copy(
            update={"id": name, "backend_url": f"{place.server.url}/{name}", "output": place.root / name}
        )
        for name in names
    ]


@pytest.mark.silo_case(27)
def test_at_midnight_all_organisms_are_loaded_a_few_at_a_time_and_none_is_built(tmp_path: Path) -> None:
    """Else each night the backend answers 20 full downloads at once, and 20 indexes are built for nothing."""
    downloads = Downloads()
    with loculus() as server, station(tmp_path, server, at=downloads.at) as place:
        organisms, place.at = herd(place), NOON.replace(hour=23, minute=50)
        server.release(answer(TWELVE, '"e1|2026-11-21"'))
        before = [report.what for report in feed.once(place.rails, organisms, owner="test")]
        asked = len(server.requests)

        place.advance(minutes=20)
        server.release(answer(TWELVE, '"e1|2026-11-22"'))
        after = [report.what for report in feed.once(place.rails, organisms, owner="test")]
        idle = [report.what for report in feed.once(place.rails, organisms, owner="test")]

        assert (before, after) == (["imported"] * ORGANISMS, ["unchanged"] * ORGANISMS)
        assert idle == ["nothing due"] * ORGANISMS
        assert (downloads.most, downloads.all) == (DOWNLOADS_AT_ONCE, 2 * ORGANISMS)
        # A poll and a download each, then the poll that is answered with 304.
        assert len(server.requests) - asked == 3 * ORGANISMS
        assert len(place.engine.builds) == ORGANISMS


@pytest.mark.silo_case(29)
def test_a_whole_import_of_475_megabytes_needs_bounded_memory(tmp_path: Path) -> None:
    """Else the largest organism is killed for its memory, and with it everybody else's import."""
    headers = {"ETag": '"large"', "Content-Encoding": "zstd", "x-total-records": str(GENOMES)}
    with loculus() as server:
        server.always(Answer(large_body(), headers=headers))
        done = subprocess.run(
            [sys.executable, "-c", IMPORTER, str(tmp_path), server.url],
            check=True, capture_output=True, text=True,
        )  # fmt: skip

    rows, content_bytes, memory_kb = map(int, done.stdout.split())
    assert rows == GENOMES
    assert content_bytes >= STREAM_BYTES
    assert memory_kb < MOST_MEMORY_KB


def large_body() -> bytes:
    """The same genome again and again, flushed behind each as the backend does."""
    letters = "ACGT" * (STREAM_BYTES // GENOMES // 8 + 1)
    one = record(0)
    one["unalignedNucleotideSequences"] = one["alignedNucleotideSequences"] = {"main": letters}
    return b"".join(_flushed(line(one)))


def _flushed(template: bytes) -> Iterator[bytes]:
    compressor = ZstdCompressor(level=1)
    for n in range(GENOMES):
        each = template.replace(b"LOC_000000", b"LOC_%06d" % n)
        yield compressor.compress(each + b"\n", mode=ZstdCompressor.FLUSH_BLOCK)
    yield compressor.flush()
