"""Folders of a store on disk: found, and deleted to the last file. Not through obstore: its listing hides the
`name#1` files that a killed writer leaves.
"""

import errno
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ingest_platform.errors import PermanentError


def unless_gone(error: OSError) -> None:
    """For os.walk, which else takes a folder that it may not read for an empty one."""
    if not isinstance(error, FileNotFoundError):
        raise error


def folders_in(root: Path, parent: str, is_wanted: Callable[[str], object]) -> list[str]:
    """Names of the wanted folders in `parent` below `root`, in order ("": in the root); follows no link."""
    folder = root / parent
    if parent and folder.is_symlink():
        return []
    try:
        names = [child.name for child in folder.iterdir()]
    except FileNotFoundError:
        # A purge may take a folder away before this look into it; nobody takes the root.
        if not parent:
            raise
        return []
    return sorted(name for name in names if is_wanted(name) and (folder / name).is_dir())


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
