"""Run on Kubernetes: what the chart's pods call, and what people ask about a cluster."""

import dataclasses
import json
import os
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.console import Fault, tell

if TYPE_CHECKING:
    from cluster.kubernetes.doctor import Finding, Wanted
    from cluster.kubernetes.manifest import Part

POLL_S = 2.0
HELM_HINT = "Use --debug flag to render out invalid YAML"
GONE_AFTER = 3
"""Times in a row that the listener must be away: one missed answer is no end."""


def check(
    file: Annotated[Path, typer.Argument(help="The chart's `config`, complete (YAML).")],
) -> None:
    """Check the configuration that a cluster is about to get, as it will read it."""
    from cluster.cli.check import engine_arg_faults
    from cluster.defaults import unpinned
    from cluster.loading import load

    config = load(file, {})
    faults = engine_arg_faults(config)
    doubts = unpinned(config)
    if config.access.mode == "keys":
        faults, doubts = [*faults, *doubts], []
    for fault in faults:
        tell(f"error: {fault}")
    for doubt in doubts:
        tell(f"warning: {doubt}")
    if faults:
        raise typer.Exit(2)
    print("config: no faults")


def leave(
    within_s: Annotated[float, typer.Option(help="Seconds until the pod is ended.")],
) -> None:
    """Hand this pod's work to others; returns when nothing of Trireme runs here any more.

    The chart's pods run it before they end (preStop), whoever ends them: a node that is drained, an
    upgrade, or a spot machine that is taken away. It never fails: a pod has to end in any case.
    """
    from cluster.ops import ADDRESS_VARIABLE
    from deployments.compat.nodes import drain

    host, _, port = os.environ[ADDRESS_VARIABLE].rpartition(" ")
    ends = time.monotonic() + within_s
    gcs = os.environ.get("RAY_ADDRESS") or f"{os.environ['FQ_RAY_IP']}:6379"
    try:
        told = drain(gcs, host, within_s, "its pod is ending")
    except Exception as error:
        tell(f"Ray's head was not told: {type(error).__name__}: {error}")
        return
    away = 0
    while told and away < GONE_AFTER and time.monotonic() + POLL_S < ends:
        time.sleep(POLL_S)
        away = 0 if _answers(f"http://{host}:{port}/status") else away + 1


