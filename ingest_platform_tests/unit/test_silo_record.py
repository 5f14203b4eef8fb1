"""One record: what is none is refused with its reason, what is one keeps every value."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_platform.silo.record import Unfit, dump, flatten, parse, pipeline_version, primary_key
from ingest_platform_tests.silo_world import line, record

NAMES = st.text(min_size=1, max_size=8)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
)


@settings(deadline=None)
@given(st.dictionaries(NAMES.map(lambda name: f"m_{name}"), VALUES, max_size=8))
def test_metadata_keeps_every_value(metadata: dict[str, object]) -> None:
    """Else a coordinate or a count in the index is not the one in the database."""
    sent = {**record(1), "metadata": metadata}

    flat = json.loads(dump(flatten(parse(line(sent)))))

    assert {name: flat[name] for name in metadata} == metadata
    assert flat["main"] == {"sequence": sent["alignedNucleotideSequences"]["main"], "insertions": ["12:A"]}


def test_missing_segments_stay_null_and_missing_insertions_are_none() -> None:
    """Else a virus without its S segment fails the whole release."""
    sent = record(1)
    sent["alignedNucleotideSequences"] = {"L": "ACGT", "S": None}
    sent["unalignedNucleotideSequences"] = {"L": "ACGT", "S": None}
    sent["nucleotideInsertions"] = {"S": []}
    sent["aminoAcidInsertions"] = None

    flat = flatten(parse(line(sent)))

    assert flat["S"] is None
    assert flat["unaligned_S"] is None
    assert flat["L"] == {"sequence": "ACGT", "insertions": []}
    assert flat["gene1"] == {"sequence": "MYKW*", "insertions": []}


@pytest.mark.parametrize("name", ["main", "gene1", "unaligned_main"])
def test_two_parts_of_one_name_are_refused(name: str) -> None:
    """Else a metadata field is quietly replaced by a sequence."""
    with pytest.raises(Unfit, match=f"'{name}' names two"):
        flatten(parse(line(record(1, **{name: "x"}))))


@pytest.mark.silo_case(25)
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"null", "expected an object"),
        (b"{}", "lacks alignedAminoAcidSequences"),
        (line(record(1)).replace(b'{"main":["12:A"]}', b'["12:A"]'), "nucleotideInsertions is"),
        (line({**record(1), "metadata": []}), "metadata is"),
        (line({**record(1), "alignedNucleotideSequences": None}), "alignedNucleotideSequences is null"),
        (line(record(1)).replace(b'"A.1"', b"Infinity"), "not JSON"),
        (line(record(1)).replace(b'"A.1"', b'"\\ud800"'), "not JSON"),
        (line(record(1)) + b"{}", "not JSON"),
    ],
)
def test_what_is_no_record_is_refused_with_its_reason(text: bytes, words: str) -> None:
    """Else the engine refuses the whole release, in words about a column."""
    with pytest.raises(Unfit, match=words):
        parse(text)


@pytest.mark.silo_case(23)
@pytest.mark.parametrize(
    ("given", "version"), [(1, 1), ("1", 1), ("007", 7), (0, None), ("0", None), (None, None), ("", None)]
)
def test_a_version_is_a_whole_number_however_it_is_written(given: object, version: int | None) -> None:
    """Else "1" and 1 are two versions of one release."""
    assert pipeline_version({"pipelineVersion": given}) == version


@pytest.mark.parametrize("given", ["one", "1.0", 1.0, True, -1, "-1", [1], {}, "१", "1" * 5000])
def test_anything_else_is_no_version(given: object) -> None:
    """Else `true` is version 1; and Python reads no number of 5,000 digits: that stopped all organisms."""
    with pytest.raises(Unfit, match="pipelineVersion"):
        pipeline_version({"pipelineVersion": given})


def test_a_value_that_can_be_read_and_not_written_is_refused() -> None:
    """Else one nested value of one record is an error that nobody foresaw."""
    deep = b"[" * 400 + b"]" * 400
    with pytest.raises(Unfit, match="cannot be written"):
        dump(flatten(parse(line(record(1)).replace(b'"A.1"', deep))))
    with pytest.raises(Unfit, match="too deep"):
        pipeline_version(
            parse(line(record(1)).replace(b'"pipelineVersion":1', b'"pipelineVersion":' + deep))["metadata"]
        )


@pytest.mark.parametrize("given", [None, "", 7])
def test_a_record_without_its_primary_key_is_refused(given: object) -> None:
    """Else uniqueness means nothing."""
    with pytest.raises(Unfit, match=r"metadata\.accessionVersion, the primary key"):
        primary_key({"accessionVersion": given}, "accessionVersion")
