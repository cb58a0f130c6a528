"""All generated files of this package, by their path from the root of the repository."""

import yaml

from cluster.telemetry.boards import boards
from cluster.telemetry.document import document
from cluster.telemetry.rules import rule_files

NOTE = "# Generated from cluster/telemetry/rules.py by `./trireme metrics --write`; do not edit.\n"


def files() -> dict[str, str]:
    """What they must contain."""
    # Only here: it is a development tool, and only dashboards need it.
    from cluster.telemetry.grafana import grafana_json

    made = {"docs/metrics.md": document()}
    for name, content in rule_files().items():
        text = yaml.safe_dump(content, sort_keys=False, width=1000, allow_unicode=True)
        made[f"helm/trireme/rules/{name}"] = NOTE + text
    for board in boards():
        name = board.uid.removeprefix("trireme-")
        made[f"helm/trireme/dashboards/{name}.json"] = grafana_json(board)
    return made
