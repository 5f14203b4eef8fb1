"""A YAML file, and where in it a mistake is, for whoever must correct it."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from ingest_platform.yaml_file import BadYamlFile, Mistake, Place, dotted, read_yaml, said_by_schema

TEXT = """\
# fruit of a market
stalls:
  - name: north
    prices: {apple: 3, pear: 4}
  - name: south
"""


class Stall(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    prices: dict[str, int] = {}


class Market(BaseModel):
    model_config = ConfigDict(extra="forbid")

    stalls: list[Stall]


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "market.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def mistakes(content: object, *, above: Place = ()) -> list[Mistake]:
    try:
        Market.model_validate(content)
    except ValidationError as error:
        return list(said_by_schema(error, Market, above=above))
    raise AssertionError("the schema found nothing wrong")


def test_a_file_is_read_as_what_it_says(tmp_path: Path) -> None:
    """Else settings are taken for others."""
    assert read_yaml(written(tmp_path, TEXT)).content == yaml.safe_load(TEXT)
    assert read_yaml(written(tmp_path, "# nothing\n")).content is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", r"market\.yaml:1: not YAML: "),
        ("a: 1\nb: : 2", r"market\.yaml:2: not YAML: mapping values are not allowed here\."),
        ("a: 1\n--- \nb: 2", r"market\.yaml:2: not YAML: "),
        ("a: \x00", r"market\.yaml: not YAML: "),
        ("a: !python/object:os.system {}", r"market\.yaml:1: not YAML: could not determine a constructor"),
        ("? [a]\n: 1", r"market\.yaml:1: not YAML: found unhashable key"),
        (b"\xff\xfe\x00\x01", r"market\.yaml: cannot be read \("),
    ],
)
def test_a_file_that_is_no_yaml_is_told_with_its_line(text: str | bytes, words: str, tmp_path: Path) -> None:
    """Else a forgotten bracket is a stack trace."""
    with pytest.raises(BadYamlFile, match=words):
        read_yaml(written(tmp_path, text))


def test_a_file_that_is_not_there_is_not_an_empty_one(tmp_path: Path) -> None:
    """Else a mount that failed looks like an installation without settings."""
    with pytest.raises(BadYamlFile, match=r"absent\.yaml: cannot be read"):
        read_yaml(tmp_path / "absent.yaml")


def test_every_key_that_is_given_twice_is_told_with_its_line(tmp_path: Path) -> None:
    """Else the last one wins, and nobody knows why the first does nothing."""
    text = TEXT.replace("pear", "apple") + "    name: east\n    name: west\nstalls: []\n"

    with pytest.raises(BadYamlFile) as told:
        read_yaml(written(tmp_path, text))

    path = tmp_path / "market.yaml"
    assert str(told.value).splitlines() == [
        f"{path}:2: stalls: given twice",
        f"{path}:4: stalls[0].prices.apple: given twice",
        f"{path}:5: stalls[1].name: given twice",
    ]


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ((), "2: "),
        (("stalls",), "2: stalls: "),
        (("stalls", 0), "3: stalls[0]: "),
        (("stalls", 0, "prices", "pear"), "4: stalls[0].prices.pear: "),
        (("stalls", 1, "name"), "5: stalls[1].name: "),
        (("stalls", 1, "prices"), "5: stalls[1].prices: "),
        (("stalls", 7, "name"), "2: stalls[7].name: "),
        (("stalls", 0, "name", "deeper"), "3: stalls[0].name.deeper: "),
    ],
)
def test_a_mistake_is_told_with_the_nearest_line_that_there_is(
    place: Place, line: str, tmp_path: Path
) -> None:
    """Else a missing setting points nowhere, and one in a long list at the list's beginning."""
    file = read_yaml(written(tmp_path, TEXT))

    assert file.told([(place, "wrong")]) == f"{tmp_path / 'market.yaml'}:{line}wrong"


def test_a_key_that_yaml_reads_as_a_number_is_found_too(tmp_path: Path) -> None:
    """Else the line of a pipeline version is that of the whole table."""
    file = read_yaml(written(tmp_path, "urls:\n  1: one\n  2: two\n"))

    assert file.told([(("urls", 2), "x"), (("urls", "2"), "y")]).splitlines() == [
        f"{file.path}:3: urls[2]: x",
        f"{file.path}:3: urls.2: y",
    ]


def test_what_the_schema_says_comes_with_the_likely_setting_and_what_was_found() -> None:
    """Else a person compares the file with the documentation, letter by letter."""
    said = mistakes({"stalls": [{"nam": "x", "prices": {"pear": "much"}}, 3], "zzz": 1}, above=("all", 0))

    assert sorted((dotted(place), what) for place, what in said) == [
        ("all[0].stalls[0].nam: ", "no such setting. Did you mean name?"),
        ("all[0].stalls[0].name: ", "Field required"),
        (
            "all[0].stalls[0].prices.pear: ",
            "Input should be a valid integer, unable to parse string as an integer, found 'much'",
        ),
        (
            "all[0].stalls[1]: ",
            "Input should be a valid dictionary or instance of Stall, found 3",
        ),
        ("all[0].zzz: ", "no such setting"),
    ]


NAMES = st.text("abc", min_size=1, max_size=2)
ITEMS = st.lists(st.dictionaries(NAMES, st.integers(), max_size=3), max_size=3)


@settings(max_examples=30)
@given(st.dictionaries(NAMES, ITEMS, max_size=3))
def test_every_place_of_a_file_is_told_with_its_own_line(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, list[dict[str, int]]]
) -> None:
    """Else the line belongs to a neighbour of the same name."""
    path = written(tmp_path_factory.mktemp("places"), yaml.safe_dump(content, default_flow_style=False))
    lines = path.read_text().splitlines()
    file = read_yaml(path)

    for key, items in content.items():
        for n, item in enumerate(items):
            for name, value in item.items():
                number = int(file.told([((key, n, name), "")]).removeprefix(f"{path}:").split(":")[0])
                assert yaml.safe_load(lines[number - 1].lstrip(" -")) == {name: value}
