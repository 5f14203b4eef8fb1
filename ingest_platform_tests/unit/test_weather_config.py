"""Model files: the shipped ones, the user's own, and what is told about a mistake in one."""

from pathlib import Path

import pytest

from ingest_platform.errors import PermanentError
from ingest_platform.weather.config import BadModelFile, UnknownModel, load_models

OWN = """\
id: own_radar
family: own
title: A radar of our own
kind: radar
aliases: [ours]
sources:
  - since: 2020-01-01
    bucket: own-bucket
    key: "{product}/{valid:%Y%m%d}/{product}_{valid:%Y%m%d-%H%M}.grib2.gz"
cadence_minutes: 5
poll_interval_seconds: 60
delay_minutes: 1
complete_after_minutes: 90
retention_hours: 12
keep_latest: 1
parameters:
  - name: rain
    product: Rain
    grib: [[209, 6, 1]]
    units: mm h-1
    long_name: Rain rate
    valid_range: [0, 500]
"""
FORECAST = """\
id: own_forecast
family: own
title: A forecast of our own
kind: forecast
sources:
  - {since: 2020-01-01, bucket: b, key: "{cycle:%Y%m%d%H}/f{lead:03}", index: .idx}
horizons:
  - {cycles: [0, 12], leads: [{first: 0, last: 6}]}
cadence_minutes: 720
poll_interval_seconds: 60
delay_minutes: 1
complete_after_minutes: 90
retention_hours: 12
keep_latest: 1
parameters:
  - {name: t, variable: TMP, level: surface, grib: [[0, 0, 0]], units: K, long_name: T, valid_range: [0, 400]}
"""
SHIPPED = ["gfs", "goes_east", "goes_west", "hrrr", "mrms"]


def write(folder: Path, text: str, name: str = "own.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_model_of_a_known_kind_is_one_file_in_a_folder(tmp_path: Path) -> None:
    """Else a new product needs a new release."""
    write(tmp_path, OWN)
    write(tmp_path, FORECAST, "second.yml")
    write(tmp_path, "not: a model", "notes.txt")

    models = load_models(tmp_path)

    assert [m.id for m in models] == sorted([*SHIPPED, "own_radar", "own_forecast"])
    assert [m.id for m in load_models(tmp_path, only=["ours"])] == ["own_radar"]


def test_a_file_with_a_shipped_id_replaces_that_model(tmp_path: Path) -> None:
    """Else a user cannot change a retention without forking."""
    write(tmp_path, OWN.replace("id: own_radar", "id: mrms").replace("family: own", "family: mrms"))

    models = {model.id: model for model in load_models(tmp_path)}

    assert sorted(models) == SHIPPED
    assert models["mrms"].retention_hours == 12


def test_a_disabled_model_is_dropped_and_asking_for_it_says_so(tmp_path: Path) -> None:
    """Else what was switched off comes back, or silently never runs."""
    write(tmp_path, OWN + "enabled: false\n")

    assert [m.id for m in load_models(tmp_path)] == SHIPPED
    with pytest.raises(UnknownModel, match="'ours' is disabled"):
        load_models(tmp_path, only=["gfs", "ours"])


def test_an_unknown_name_is_told_with_the_known_ones_and_a_guess() -> None:
    """Else a typo in ENABLED_MODELS ingests nothing and looks well."""
    with pytest.raises(
        UnknownModel, match=r"'hrr'.*Known: gfs, goes_east, goes, .*Did you mean hrrr\?"
    ) as told:
        load_models(only=["gfs", "hrr"])

    assert isinstance(told.value, PermanentError)


@pytest.mark.parametrize("names", [None, [], ()])
def test_no_names_mean_all_models(names: list[str] | None) -> None:
    """Else an empty ENABLED_MODELS stops everything."""
    assert [model.id for model in load_models(only=names)] == SHIPPED


def test_names_may_have_spaces_around_them() -> None:
    """Else "gfs, mrms" knows no " mrms"."""
    assert [model.id for model in load_models(only=["gfs", " mrms "])] == ["gfs", "mrms"]


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        (
            "retention_hours",
            "retention_hour",
            14,
            "retention_hour: no such setting. Did you mean retention_hours?",
        ),
        (
            "    product: Rain",
            "    produkt: Rain",
            18,
            "parameters[0].produkt: no such setting. Did you mean product?",
        ),
        ("retention_hours: 12", "retention_hours: -1", 14, "retention_hours: Input should be greater"),
        ("retention_hours: 12", "retention_hours: week", 14, "found 'week'"),
        ("since: 2020-01-01", "since: yesterday", 7, "sources[0].since: Input should be a valid datetime"),
        ("{product}/{valid:%Y%m%d}/", "{produkt}/{valid:%Y%m%d}/", 9, "unknown field {produkt}"),
        ("_{valid:%Y%m%d-%H%M}", "", 9, "must tell year, day"),
        ("valid_range: [0, 500]", "valid_range: [500, 0]", 17, "[500, 0] holds no value"),
        ("    product: Rain\n", "", 17, "rain: a radar parameter needs product"),
        ("    grib: [[209, 6, 1]]\n", "", 17, "rain: needs grib"),
        ("    units: mm h-1\n", "", 17, "parameters[0].units: Field required"),
        ("bucket: own-bucket", "bucket: own-bucket\n    index: .idx", 9, "a radar object has no inventory"),
        ("kind: radar", "kind: lidar", 4, "kind: Input should be 'forecast', 'satellite' or 'radar'"),
        ("kind: radar", "kind: radar\nkind: radar", 4, "kind: given twice"),
        ("title: A radar", "title: : A radar", 3, "not YAML"),
        ("id: own_radar", "id: Own Radar", 1, "id: String should match"),
    ],
)
def test_a_mistake_is_told_with_file_line_and_key(
    tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    """Else a person searches a hundred lines for a comma."""
    assert old in OWN
    path = write(tmp_path, OWN.replace(old, new, 1))

    with pytest.raises(BadModelFile) as told:
        load_models(tmp_path)

    assert f"{path}:{line}: " in str(told.value)
    assert message in str(told.value)
    assert "No model was loaded" in str(told.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("horizons:\n  - {cycles: [0, 12], leads: [{first: 0, last: 6}]}\n", "", "a forecast needs horizons"),
        (
            "cycles: [0, 12]",
            "cycles: [0, 6, 12]",
            ":8: horizons[0].cycles: cycles [6] do not fit a cadence of 12 h",
        ),
        (
            "last: 6}]}",
            "last: 6}]}\n  - {cycles: [12], leads: [{first: 0, last: 3}]}",
            ":9: horizons[1].cycles: cycles [12] stand in two horizons",
        ),
        (
            "cycles: [0, 12]",
            "cycles: [24]",
            ":8: horizons[0].cycles[0]: Input should be less than or equal to 23",
        ),
        ("cadence_minutes: 720", "cadence_minutes: 420", ":9: cadence_minutes: 420 min between cycles"),
        (
            "level: surface",
            "level: surface, levels_hpa: [500]",
            ":16: parameters[0]: t: a forecast parameter needs either",
        ),
        ("last: 6}", "last: 6, step: 0}", "horizons[0].leads[0].step: Input should be greater"),
    ],
)
def test_a_forecast_that_does_not_fit_its_cycles_is_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    """Else cycles share a partition, or leads are expected that never come."""
    assert old in FORECAST
    write(tmp_path, FORECAST.replace(old, new, 1))

    with pytest.raises(BadModelFile) as told:
        load_models(tmp_path)

    assert message in str(told.value)


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    """Else mending a file takes as many starts as it has mistakes."""
    write(tmp_path, OWN.replace("keep_latest: 1", "keep: 1").replace("units:", "unit:"))

    with pytest.raises(BadModelFile) as told:
        load_models(tmp_path)

    for key in ("keep: ", "keep_latest: ", "parameters[0].unit: ", "parameters[0].units: "):
        assert key in str(told.value)


