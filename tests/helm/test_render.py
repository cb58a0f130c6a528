"""`trireme k8s render`: the chart's objects for those who make no Helm release."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest

from cluster.cli.app import run
from cluster.kubernetes.manifest import parts
from tests.helm.toolbox import CHART, NAMESPACE, Helm, Tree, parsed

HOOKS = {"ConfigMap trireme-check", "Job trireme-check", "Pod trireme-test-answer"}

Printed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def printed(helm: Helm, capsys: pytest.CaptureFixture[str]) -> Printed:
    """The exit code, and what is printed and told."""

    def called(preset: str, *more: str) -> tuple[int, str, str]:
        values = str(CHART / f"values-{preset}.yaml")
        chosen = ["k8s", "render", "-f", values, "-n", NAMESPACE, "--helm", str(helm.binary)]
        code = run([*chosen, *more])
        out, err = capsys.readouterr()
        return code, out, err

    return called


def names(objects: list[Tree]) -> set[str]:
    return {f"{each['kind']} {each['metadata']['name']}" for each in objects}


def test_it_prints_what_helm_would_install(
    printed: Printed, renders: dict[str, list[Tree]]
) -> None:
    code, out, told = printed("production")
    assert code == 0
    objects = parsed(out)
    print(told)
    # A copy: other tests look at the same objects.
    wanted = {f"{e['kind']} {e['metadata']['name']}": e for e in deepcopy(renders["production"])}
    assert names(objects) == wanted.keys() - HOOKS
    for each in objects:
        like = wanted[f"{each['kind']} {each['metadata']['name']}"]
        assert each["metadata"].pop("labels").pop("app.kubernetes.io/managed-by") == "trireme"
        assert like["metadata"].pop("labels").pop("app.kubernetes.io/managed-by") == "Helm"
        assert each == like
    assert told == f"{len(objects)} objects, for namespace {NAMESPACE}\n"


def test_two_renders_are_the_same_text(printed: Printed) -> None:
    assert printed("production") == printed("production")


def test_only_the_rayservice(printed: Printed) -> None:
    code, out, _ = printed("production", "--kind", "RayService")
    assert code == 0
    assert names(parsed(out)) == {"RayService trireme"}
    code, out, told = printed("production", "--kind", "Rayservice")
    assert (code, out) == (2, "")
    assert "no Rayservice is rendered: write one of ConfigMap" in told


def test_secrets_that_would_be_new_each_time_have_to_be_named(printed: Printed) -> None:
    code, out, told = printed("trial")
    assert (code, out) == (2, "")
    assert "name them (channel.existingSecret, redis.existingSecret;" in told
    code, out, _ = printed("trial", "--new-secrets")
    assert code == 0
    assert {"Secret trireme-channel", "Secret trireme-redis"} <= names(parsed(out))


def test_settings_are_checked_as_the_cluster_would(printed: Printed, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    # No zone of that name: what a schema cannot know.
    wrong.write_text("config: {autoscaling: {timezone: Europe/Atlantis}}\n")
    code, out, told = printed("production", "-f", str(wrong))
    assert (code, out) == (2, "")
    (line,) = told.splitlines()
    assert line.startswith("error: autoscaling.timezone")


def test_without_helm_it_says_so_in_one_line(printed: Printed) -> None:
    code, out, told = printed("production", "--helm", "no-such-helm")
    assert (code, out) == (2, "")
    (line,) = told.splitlines()
    assert "install helm 3.18 or newer" in line


def test_what_the_chart_refuses_is_one_line(printed: Printed, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("redis: {host: r.example, existingSecret: ''}\n")
    code, _, told = printed("production", "-f", str(wrong))
    assert code == 2
    (line,) = told.splitlines()
    assert "create one and name it here" in line
    assert "--debug" not in line


def test_texts_are_told_apart_where_they_hold_dashes() -> None:
    one = "kind: ConfigMap\nmetadata: {name: a}\ndata:\n  text: |\n    a\n    ---\n    b"
    two = "# a comment\nkind: Secret\nmetadata: {name: b}"
    found = parts(f"---\n{one}\n--- # next\n{two}\n---\n# nothing\n")
    assert [each.name for each in found] == ["a", "b"]
    assert found[0].tree["data"]["text"] == "a\n---\nb"
    assert parts(one)[0].text == one
