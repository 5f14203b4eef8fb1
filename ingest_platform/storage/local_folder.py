"""Folders of a store on disk: found, and deleted to the last file. Not through obstore: its listing hides the
`name#1` files that a killed writer leaves.
"""

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from ingest_platform.errors import PermanentError


def unless_gone(error: OSError) -> None:
    """For os.walk, which else takes a folder that it may not read for an empty one."""
    if not isinstance(error, FileNotFoundError):
        raise error


def folders(parent: Path, depth: int) -> Iterator[str]:
    for child in sorted(parent.iterdir()):
        if depth == 1 and child.is_dir():
            yield child.name
        elif child.is_dir() and not child.is_symlink():
            # A purge may take a folder away between the listing and this look into it.
            with suppress(FileNotFoundError):
                yield from [f"{child.name}/{below}" for below in folders(child, depth - 1)]


def delete_folder(folder: Path, at: Callable[[str], None]) -> bool:
    """Delete the folder and all in it; False if a writer put something there meanwhile."""
    if folder.is_symlink():
        raise PermanentError(
            f"{folder}: is a link, expected a folder. Nothing was deleted. Remove it by hand."
        )
    # Not through obstore: its listing hides the `name#1` files that a killed writer leaves.
    try:
        for child in sorted(folder.iterdir()):
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            else:
                child.unlink()
            at("delete")
        folder.rmdir()
    except FileNotFoundError:
        return not folder.exists()
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        return False
    with suppress(OSError):  # other attempts of the partition may lie beside it
        folder.parent.rmdir()
    return True
