"""Ray's dashboard, which has the REST API of Serve's external scaler, and who may call it."""

from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled


def credentials() -> dict[str, str]:
    """Headers for a request to it: the cluster's token, where Ray asks for one."""
    return dict(get_auth_headers_if_auth_enabled({}))
