"""What a client holds of a resumable stream, and who can do something with it."""

import pytest

from cluster.errors import InvalidRequest
from deployments.gateway.resume import NONCE_BYTES, OURS, Resume, Shown, journal_name, read_event_id

NONCE = bytes(range(NONCE_BYTES))


def test_an_event_id_is_read_back_and_anything_else_is_refused() -> None:
    shown = Shown(NONCE, OURS, 2, 1_790_000_000, 0, {"reasoning": (1234, 99), "call0": (0, 0)})
    text = shown.event_id()
    assert read_event_id(text) == shown
    assert shown.served_tier == "high"
    assert len(text) < 90
    worst = [
        b"", b"5", b"!", b"\xff\xfe", text[:-3], text + b"AA", b"A" * 10_000,
        Shown(b"short", OURS, 0, 1, 0, {}).event_id(),
        Shown(NONCE, OURS, 3, 1, 0, {}).event_id(),
    ]  # fmt: skip
    for each in worst:
        with pytest.raises(InvalidRequest) as refused:
            read_event_id(each)
        assert refused.value.code == "invalid_last_event_id"


def test_a_journal_is_found_by_its_own_tenant_request_and_id_only() -> None:
    name = journal_name("secret", Resume(NONCE, 1.0), "acme", "print")
    again = Resume(NONCE, 60.0, Shown(NONCE, OURS, 0, 1, 1, {}))
    assert journal_name("secret", again, "acme", "print") == name
    other = Resume(NONCE[::-1], 1.0)
    names = {
        name,
        journal_name("another", Resume(NONCE, 1.0), "acme", "print"),
        journal_name("secret", other, "acme", "print"),
        journal_name("secret", Resume(NONCE, 1.0), "emca", "print"),
        journal_name("secret", Resume(NONCE, 1.0), "acme", "tnirp"),
    }
    assert len(names) == 5
    assert other.seed != again.seed == Resume(NONCE, 1.0).seed < 2**63
