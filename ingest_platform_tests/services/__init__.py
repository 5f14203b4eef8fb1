"""Real servers for the tests: PostgreSQL, Redis, S3, Weaviate on loopback, data in folders the tests own."""

import os
import tempfile
from pathlib import Path


def root() -> Path:
    """Holds a folder for each test session that runs, and `services` for those started by hand.

    In the temporary folder, whose short name leaves room for a Unix socket (107 bytes), and not in the
    checkout, which PostgreSQL's own user could not enter.
    """
    return Path(tempfile.gettempdir()) / f"ingest-tests-{os.getuid()}"
