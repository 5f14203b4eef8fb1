"""Keeps the memory of one grid for the next.

glibc gives every block of some megabytes back to the kernel when it is freed, and takes the next one from
there again, page by page and zeroed: of the 11 ms in which a GFS message is decoded 3 ms went there. One lead
of GFS costs 144,000 page faults, with these settings 41,000, and 1,200 once the process is warm.
"""

import ctypes
import sys

# Parameters of mallopt(3), from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
# A message's float64 values and what ecCodes works on are 8 MB each for GFS, 15 MB for HRRR. The 98 MB of a
# radar mosaic still go back to the kernel.
_KEPT_BLOCK_BYTES = 32 << 20
# Each arena keeps as much when it has nothing to do: enough for one message on its way.
_KEPT_BYTES = 64 << 20
# Threads come and go with each batch; by default sixteen arenas on two cores would each keep their part.
_ARENAS = 4


def keep_freed_memory() -> None:
    """Set glibc's thresholds for this process; nothing where the C library is another one."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for parameter, value in (
        (_MMAP_THRESHOLD, _KEPT_BLOCK_BYTES),
        (_TRIM_THRESHOLD, _KEPT_BYTES),
        (_ARENA_MAX, _ARENAS),
    ):
        mallopt(parameter, value)
