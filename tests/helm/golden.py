"""What the presets render to, kept beside the tests, so that a change of the chart shows as a diff.

``python -m tests.helm.golden`` writes ``tests/helm/golden/*.yaml`` anew.

The objects stand in a fixed order with sorted keys, so that only a change of meaning is a change of
text. Left out: values that are random at each install, and the dashboards and rules, which are
files of the chart themselves (``test_presets.py`` holds them against those).
"""

import re
from pathlib import Path
from typing import Any

import yaml

from tests.helm import toolbox
from tests.helm.toolbox import PRESETS, Helm, Tree

FOLDER = Path(__file__).parent / "golden"
RANDOM = re.compile(r"^[A-Za-z0-9+/=]{60,}$")
COMMAND = "python -m tests.helm.golden"


class _Dumper(yaml.SafeDumper):
    """Texts of several lines keep them, and nothing is a reference to something above."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _plain(item: Tree) -> Tree:
    kind = item["kind"]
    if kind == "Secret":
        data = {k: "(random)" if RANDOM.match(v) else v for k, v in item["data"].items()}
        return {**item, "data": data}
    if kind == "ConfigMap":
        boards = {k: f"(dashboards/{k})" for k in item["data"] if k.endswith(".json")}
        return {**item, "data": {**item["data"], **boards}}
    if kind == "PrometheusRule":
        return {**item, "spec": "(rules/*.yaml)"}
    return item


def text_of(objects: list[Tree]) -> str:
    """The text that is kept of a render."""
    ordered = sorted(objects, key=lambda each: (each["kind"], each["metadata"]["name"]))
    return "".join(
        f"--- # {each['kind']} {each['metadata']['name']}\n"
        + yaml.dump(_plain(each), Dumper=_Dumper, width=10**6, allow_unicode=True)
        for each in ordered
    )


def path_of(preset: str) -> Path:
    return FOLDER / f"{preset}.yaml"


def main() -> None:
    """Write them all. Raises Missing where helm cannot be had."""
    helm = Helm(toolbox.helm_binary("4"))
    FOLDER.mkdir(exist_ok=True)
    for preset in PRESETS:
        text = text_of(helm.objects(preset))
        path_of(preset).write_text(text)
        print(f"{path_of(preset).relative_to(toolbox.ROOT)}: {text.count(chr(10))} lines")


if __name__ == "__main__":
    main()
