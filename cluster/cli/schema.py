"""``trireme config schema``: for editors and other tools."""

import json


def schema() -> None:
    """Print the JSON schema of trireme.yaml."""
    from cluster.config import json_schema

    print(json.dumps(json_schema(), indent=2))
