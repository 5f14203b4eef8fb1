"""Bytes that survive a power cut."""

import os
from pathlib import Path


def to_disk(path: Path) -> None:
    """Force a file's bytes, or a folder's names, to the disk.

    Before the rename that makes them count: after a power cut the rename may be there and the bytes may not.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
