"""The import walls of the house: they are what lets each part be read, tested and replaced alone."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "ingest_platform"
# Dagster's side of the wall.
DAGSTER_FILES = {"defs.py", "definitions.py", "resources.py"}
# Programs, not domain: they may start Dagster or tell it what they made.
ENTRY_POINTS = ("ingest_platform.cli", "ingest_platform.demo.__main__")
# Each costs 0.1 to 1 s, which every run, tick and page load would pay for nothing.
HEAVY = {"eccodes", "gribberish", "h5py", "zarr", "icechunk", "xarray", "matplotlib"}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = (PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)
        names[".".join(parts).removesuffix(".__init__")] = path
    return names


def imported(path: Path, *, at_load: bool) -> set[str]:
    """The dotted names that a file imports; `at_load`: only those that loading the module brings in."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in _at_load(tree) if at_load else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import, which these tests cannot follow"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _at_load(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _at_load(child)


def test_only_definitions_and_resources_import_dagster() -> None:
    """Else the ledger and the decoders can be neither run nor tested without Dagster."""
    files = {
        name: path
        for name, path in modules().items()
        if path.name not in DAGSTER_FILES and not name.startswith(ENTRY_POINTS)
    }

    offenders = {
        name
        for name, path in files.items()
        if any(module.partition(".")[0].startswith("dagster") for module in imported(path, at_load=False))
    }

    assert offenders == set()


def test_no_domain_module_reaches_the_modules_that_import_dagster() -> None:
    """Else the wall has a back door: importing a decoder brings Dagster in after all."""
    names = modules()
    behind = {name for name, path in names.items() if path.name in DAGSTER_FILES}
    domain = {name for name in set(names) - behind if not name.startswith(ENTRY_POINTS)}

    offenders = {
        (name, target) for name in domain for target in imported(names[name], at_load=False) & behind
    }

    assert offenders == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Else what works depends on which module happens to be imported first."""
    names = modules()
    graph = {name: (imported(path, at_load=True) & set(names)) - {name} for name, path in names.items()}

    graphlib.TopologicalSorter(graph).prepare()  # CycleError shows the circle


def test_no_source_imports_another() -> None:
    """Else a change to one source breaks another, and a new source is more than one folder."""
    sources = {path.parent.name for path in PACKAGE.glob("*/discover.py")}
    assert "weather" in sources

    offenders = {
        (name, target)
        for name, path in modules().items()
        if (own := [*name.split("."), ""][1]) in sources
        for target in imported(path, at_load=False)
        if target.startswith("ingest_platform.") and target.split(".")[1] in sources - {own}
    }

    assert offenders == set()


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("definitions.py")), ids=lambda path: path.stem)
def test_loading_the_definitions_imports_no_heavy_library(path: Path) -> None:
    """Else every run, tick and page load starts seconds later."""
    program = f"import sys, ingest_platform.{path.stem}; print(*sorted(sys.modules), sep='\\n')"

    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

    assert set(loaded.stdout.split()) & HEAVY == set()
