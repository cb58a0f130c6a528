"""``serveConfigV2`` on standard input to a running Ray, as Ray's own REST API does it.

``deploy`` starts Serve and deploys; both actions print the state of every application as JSON.
"""

import json
import sys

import ray
import yaml
from ray import serve
from ray.serve._private.api import serve_start
from ray.serve.schema import ServeDeploySchema


def main(action: str) -> None:
    schema = ServeDeploySchema.model_validate(yaml.safe_load(sys.stdin.read()))
    ray.init(namespace="serve", log_to_driver=False, logging_level="ERROR")
    if action == "deploy":
        options = schema.http_options.model_dump() | {"location": schema.proxy_location}
        serve_start(http_options=options).deploy_apps(schema)
    found = serve.status().applications
    print(json.dumps({name: each.status.value for name, each in found.items()}))


if __name__ == "__main__":
    main(sys.argv[1])
