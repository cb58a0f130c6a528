"""What is installed is pinned by hash: a file that is not the one that was tried is refused."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

LISTS = Path(__file__).parents[2] / "requirements"


def requirements(name: str) -> list[str]:
    """Each with its hashes, on one line."""
    text = (LISTS / f"{name}.txt").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize(("name", "without"), [("gpu", []), ("dev", []), ("cpu", ["torch"])])
def test_every_package_has_its_version_and_hashes(name: str, without: list[str]) -> None:
    lines = requirements(name)
    assert len(lines) > 50
    assert all(re.match(r"[\w.-]+==[^\s]+( |$)", line) for line in lines)
    bare = [line.partition("==")[0] for line in lines if "--hash=sha256:" not in line]
    # PyTorch's wheels for CPUs differ by platform, and each machine knows only its own.
    assert bare == without


@pytest.mark.parametrize("name", ["gpu", "dev", "cpu"])
def test_no_list_names_an_index_or_a_path(name: str) -> None:
    assert not re.search(r"https?:|file:|--(?!hash)", "\n".join(requirements(name)))


def wheel(folder: Path) -> Path:
    file = folder / "tried-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("tried.py", "")
        made.writestr(
            "tried-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tried\nVersion: 1.0\n"
        )
        made.writestr("tried-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        made.writestr("tried-1.0.dist-info/RECORD", "")
    return file


def test_the_installer_refuses_another_file(tmp_path: Path) -> None:
    """As the launcher calls it, with a list whose hash is not the file's."""
    wheel(tmp_path)
    pins = tmp_path / "pins.txt"
    pins.write_text(f"tried==1.0 --hash=sha256:{'0' * 64}\n")
    command = [
        *(sys.executable, "-m", "uv", "pip", "install", "--no-deps", "--offline", "--no-index"),
        *("--no-cache", "--find-links", str(tmp_path), "--target", str(tmp_path / "site")),
        *("-r", str(pins)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert "Hash mismatch" in done.stderr
    assert not (tmp_path / "site" / "tried.py").exists()
