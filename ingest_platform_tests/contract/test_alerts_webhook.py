"""A message is told when the receiver says so, and the secret in its URL stays with us."""

import logging
import time
import traceback

import pytest

from ingest_platform.operations.watch.alerts import Undelivered, send
from ingest_platform_tests.services.processes import free_port
from ingest_platform_tests.webhook_receiver import SECRET, receiver, silent_receiver

MESSAGE = {"text": "Failed: job purge – 20 °C", "count": 1}


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_a_message_arrives_as_json(status: int) -> None:
    """Chat services answer 200, queues 202 or 204: all took it."""
    with receiver(status) as told:
        send(told.url, MESSAGE)

    assert told.came == [MESSAGE]
    assert told.requests == [("POST", f"/{SECRET}")]


@pytest.mark.parametrize("status", [301, 302, 307, 400, 404, 410, 429, 500, 503])
def test_any_other_answer_is_no_delivery(status: int) -> None:
    """Else the one message about an outage is taken for told: a followed 302 asks with GET and gets 200."""
    with receiver(status, 200) as told, pytest.raises(Undelivered, match=f"answered {status}, expected 2xx"):
        send(told.url, MESSAGE)

    assert len(told.requests) == 1


def test_a_connection_that_breaks_off_is_no_delivery() -> None:
    """The receiver may have died before it kept the message."""
    with receiver(None) as told, pytest.raises(Undelivered, match="gave no answer"):
        send(told.url, MESSAGE)


def test_a_receiver_that_hangs_costs_no_more_than_was_allowed() -> None:
    """Else one dead chat service holds up the tick until Dagster ends it, and nothing is told at all."""
    began = time.monotonic()

    with silent_receiver() as url, pytest.raises(Undelivered, match="gave no answer"):
        send(url, MESSAGE, seconds=0.3)

    assert time.monotonic() - began < 3


@pytest.mark.parametrize("answer", [None, 302, 500])
def test_no_error_and_no_log_shows_the_url(answer: int | None, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever reads the URL in a log can write into the operators' channel."""
    caplog.set_level(logging.DEBUG)

    with receiver(answer) as told, pytest.raises(Undelivered) as caught:
        send(told.url, MESSAGE)

    shown = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert "INGEST_ALERT_WEBHOOK" in shown
    assert SECRET not in shown


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "[", "host:port", "a b"])
def test_a_url_that_nobody_answers_is_not_shown_either(host: str) -> None:
    """Python's own words about a malformed URL quote it."""
    url = f"http://{host.format(port=free_port())}/{SECRET}"

    with pytest.raises(Undelivered) as caught:
        send(url, MESSAGE)

    assert SECRET not in "".join(traceback.format_exception(caught.value))
