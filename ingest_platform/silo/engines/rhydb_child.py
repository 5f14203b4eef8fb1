"""The child of `rhydb`: a program that loads the wheel, feeds it one file of records, and saves the index.

Exit 1: the engine does not take the records. Any other failure is exit 2, with its traceback in the log.
"""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

PIECE_BYTES = 1 << 20


class RefusedError(Exception):
    """The engine does not take the records."""


def main(request_file: str) -> int:
    request: dict[str, Any] = json.loads(Path(request_file).read_text())
    try:
        _build(request)
    except RefusedError as refused:
        print(refused, flush=True)  # noqa: T201 - the log of the build
        return 1
    except Exception:  # noqa: BLE001 - an uncaught one would be exit 1, which blames the records
        traceback.print_exc()
        return 2
    return 0


def _build(request: dict[str, Any]) -> None:
    # Before the wheel is loaded: it starts threads, and a process with threads is not to fork.
    records, feeder = _inflated(request["records"])
    import rhydb

    database = rhydb.Database()
    for reference in request["references"]:
        database.append_data_from_string("reference_genomes", json.dumps(reference))
    database.query(request["create"])
    try:
        database.append_data_from_file(request["table"], f"/dev/fd/{records}")
    except RuntimeError as error:
        raise RefusedError(str(error)) from error
    _, code = os.waitpid(feeder, 0)
    rows = len(database.get_filtered_bitmap(request["table"]))
    if code != 0 or rows != request["rows"]:
        raise RuntimeError(
            f"expected {request['rows']:,} rows, the engine has {rows:,}; the feeder left {code}"
        )
    database.save_checkpoint(request["output"])


def _inflated(path: str) -> tuple[int, int]:
    """A pipe with the decompressed bytes of a file, and the process that fills it.

    The wheel reads no zstd, and a plain file costs the disk more seconds than the engine needs. A thread
    would not do: the wheel holds Python's lock while it reads.
    """
    from backports import zstd

    reader, writer = os.pipe()
    feeder = os.fork()
    if feeder:
        os.close(writer)
        return reader, feeder
    code = 1
    try:
        os.close(reader)
        with zstd.open(path, "rb") as packed, os.fdopen(writer, "wb") as pipe:
            while piece := packed.read(PIECE_BYTES):
                pipe.write(piece)
        code = 0
    except (OSError, EOFError, zstd.ZstdError):
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
