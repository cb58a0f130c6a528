"""How long certificates are good for, in files as nodes have them."""

import math
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from cluster.certificates import Expiry

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def written(file: Path, ends: datetime, *, at: int) -> str:
    trustme.CA().issue_cert("node", not_after=ends).cert_chain_pems[0].write_to_path(str(file))
    os.utime(file, ns=(at, at))  # two writes within one tick of the file system's clock
    return str(file)


def test_the_first_end_counts(tmp_path: Path) -> None:
    files = [
        written(tmp_path / f"{days}.pem", NOW + timedelta(days=days), at=1) for days in (30, 3, 9)
    ]
    assert Expiry(files, NOW.timestamp).left_s() == 3 * 86_400


def test_without_files_nothing_expires() -> None:
    assert Expiry(()).left_s() == math.inf


def test_an_authority_that_ends_first_counts_in_a_chain(tmp_path: Path) -> None:
    file = written(tmp_path / "chain.pem", NOW + timedelta(days=30), at=1)
    trustme.CA().issue_cert("other", not_after=NOW - timedelta(days=1)).cert_chain_pems[
        0
    ].write_to_path(file, append=True)
    assert Expiry([file], NOW.timestamp).left_s() == -86_400


def test_a_renewed_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "cert.pem"
    expiry = Expiry([written(file, NOW + timedelta(days=1), at=1)], NOW.timestamp)
    written(file, NOW + timedelta(days=90), at=2)
    assert expiry.left_s() == 90 * 86_400


def test_what_cannot_be_read_again_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "cert.pem"
    expiry = Expiry([written(file, NOW + timedelta(days=1), at=1)], NOW.timestamp)
    file.write_text("half a cert")
    assert expiry.left_s() == 86_400
    file.unlink()
    assert expiry.left_s() == 86_400


@pytest.mark.parametrize("content", ["", "no certificate"])
def test_a_file_without_a_certificate_is_refused_at_the_start(tmp_path: Path, content: str) -> None:
    file = tmp_path / "cert.pem"
    file.write_text(content)
    with pytest.raises(ValueError, match="PEM"):
        Expiry([str(file)])