def test_two_parameters_that_select_the_same_message_are_refused(tmp_path: Path) -> None:
    """Else a copied block quietly publishes one field under two names."""
    copied = OWN[OWN.index("  - name: rain") :].replace("name: rain", "name: rain_again")
    write(tmp_path, OWN + copied)

    with pytest.raises(BadModelFile, match="rain_again: selects the same messages"):
        load_models(tmp_path)


def test_two_models_cannot_share_a_name(tmp_path: Path) -> None:
    """Else --models goes16 means one of two satellites, as luck has it."""
    write(tmp_path, OWN.replace("[ours]", "[goes16]"))

    with pytest.raises(BadModelFile, match="'goes16' also belongs to another model"):
        load_models(tmp_path)


def test_two_files_cannot_describe_the_same_model(tmp_path: Path) -> None:
    """Else the file that is read last wins."""
    write(tmp_path, OWN)
    write(tmp_path, OWN, "zz.yaml")

    with pytest.raises(BadModelFile, match=r"zz\.yaml: id 'own_radar' is already that of .*own\.yaml"):
        load_models(tmp_path)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    """Else an empty file passes for a model that has nothing to say."""
    write(tmp_path, text)

    with pytest.raises(BadModelFile, match="a model is a mapping"):
        load_models(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """Else a mount that failed looks like a user without models."""
    with pytest.raises(BadModelFile, match=r"no such folder\. INGEST_WEATHER_MODELS"):
        load_models(tmp_path / "absent")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    """Else a picture in the folder ends in a stack trace."""
    (tmp_path / "own.yaml").write_bytes(b"\xff\xfe\x00\x01")

    with pytest.raises(BadModelFile, match="cannot be read"):
        load_models(tmp_path)
