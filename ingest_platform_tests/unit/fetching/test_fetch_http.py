"""Fetching over HTTP: what only a server can do to us."""

from concurrent.futures import Executor
from pathlib import Path

import pytest

from ingest_platform.errors import PermanentError, SourceChanged, SourceUnavailable
from ingest_platform.storage.bucket import open_bucket
from ingest_platform.storage.patience import Patience
from ingest_platform_tests.faulty_server import (
    Drip,
    Html,
    OtherRange,
    Refuse,
    Replace,
    Request,
    Reset,
    Rule,
    Short,
    WholeBody,
)
from ingest_platform_tests.unit.fetching.place import BUCKET, KEY, Http, Nasty, fetcher, grids


@pytest.mark.case(10)
@pytest.mark.parametrize("polite", [True, False], ids=["answers 412", "ignores If-Match"])
def test_a_version_that_changes_between_two_ranges_is_never_mixed(
    http: Http, nasty: Nasty, tmp_path: Path, executor: Executor, polite: bool
) -> None:
    """Else a grid is spliced from two forecasts."""
    object = http.put(KEY, nasty.read("ok4.grib2"))
    http.put(KEY + ".idx", nasty.read("ok4.grib2.idx"))
    http.server.ignore_if_match = not polite
    http.server.rule = on_nth_range(2, Replace(nasty.read("corrupt_payload_msg2.grib2")), least_bytes=1)

    with pytest.raises(SourceChanged):
        fetcher(http, nasty, tmp_path, executor)(object)


@pytest.mark.case(19)
@pytest.mark.parametrize("with_index", [True, False])
@pytest.mark.parametrize("fault", [WholeBody(), OtherRange(), Short(), Short(10_000), Reset(), Reset(0.0)])
def test_a_range_not_honoured_or_broken_off_is_asked_again(
    http: Http,
    nasty: Nasty,
    tmp_path: Path,
    executor: Executor,
    fault: WholeBody | OtherRange | Short | Reset,
    with_index: bool,
) -> None:
    """Else half a download, or the wrong half, becomes a grid."""
    object = http.put(KEY, nasty.read("ok4.grib2"))
    if with_index:
        http.put(KEY + ".idx", nasty.read("ok4.grib2.idx"))
    http.server.rule = on_nth_range(1, fault)

    fetched = fetcher(http, nasty, tmp_path, executor)(object)

    assert [payload for _, payload in grids(fetched)] == list(nasty.messages)


@pytest.mark.case(19)
@pytest.mark.parametrize("fault", [WholeBody(), OtherRange(), Short(), Reset(), Drip()])
def test_a_server_that_never_honours_a_range_gives_nothing(
    http: Http, nasty: Nasty, tmp_path: Path, executor: Executor, fault: WholeBody | OtherRange | Drip
) -> None:
    """Else a proxy that ignores ranges publishes garbage, or a dripping one holds the lease for ever."""
    object = http.put(KEY, nasty.read("ok4.grib2"))
    http.put(KEY + ".idx", nasty.read("ok4.grib2.idx"))
    http.server.rule = lambda request: fault if request.range else None
    impatient = replace_patience(http, Patience(max_retries=1, first_delay_seconds=0.001))

    with pytest.raises(SourceUnavailable):
        fetcher(impatient, nasty, tmp_path, executor)(object)


@pytest.mark.case(18)
def test_a_burst_of_refusals_is_ridden_out_with_few_requests(
    http: Http, nasty: Nasty, tmp_path: Path, executor: Executor
) -> None:
    """Else a throttled bucket costs the cycle, or our retries make it worse."""
    object = http.put(KEY, nasty.read("ok4.grib2"))
    http.put(KEY + ".idx", nasty.read("ok4.grib2.idx"))
    run = fetcher(http, nasty, tmp_path, executor)
    run(object)
    ideal = len(http.server.requests) - 2  # without the two listings of put
    http.server.requests.clear()
    http.server.rule = lambda request: Refuse(503, "0") if request.number % 10 in (0, 3, 6) else None

    for _ in range(20):
        assert len(run(object).messages) == 4

    assert len(http.server.requests) <= 3 * 20 * ideal


@pytest.mark.case(18)
def test_a_refused_permission_is_not_asked_twice(
    http: Http, nasty: Nasty, tmp_path: Path, executor: Executor
) -> None:
    """Else a wrong key hammers the bucket until it locks us out."""
    object = http.put(KEY, nasty.read("ok4.grib2"))
    http.put(KEY + ".idx", nasty.read("ok4.grib2.idx"))
    http.server.requests.clear()
    http.server.rule = lambda request: Refuse(403) if request.range else None

    with pytest.raises(PermanentError, match=f"{BUCKET}/{KEY}: refused with 403"):
        fetcher(http, nasty, tmp_path, executor)(object)

    ranges = [request.range for request in http.server.requests if request.range]
    assert len(ranges) == len(set(ranges))


@pytest.mark.case(15)
def test_an_error_page_with_status_200_is_never_data(
    http: Http, nasty: Nasty, tmp_path: Path, executor: Executor
) -> None:
    """Else a captive portal fills the archive."""
    object = http.put(KEY, nasty.read("ok4.grib2"))
    http.server.rule = lambda request: Html() if request.method == "GET" else None

    with pytest.raises(SourceUnavailable, match="answered 200 where 206"):
        fetcher(http, nasty, tmp_path, executor)(object)


def on_nth_range(
    nth: int, fault: WholeBody | OtherRange | Short | Reset | Replace, least_bytes: int = 100
) -> Rule:
    """Inject the fault once, at the n-th range of at least so many bytes: not at a mere head."""
    seen: list[Request] = []

    def rule(request: Request) -> WholeBody | OtherRange | Short | Reset | Replace | None:
        if request.range and request.range[1] - request.range[0] >= least_bytes - 1:
            seen.append(request)
            return fault if len(seen) == nth else None
        return None

    return rule


def replace_patience(http: Http, patience: Patience) -> Http:
    endpoint = http.server.endpoint
    return Http(
        open_bucket(BUCKET, endpoint=endpoint, credentials=None, patience=patience, stall_seconds=0.2),
        http.server,
    )
