"""Where the store and the secret are, by the configuration and the environment."""

import os
from collections.abc import Mapping
from pathlib import Path

from cluster.config import AccessConfig
from cluster.run_state import state_dir
from cluster.tenants.secret import DoorSecret, read_secret

DATABASE_VARIABLE = "TRIREME_DATABASE_URL"

STORE_FILE = "store.sqlite"
SECRET_FILE = "access.secret"
"""In the state folder, where nothing else is configured."""


def database_url(access: AccessConfig, environ: Mapping[str, str] = os.environ) -> str:
    """The store's URL: as configured, else of the environment, else a file of this machine."""
    given = access.store_url or environ.get(DATABASE_VARIABLE)
    return given or f"sqlite:///{state_dir(environ) / STORE_FILE}"


def door_secret(access: AccessConfig, environ: Mapping[str, str] = os.environ) -> DoorSecret:
    """The secret that keys are hashed with. Raises ``BadSecret``."""
    file = None if access.secret_file is None else Path(access.secret_file)
    return read_secret(file, environ, state_dir(environ) / SECRET_FILE)