Values = Annotated[
    list[Path] | None, typer.Option("--values", "-f", help="Values of the chart; more on top.")
]
Release = Annotated[str, typer.Option("--name", help="Name of the release.")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Where it is installed.")]
HelmProgram = Annotated[str, typer.Option("--helm", help="The helm to render with.")]


def render(
    values: Values = None,
    name: Release = "trireme",
    namespace: Namespace = "trireme",
    kind: Annotated[
        list[str] | None, typer.Option(help="Only objects of this kind, such as RayService.")
    ] = None,
    new_secrets: Annotated[
        bool, typer.Option("--new-secrets", help="Also secrets, made up anew at each call.")
    ] = False,
    helm: HelmProgram = "helm",
) -> None:
    """Print the chart's objects for kubectl or a GitOps tool: no Helm release is made.

    The configuration is checked here, as no job does it in the cluster. Secrets that an install
    would make and keep have to be named in the values instead: each render would make new ones.
    """
    from cluster.kubernetes.manifest import text_of

    parts = _rendered(values, name, namespace, helm)
    _check_config(parts)
    chosen = [each for each in parts if not each.is_hook]
    made_up = [each for each in chosen if each.is_generated]
    if made_up and not new_secrets:
        names = ", ".join(sorted(each.named_by for each in made_up))
        raise Fault(
            f"each render would make new secrets: create them once and name them ({names}; "
            "docs/kubernetes.md has the commands), or say --new-secrets"
        )
    if kind is not None:
        known = {each.kind for each in chosen}
        if unknown := sorted(set(kind) - known):
            raise Fault(f"no {unknown[0]} is rendered: write one of {', '.join(sorted(known))}")
        chosen = [each for each in chosen if each.kind in kind]
    print(text_of(chosen), end="")
    tell(f"{len(chosen)} objects, for namespace {namespace}")


def doctor(
    values: Values = None,
    name: Release = "trireme",
    namespace: Namespace = "trireme",
    manifest: Annotated[
        Path | None,
        typer.Option(help="A rendered manifest instead of values (- for standard input)."),
    ] = None,
    kubeconfig: Annotated[str | None, typer.Option(help="As kubectl takes it.")] = None,
    context: Annotated[str | None, typer.Option(help="As kubectl takes it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    kubectl: Annotated[str, typer.Option("--kubectl", help="The kubectl to ask with.")] = "kubectl",
    helm: HelmProgram = "helm",
) -> None:
    """Say what a live cluster lacks for these values, with what to do about each.

    Only reads. Exit code 1 if anything is missing; what cannot be told is no failure.
    """
    from cluster.kubernetes import api, doctor, tools

    wanted = _wanted(values, name, namespace, manifest, helm)
    given = (("--kubeconfig", kubeconfig), ("--context", context))
    options = [f"{option}={value}" for option, value in given if value is not None]
    try:
        findings = doctor.examine(wanted, api.Kubectl(kubectl, options))
    except (tools.ToolMissing, api.Unreachable) as error:
        raise Fault(" ".join(str(error).split())) from None
    missing = sum(each.state is doctor.State.missing for each in findings)
    if as_json:
        listed = [dataclasses.asdict(each) for each in findings]
        said = {"name": name, "namespace": namespace, "missing": missing, "findings": listed}
        print(json.dumps(said, indent=2))
    else:
        _show(findings)
    if missing:
        raise typer.Exit(1)


def _rendered(values: list[Path] | None, name: str, namespace: str, helm: str) -> "list[Part]":
    from cluster.kubernetes import manifest, tools

    try:
        return manifest.render(values or [], name, namespace, helm)
    except tools.ToolMissing as error:
        raise Fault(str(error)) from None
    except tools.ToolFailed as error:
        told = " ".join(str(error).split()).removesuffix(HELM_HINT).strip()
        raise Fault(f"the chart refuses these values: {told}") from None


def _check_config(parts: "Sequence[Part]") -> None:
    """Raises ConfigError for what the chart's schema cannot know. vLLM's arguments are not asked
    for here: that takes its import, and a machine that has it (``trireme k8s check``). No single
    application has it all: gateways are not told how pools scale."""
    import yaml

    from cluster.loading import load

    for each in parts:
        if each.kind == "RayService":
            serve = yaml.safe_load(each.tree["spec"]["serveConfigV2"])
            for application in serve["applications"]:
                with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                    yaml.safe_dump(application["args"]["config"], file)
                    file.flush()
                    load(Path(file.name), {})


def _wanted(
    values: list[Path] | None, name: str, namespace: str, file: Path | None, helm: str
) -> "Wanted":
    import yaml

    from cluster.chart import CHART
    from cluster.kubernetes import manifest
    from cluster.kubernetes.doctor import Wanted, version_in
    from cluster.kubernetes.needs import needs

    if file is not None and values:
        raise Fault("--values and --manifest say the same thing twice: keep one")
    if file is None:
        parts = _rendered(values, name, namespace, helm)
    else:
        try:
            parts = manifest.parts(sys.stdin.read() if str(file) == "-" else file.read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise Fault(f"{file} is no manifest: {' '.join(str(error).split())}") from None
    if not any(each.kind == "RayService" for each in parts):
        raise Fault("it holds no RayService: write a manifest of `trireme k8s render`")
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    kubernetes = version_in(about["kubeVersion"])
    kuberay = version_in(about["annotations"]["trireme.dev/kuberay"])
    assert kubernetes is not None
    assert kuberay is not None
    asked = needs([each.tree for each in parts])
    return Wanted(asked, name, namespace, kubernetes, kuberay)


def _show(findings: "Sequence[Finding]") -> None:
    counts: dict[str, int] = {}
    for each in findings:
        counts[each.state] = counts.get(each.state, 0) + 1
        print(f"{each.state:8} {each.check:11} {each.what}")
        if each.remedy:
            print(f"{'':20} → {each.remedy}")
    told = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    print(f"{len(findings)} checks: {told}")


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=POLL_S):
            return True
    except urllib.error.URLError as error:
        # Slow is not gone.
        return not isinstance(error.reason, ConnectionRefusedError)
    except OSError:
        return True
