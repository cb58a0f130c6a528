"""Whether a folder of weights is what it should be: only safetensors, no code, every byte known.

A manifest has the format of coreutils: lines of a SHA-256 in hexadecimal, two blanks and a path
relative to the folder, as ``sha256sum`` writes them and checks them.
"""

import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

UNSAFE_SUFFIXES = frozenset(
    {".bin", ".ckpt", ".dill", ".h5", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"}
)
"""Formats that can hold code which runs when they are read, or whose readers had such faults."""

_WITH_CODE = ("config.json", "tokenizer_config.json", "processor_config.json")
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_AT_ONCE = 4
_BLOCK_BYTES = 1 << 20
_MAX_SETTINGS_BYTES = 16 << 20


class BadWeights(ValueError):
    """The folder must not be loaded. ``str()`` is one line: which file, and what is wrong."""


def check_formats(folder: Path) -> None:
    """Look at the files that an engine would read, which stand right in ``folder``.

    Raises ``BadWeights`` for weights in a format that can hold code, for none in safetensors, and
    for settings that name code to be loaded (``auto_map``).
    """
    names = sorted(each.name for each in folder.iterdir() if each.is_file())
    for name in names:
        if PurePosixPath(name).suffix.lower() in UNSAFE_SUFFIXES:
            raise BadWeights(f"{folder / name}: only safetensors are loaded; remove this file")
    if not any(name.endswith(".safetensors") for name in names):
        raise BadWeights(f"{folder} holds no .safetensors")
    for name in _WITH_CODE:
        if name in names and "auto_map" in _settings(folder / name):
            raise BadWeights(
                f"{folder / name}: it names code to be loaded (auto_map), and none is run"
            )


def _settings(file: Path) -> dict[str, object]:
    try:
        if file.stat().st_size > _MAX_SETTINGS_BYTES:
            raise BadWeights(f"{file} is larger than {_MAX_SETTINGS_BYTES} bytes")
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise error if isinstance(error, BadWeights) else BadWeights(f"{file}: {error}") from error
    return found if isinstance(found, dict) else {}


def read_manifest(file: Path) -> dict[str, str]:
    """Path → SHA-256. Raises ``BadWeights``."""
    found: dict[str, str] = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadWeights(f"the manifest {file} cannot be read: {error}") from error
    for number, line in enumerate(filter(None, lines), 1):
        match = _LINE.fullmatch(line)
        path = PurePosixPath(match[2]) if match is not None else None
        if match is None or path is None or path.is_absolute() or ".." in path.parts:
            raise BadWeights(f"{file}, line {number}: not a line of sha256sum")
        found[str(path)] = match[1]
    if not found:
        raise BadWeights(f"the manifest {file} is empty")
    return found


def verify(folder: Path, manifest: Path) -> int:
    """Compare every file right in ``folder``, and every file of ``manifest``; returns the bytes.

    Reads all of it: a minute for 65 GB, where the disk keeps up. Raises ``BadWeights`` for the
    first file that is missing, unknown or different.
    """
    wanted = read_manifest(manifest)
    own = manifest.resolve()
    there = {each.name for each in folder.iterdir() if each.is_file() and each.resolve() != own}
    unknown = sorted(there - wanted.keys())
    if unknown:
        raise BadWeights(f"{folder / unknown[0]} is not in the manifest {manifest}")
    missing = sorted(name for name in wanted if not (folder / name).is_file())
    if missing:
        raise BadWeights(f"{folder / missing[0]} is missing: it is in the manifest {manifest}")
    # Hashing releases the GIL.
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for name, found in zip(wanted, pool.map(lambda n: sha256(folder / n), wanted), strict=True):
            if found != wanted[name]:
                raise BadWeights(f"{folder / name} is not what the manifest {manifest} says")
    return sum((folder / name).stat().st_size for name in wanted)


def sha256(file: Path) -> str:
    """In hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as data:
        while block := data.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
