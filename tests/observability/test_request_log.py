"""One line a request: ids and figures, never text."""

import json
import logging

import pytest

from cluster.errors import NoReplica
from cluster.logs import JsonLines
from deployments.gateway.context import Figures, RequestContext
from deployments.gateway.request_log import log_request


@pytest.fixture(autouse=True)
def _heard(monkeypatch: pytest.MonkeyPatch) -> None:
    # Another test of this process may have set logging up as a cluster's processes do.
    monkeypatch.setattr(logging.getLogger("trireme"), "propagate", True)


def context(**figures: float) -> RequestContext:
    made = RequestContext("req_1", "m", "high", "high", 10.0)
    made.route, made.replica_id = "chat", "r1"
    if figures:
        made.figures = Figures(**figures)  # type: ignore[arg-type]
    return made


def line(caplog: pytest.LogCaptureFixture) -> dict[str, object]:
    (record,) = [each for each in caplog.records if each.name == "trireme.request"]
    written: dict[str, object] = json.loads(JsonLines().format(record))
    return written


def test_a_request_that_went_well_is_told_with_its_figures(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "trireme.request")
    made = context(prompt_tokens=10, output_tokens=30, analysis_tokens=20, first_token_s=0.25)
    log_request(made, 200, "ok", 12.0)
    told = line(caplog)
    assert told["level"] == "info"
    assert (told["request_id"], told["model"], told["tier"]) == ("req_1", "m", "high")
    assert (told["replica"], told["took_s"], told["first_token_s"]) == ("r1", 2.0, 0.25)
    assert (told["output_tokens"], told["analysis_tokens"]) == (30, 20)
    assert "error" not in told


def test_a_refused_one_is_a_warning_with_the_errors_name_and_not_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "trireme.request")
    made = context()
    made.fail(NoReplica("text that might quote somebody"))
    log_request(made, 503, "refused", 10.5)
    told = line(caplog)
    assert (told["level"], told["error"], told["status"]) == ("warning", "NoReplica", 503)
    assert "output_tokens" not in told
    assert "quote" not in json.dumps(told)


def test_a_lower_tier_than_was_asked_for_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trireme.request")
    made = context()
    made.asked_tier = "high"
    made.tier = "medium"
    log_request(made, 200, "ok", 10.5)
    assert (line(caplog)["tier"], line(caplog)["asked_tier"]) == ("medium", "high")
