"""Freed memory stays with the process, within bounds."""

import subprocess
import sys

import pytest

# Page faults of eight blocks as large as a message's values, one after the other.
BLOCKS = """
import resource
import numpy as np
from ingest_platform.weather.allocator import keep_freed_memory
{set_up}
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(1 << 20); np.ones(1 << 20)
before = faults()
for _ in range(8):
    np.ones(1 << 20)
print(faults() - before)
"""


def faults(set_up: str) -> int:
    """In a process of its own: the settings are for good."""
    command = [sys.executable, "-c", BLOCKS.format(set_up=set_up)]
    environ = {"MALLOC_MMAP_THRESHOLD_": "", "NUMPY_MADVISE_HUGEPAGE": "0"}
    done = subprocess.run(command, env=environ, check=True, capture_output=True, text=True, timeout=60)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_a_block_of_a_grids_size_is_not_paged_in_again_and_again() -> None:
    """Else a quarter of the time in which messages are decoded goes into zeroing the same pages."""
    pages = 8 * (8 << 20) // 4096

    assert faults("keep_freed_memory()") < pages / 20
