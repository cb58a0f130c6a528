"""``trireme config show``: the configuration in force."""

import os

from cluster.cli.config import FileArgument, chosen_file


def show(file: FileArgument = None) -> None:
    """Print the configuration in force as YAML: file, environment and defaults together."""
    from cluster.defaults import default_config
    from cluster.hardware import detect
    from cluster.loading import dump, load

    config = load(chosen_file(file), os.environ, fallback=lambda: default_config(detect()))
    print(dump(config), end="")
