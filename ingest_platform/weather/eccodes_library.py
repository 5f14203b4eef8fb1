"""Loads ecCodes so that it keeps its C libraries to itself. Import eccodes through here, nowhere else.

Its wheel comes with PROJ, OpenSSL, Kerberos and SQLite of its own, and its loader (findlibs) opens them for
the whole process (RTLD_GLOBAL). What is loaded or first called later then binds to them: pyproj and
psycopg2 after a plain `import eccodes` end in "double free or corruption" or a segmentation fault.
Opened privately first, they serve ecCodes just as well and nobody else.
"""

import ctypes
import importlib
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

_LOADING = threading.Lock()

# findlibs' own switches: do not search (and open) the wheels' folders, take the library from this home.
_SEARCH_NO_PACKAGE = "FINDLIBS_DISABLE_PACKAGE"
_HOME = "ECCODESLIB_HOME"


def load_eccodes() -> ModuleType:
    """The eccodes module. Thread-safe; after the first call as cheap as an import statement."""
    with _LOADING:
        if "eccodes" in sys.modules or not (homes := _wheel_homes()):
            return importlib.import_module("eccodes")
        for library in (library for home in homes[:-1] for library in sorted(home.glob("lib*/*.so"))):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_LOCAL)
        with _environment({_SEARCH_NO_PACKAGE: "yes", _HOME: str(homes[-1])}):
            return importlib.import_module("eccodes")


def _wheel_homes() -> tuple[Path, ...]:
    """Folders of the wheels with C libraries, dependencies first; () where ecCodes comes from elsewhere."""
    if sys.platform != "linux":
        return ()
    try:
        library = importlib.import_module("eccodeslib")
        needed = [importlib.import_module(name) for name in getattr(library, "findlibs_dependencies", ())]
    except ImportError:
        return ()
    return tuple(Path(module.__file__).parent for module in (*needed, library) if module.__file__)


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """These variables while ecCodes is imported, and the old ones after."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
