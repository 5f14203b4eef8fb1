"""How many rows a finished index has, asked of the rhydb wheel in a process of its own.

Only an index that the wheel built is counted: another engine's format it may not read.
"""

import shutil
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from ingest_platform.silo.engines.contract import EngineError
from ingest_platform.silo.engines.process import run, scrubbed
from ingest_platform.silo.engines.rhydb import TABLE
from ingest_platform.silo.served import Index

# Loading 20,000 genomes takes a second; what takes a hundred times as long is not loaded for a check.
LONGEST_SECONDS = 120.0
COUNT = """
import sys, rhydb
database = rhydb.Database(sys.argv[1])
print("\\nrows", len(database.get_filtered_bitmap(sys.argv[2])))
"""


def rows_in(index: Index, environ: Mapping[str, str]) -> int | None:
    """Rows of the index; None if the wheel is not installed, or cannot load it."""
    if find_spec("rhydb") is None:
        return None
    folder = Path(tempfile.mkdtemp(prefix="ingest-count-"))
    try:
        # The wheel takes the newest index of a folder: it is given one with this index only.
        (folder / "output").mkdir()
        (folder / "output" / index.path.name).symlink_to(index.path.absolute())
        said = run(
            [sys.executable, "-P", "-c", COUNT, str(folder / "output"), TABLE],
            environment=scrubbed(environ),
            folder=folder,
            log=folder / "log",
            timeout_seconds=LONGEST_SECONDS,
        )
    except EngineError:
        return None
    finally:
        shutil.rmtree(folder)
    return next(int(line.split()[1]) for line in said.splitlines() if line.startswith("rows "))
