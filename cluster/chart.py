"""The values of the Helm chart as types, and what is generated from them.

``python -m cluster.chart`` writes ``values.schema.json`` (what the chart accepts, `trireme.yaml`
included), ``config-defaults.json`` (what the templates take where a setting is left out) and the
reference in ``docs/kubernetes.md``. ``--check`` only says whether they are up to date.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cluster.config import (
    GatewayConfig,
    PoolConfig,
    PoolScalingConfig,
    TriremeConfig,
)

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "helm" / "trireme"
DOCUMENT = ROOT / "docs" / "kubernetes.md"
BEGIN, END = "<!-- reference: begin -->", "<!-- reference: end -->"

NOT_HERE = {
    "TriremeConfig": ("ray",),
    "GatewayConfig": ("host",),
    "ChannelConfig": ("host",),
    "TelemetryConfig": ("host",),
    "AccessConfig": ("store_url", "secret_file"),
    "AdminConfig": ("tokens_file",),
}
"""Settings of `trireme.yaml` that Kubernetes decides, by their model."""

NAME = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
Name = Annotated[str, Field(pattern=NAME, max_length=63)]
MaybeName = Annotated[str, Field(pattern=rf"^$|{NAME}", max_length=63)]
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=253)]
Host = Annotated[str, Field(pattern=r"^$|^[A-Za-z0-9*]([A-Za-z0-9.-]*[A-Za-z0-9])?$")]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
Folder = Annotated[str, Field(pattern=r"^$|^/")]
Labels = dict[str, str]
Port = Annotated[int, Field(ge=1, le=65535)]


class _Values(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Infrastructure(_Values):
    contractVersion: int = Field(
        default=1, description="Version of node-contract.yaml; the chart knows 1."
    )
    cloud: Literal["aws", "gcp", "azure", "none"] = Field(
        default="none", description="Whose identities sign what the metrics agent sends."
    )
    region: str = Field(default="", description="Region of that cloud.")


class Image(_Values):
    repository: str = Field(default="trireme", min_length=1, description="Image of every Ray node.")
    tag: str = Field(default="", description="Its tag; empty takes the chart's appVersion.")
    digest: str = Field(
        default="", pattern=r"^$|^sha256:[0-9a-f]{64}$", description="Its digest; counts instead."
    )
    pullPolicy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="When it is pulled."
    )
    pullSecrets: list[Name] = Field(default=[], description="Secrets for the registry.")


class Images(_Values):
    redis: str = Field(
        default="redis:7.4.2-alpine", min_length=1, description="The chart's own Redis."
    )
    fetch: str = Field(
        default="rclone/rclone:1.69.1", min_length=1, description="Copies weights.uri to the nodes."
    )
    metrics: str = Field(
        default="prom/prometheus:v3.2.1",
        min_length=1,
        description="Sends to monitoring.remoteWriteUrl.",
    )


class Resources(_Values):
    cpu: Quantity = Field(default="1", description="CPUs.")
    memory: Quantity = Field(default="1Gi", description="Memory: request and limit.")


class Toleration(_Values):
    key: str = Field(default="", description="Key of the taint.")
    operator: Literal["Equal", "Exists"] = Field(default="Equal", description="How it is compared.")
    value: str = Field(default="", description="Value of the taint.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = Field(
        default="NoSchedule", description="Effect of the taint."
    )


class Head(_Values):
    resources: Resources = Field(
        default=Resources(cpu="2", memory="8Gi"), description="Of Ray's head."
    )
    nodeSelector: Labels = Field(default={}, description="Labels of the nodes it may run on.")
    tolerations: list[Toleration] = Field(default=[], description="Taints that it tolerates.")


class Gateway(_Values):
    resources: Resources = Field(
        default=Resources(cpu="4", memory="8Gi"), description="Of a gateway with its HAProxy."
    )
    nodeSelector: Labels = Field(default={}, description="Labels of the nodes they may run on.")
    tolerations: list[Toleration] = Field(default=[], description="Taints that they tolerate.")
    spread: str = Field(
        default="topology.kubernetes.io/zone",
        description="Label over whose values they are spread.",
    )
    tlsSecret: MaybeName = Field(
        default="",
        description="Secret (tls.crt, tls.key) with which gateways speak TLS themselves; renewed "
        "ones are served without a restart. An Ingress or a Gateway in front has to be told to "
        "speak TLS to them.",
    )
    usageQueuePath: Folder = Field(
        default="",
        description="Folder on the node for usage records that the database has not yet; empty: "
        "those go with the pod.",
    )
    contentLogClaim: MaybeName = Field(
        default="",
        description="Claim (ReadWriteMany) for config.content_log, of which each gateway writes "
        "files of its own; empty: they go with the pod.",
    )


class Engine(_Values):
    resources: Resources = Field(
        default=Resources(cpu="8", memory="64Gi"), description="Of an engine pod, beside its GPUs."
    )
    sharedMemory: Quantity = Field(
        default="16Gi",
        description="/dev/shm, for the processes of a tensor-parallel group and for Ray.",
    )
    nodeSelector: Labels = Field(default={}, description="Labels of the nodes they may run on.")
    tolerations: list[Toleration] = Field(
        default=[], description="Taints that they tolerate; empty: those of node-contract.yaml."
    )
    spread: str = Field(
        default="kubernetes.io/hostname", description="Label over whose values a pool is spread."
    )


class Pool(_Values):
    minReplicas: int | None = Field(
        default=None,
        ge=0,
        description="Least pods; else config's scaling.min_replicas, or its replicas.",
    )
    maxReplicas: int | None = Field(
        default=None, ge=1, description="Most pods; else scaling.max_replicas, or replicas."
    )
    gpus: Literal[1, 2, 4, 8] | None = Field(
        default=None,
        description="Must be the pool's tensor_parallel_size; Terraform says it again.",
    )
    interruptible: bool = Field(
        default=False, description="Its nodes may be taken away; they may also be tainted for that."
    )
    resources: Resources | None = Field(default=None, description="As in engine.")
    sharedMemory: Quantity | None = Field(default=None, description="As in engine.")
    nodeSelector: Labels | None = Field(default=None, description="As in engine.")
    tolerations: list[Toleration] | None = Field(default=None, description="As in engine.")
    spread: str | None = Field(default=None, description="As in engine.")


class HuggingFace(_Values):
    existingSecret: MaybeName = Field(
        default="", description="Secret with a token, for gated models."
    )
    secretKey: Key = Field(default="token", description="Its key.")


class Weights(_Values):
    uri: str = Field(
        default="",
        pattern=r"^$|^(s3|gs)://.+/$",
        description="Folder in S3 or GCS with the model's files (one folder for each model, by its "
        "name, where there are several), ending in /. Copied once to each node.",
    )
    existingClaim: MaybeName = Field(
        default="", description="Claim with models, mounted at /models."
    )
    image: str = Field(
        default="", description="Image with models, mounted at /models (Kubernetes 1.33)."
    )
    huggingFace: HuggingFace = Field(
        default=HuggingFace(), description="Where none of these is set."
    )
    hostPath: Folder = Field(
        default="",
        description="Folder on the node that keeps what was fetched; empty: gone with the pod.",
    )
    size: Quantity = Field(
        default="200Gi", description="Most that they take where they go with the pod."
    )
    compileCachePath: Folder = Field(
        default="", description="Folder on the node for compiled kernels; empty: gone with the pod."
    )


class Channel(_Values):
    existingSecret: MaybeName = Field(
        default="",
        description="Secret that admits gateways to engines; empty: made at install and kept.",
    )
    secretKey: Key = Field(default="secret", description="Its key.")
    tlsSecret: MaybeName = Field(
        default="",
        description="Secret (tls.crt, tls.key, ca.crt) for TLS between gateways and engines; its "
        "authority should sign nothing else.",
    )


class Access(_Values):
    existingSecret: MaybeName = Field(
        default="",
        description="Secret that API keys are hashed with (config.access.mode: keys); empty: made "
        "at install and kept. Without it, all keys are invalid.",
    )
    secretKey: Key = Field(default="secret", description="Its key.")
    adminSecret: MaybeName = Field(
        default="",
        description="Secret with the administrators' tokens, for config.access.admin: a line "
        "`name: token` each.",
    )
    adminKey: Key = Field(default="tokens", description="Its key.")
    testSecret: MaybeName = Field(
        default="", description="Secret with an API key for `helm test`; empty: no such test."
    )
    testKey: Key = Field(default="key", description="Its key.")


class RayToken(_Values):
    enabled: bool = Field(default=True, description="Whatever speaks to Ray must show a token.")
    existingSecret: MaybeName = Field(
        default="", description="Secret with the key auth_token; empty: KubeRay makes one."
    )


class FaultTolerance(_Values):
    enabled: bool = Field(
        default=True, description="Ray's head keeps its state in Redis, and may die."
    )


class Storage(_Values):
    size: Quantity = Field(default="1Gi", description="Size of the volume.")
    className: MaybeName = Field(
        default="", description="Its storage class; empty: the cluster's default."
    )


class Redis(_Values):
    host: Host = Field(default="", description="Address; empty: one pod of the chart's own.")
    port: Port = Field(default=6379, description="Port of the one at host.")
    tls: bool = Field(default=False, description="Whether the one at host speaks TLS.")
    existingSecret: MaybeName = Field(default="", description="Secret with the password.")
    secretKey: Key = Field(default="password", description="Its key.")
    secretArn: str = Field(default="", description="Name of the password in externalSecrets.store.")
    storage: Storage = Field(default=Storage(), description="Volume of the chart's own.")


class Database(_Values):
    host: Host = Field(default="", description="Address of PostgreSQL; empty: none.")
    port: Port = Field(default=5432, description="Its port.")
    name: str = Field(default="", description="Name of the database.")
    user: str = Field(default="", description="Name of the user.")
    tls: bool = Field(
        default=True, description="Whether the URL made of a fetched password asks for TLS."
    )
    existingSecret: MaybeName = Field(default="", description="Secret with the whole URL.")
    secretKey: Key = Field(default="url", description="Its key.")
    secretArn: str = Field(default="", description="Name of the password in externalSecrets.store.")


class ExternalSecrets(_Values):
    store: MaybeName = Field(default="", description="Store of the external-secrets operator.")
    storeKind: Literal["ClusterSecretStore", "SecretStore"] = Field(
        default="ClusterSecretStore", description="Its kind."
    )


class Service(_Values):
    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field(
        default="ClusterIP", description="Of the Service in front of the gateways."
    )
    port: Port = Field(default=80, description="Its port.")
    annotations: Labels = Field(default={}, description="Its annotations.")


class Ingress(_Values):
    enabled: bool = Field(
        default=False, description="An Ingress, with time limits that fit long streams."
    )
    className: str = Field(default="", description="Its class.")
    host: Host = Field(default="", description="Host name; needed.")
    tlsSecret: MaybeName = Field(default="", description="Secret with the certificate; needed.")
    annotations: Labels = Field(default={}, description="Added to those for ingress-nginx.")
    fromNamespace: MaybeName = Field(default="", description="Namespace of the controller; needed.")


class GatewayReference(_Values):
    name: MaybeName = Field(default="", description="Name of the Gateway; needed.")
    namespace: MaybeName = Field(default="", description="Its namespace; empty: the release's.")
    sectionName: MaybeName = Field(
        default="", description="Its listener; it should be one with TLS."
    )


class HttpRoute(_Values):
    enabled: bool = Field(default=False, description="An HTTPRoute of the Gateway API.")
    host: Host = Field(default="", description="Host name; empty: the Gateway's.")
    gateway: GatewayReference = Field(
        default=GatewayReference(), description="The Gateway it joins."
    )
    fromNamespace: MaybeName = Field(
        default="", description="Namespace of the Gateway's pods; needed."
    )


class IpBlock(_Values):
    cidr: str = Field(description="Addresses.")
    # A name of Kubernetes and of Python.
    except_: list[str] = Field(default=[], alias="except", description="Not these.")


class Selector(_Values):
    matchLabels: Labels = Field(default={}, description="Labels.")


class Peer(_Values):
    podSelector: Selector | None = Field(default=None, description="Pods.")
    namespaceSelector: Selector | None = Field(default=None, description="Namespaces.")
    ipBlock: IpBlock | None = Field(default=None, description="Addresses.")


def _pods(name: str) -> list[Peer]:
    labels = {"app.kubernetes.io/name": name}
    return [Peer(namespaceSelector=Selector(), podSelector=Selector(matchLabels=labels))]


ANYWHERE = [Peer(ipBlock=IpBlock(cidr="0.0.0.0/0"))]


class NetworkPolicy(_Values):
    enabled: bool = Field(default=True, description="Deny everything but the flows of the picture.")
    clients: list[Peer] = Field(
        default=[Peer(podSelector=Selector())],
        description="Who may ask the gateways, beside ingress and httpRoute: the same namespace.",
    )
    operators: list[Peer] = Field(
        default=_pods("kuberay-operator"), description="KubeRay's operator."
    )
    prometheus: list[Peer] = Field(default=_pods("prometheus"), description="Who may read metrics.")
    apiServer: list[Peer] = Field(
        default=ANYWHERE,
        description="Where Kubernetes' API is (443, 6443), for the head and the agent.",
    )
    internet: list[Peer] = Field(
        default=ANYWHERE,
        description="Where weights come from and metrics go to, on 443; also stores.",
    )


class ServiceAccount(_Values):
    name: Name = Field(description="Its name; roles of a cloud are bound to it.")
    annotations: Labels = Field(default={}, description="Such as eks.amazonaws.com/role-arn.")


class ServiceAccounts(_Values):
    head: ServiceAccount = Field(
        default=ServiceAccount(name="trireme-head"), description="Ray's head."
    )
    gateway: ServiceAccount = Field(
        default=ServiceAccount(name="trireme-gateway"), description="Gateways."
    )
    engine: ServiceAccount = Field(
        default=ServiceAccount(name="trireme-engine"), description="Engines."
    )
    metrics: ServiceAccount = Field(
        default=ServiceAccount(name="trireme-metrics"), description="The metrics agent."
    )


class Switch(_Values):
    enabled: bool = Field(default=True, description="Whether they are made.")


class PodMonitor(_Values):
    enabled: bool = Field(default=False, description="For prometheus-operator.")
    interval: str = Field(
        default="15s", pattern=r"^[0-9]+(ms|s|m)$", description="Between scrapes."
    )
    labels: Labels = Field(default={}, description="Labels that your Prometheus selects.")


class Rules(_Values):
    enabled: bool = Field(default=False, description="Recording rules and alerts (PrometheusRule).")
    labels: Labels = Field(default={}, description="Labels that your Prometheus selects.")


class Dashboards(_Values):
    enabled: bool = Field(default=False, description="Grafana's dashboards, a ConfigMap each.")
    labels: Labels = Field(
        default={"grafana_dashboard": "1"}, description="That the sidecar looks for."
    )


class Monitoring(_Values):
    podMonitor: PodMonitor = Field(default=PodMonitor(), description="What is scraped.")
    rules: Rules = Field(default=Rules(), description="What is computed, and what alarms.")
    dashboards: Dashboards = Field(default=Dashboards(), description="What is drawn.")
    remoteWriteUrl: str = Field(
        default="",
        pattern=r"^$|^https?://",
        description="Where an agent of the chart's own sends it all.",
    )


class Incremental(_Values):
    gatewayClassName: MaybeName = Field(
        default="", description="Class of the Gateway that KubeRay makes."
    )
    stepSizePercent: int = Field(default=10, ge=1, le=100, description="Traffic moved at a time.")
    intervalSeconds: int = Field(default=60, ge=1, description="Between two steps.")
    maxSurgePercent: int = Field(
        default=50, ge=1, le=100, description="Size of the new cluster's steps."
    )


class Upgrade(_Values):
    strategy: Literal["NewCluster", "NewClusterWithIncrementalUpgrade", "None"] = Field(
        default="NewCluster",
        description="What KubeRay does when pods change; settings change in place.",
    )
    incremental: Incremental = Field(default=Incremental(), description="Of the second strategy.")


class Nodes(_Values):
    idleTimeoutSeconds: int = Field(
        default=300, ge=10, description="An engine pod without a replica goes after so long."
    )


class Checks(_Values):
    config: bool = Field(
        default=True,
        description="Before an install or upgrade, a job reads config as the cluster will.",
    )


class Values(_Values):
    config: TriremeConfig = Field(
        description="What trireme.yaml says on one machine (`trireme config schema`)."
    )
    infrastructure: Infrastructure = Field(
        default=Infrastructure(), description="Who made the machines."
    )
    imageRegistry: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._/-]*[A-Za-z0-9])?)?$",
        description="Host and path put before every image.",
    )
    image: Image = Field(default=Image(), description="The image of Trireme.")
    images: Images = Field(default=Images(), description="Images of helpers.")
    head: Head = Field(default=Head(), description="Ray's head: no request passes through it.")
    gateway: Gateway = Field(
        default=Gateway(), description="Gateway pods; config.gateway.replicas many."
    )
    engine: Engine = Field(default=Engine(), description="Engine pods of every pool.")
    pools: dict[Name, Pool] = Field(
        default={}, description="What differs, by the pool's name in config."
    )
    weights: Weights = Field(default=Weights(), description="Where models come from.")
    channel: Channel = Field(default=Channel(), description="The token channel.")
    access: Access = Field(default=Access(), description="Secrets of who may call.")
    rayToken: RayToken = Field(default=RayToken(), description="Ray's own authentication.")
    faultTolerance: FaultTolerance = Field(default=FaultTolerance(), description="Of Ray's head.")
    redis: Redis = Field(default=Redis(), description="Where Ray's head keeps its state.")
    database: Database = Field(
        default=Database(), description="PostgreSQL: tenants, keys, limits and usage."
    )
    externalSecrets: ExternalSecrets = Field(
        default=ExternalSecrets(), description="For secretArn."
    )
    service: Service = Field(default=Service(), description="The Service in front of the gateways.")
    ingress: Ingress = Field(default=Ingress(), description="A way in from outside.")
    httpRoute: HttpRoute = Field(default=HttpRoute(), description="Another.")
    networkPolicy: NetworkPolicy = Field(
        default=NetworkPolicy(), description="Who may speak to whom."
    )
    serviceAccounts: ServiceAccounts = Field(
        default=ServiceAccounts(), description="Made by the chart."
    )
    priorityClasses: Switch = Field(
        default=Switch(), description="Gateways before engines before others."
    )
    disruptionBudgets: Switch = Field(default=Switch(), description="One pod at a time.")
    monitoring: Monitoring = Field(default=Monitoring(), description="Metrics.")
    upgrade: Upgrade = Field(default=Upgrade(), description="How pods are replaced.")
    nodes: Nodes = Field(default=Nodes(), description="Pods that come and go.")
    checks: Checks = Field(default=Checks(), description="What is looked at first.")


def values_schema() -> dict[str, Any]:
    """What the chart accepts. Draft 7, as that is what every Helm 3 reads."""
    schema: dict[str, Any] = Values.model_json_schema(by_alias=True)
    definitions = schema["$defs"]
    for model, settings in NOT_HERE.items():
        for setting in settings:
            del definitions[model]["properties"][setting]
    # Helm's YAML has numbers where an environment has text, as trireme.yaml may; but no dates.
    definitions["PoolConfig"]["properties"]["env"]["additionalProperties"] = {
        "type": ["string", "number"]
    }
    date = definitions["GatewayConfig"]["properties"]["system_start_date"]
    date["anyOf"][0]["pattern"] = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
    pools = schema["properties"]["pools"]
    (pool,) = pools.pop("patternProperties").values()
    pools |= {"propertyNames": {"pattern": NAME, "maxLength": 63}, "additionalProperties": pool}
    text = json.dumps(_plain(schema)).replace('"$defs"', '"definitions"')
    done = json.loads(text.replace("#/$defs/", "#/definitions/"))
    title = "Values of the Helm chart; made by python -m cluster.chart"
    # Helm itself adds `global`.
    done["properties"]["global"] = {"type": "object"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **done,
        "required": ["config"],
        "title": title,
        "definitions": _reached(done),
    }


def _reached(schema: dict[str, Any]) -> dict[str, Any]:
    """The definitions that are still referred to."""
    definitions: dict[str, Any] = schema["definitions"]
    found: dict[str, Any] = {}
    waiting = [{**schema, "definitions": {}}]
    while waiting:
        for name in _references(waiting.pop()):
            if name not in found:
                found[name] = definitions[name]
                waiting.append(definitions[name])
    return dict(sorted(found.items()))


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        reference = node.get("$ref")
        if isinstance(reference, str):
            yield reference.rpartition("/")[2]
        for each in node.values():
            yield from _references(each)
    elif isinstance(node, list):
        for each in node:
            yield from _references(each)


def _plain(node: Any) -> Any:
    """Without titles and defaults, which say nothing here that the document does not say."""
    if isinstance(node, dict):
        told = {
            k: v
            for k, v in node.items()
            if k not in ("title", "default") or (isinstance(v, dict) and k != "default")
        }
        return {k: _properties(v) if k == "properties" else _plain(v) for k, v in told.items()}
    if isinstance(node, list):
        return [_plain(each) for each in node]
    return node


def _properties(node: dict[str, Any]) -> dict[str, Any]:
    # Names of settings here, and one of them is `default`.
    return {name: _plain(each) for name, each in node.items()}


def config_defaults() -> dict[str, Any]:
    """What the templates take where `config` leaves a setting out."""
    pool = PoolConfig().model_dump(mode="json")
    gateway = GatewayConfig().model_dump(mode="json")
    scaling = PoolScalingConfig().model_dump(mode="json")
    return {
        "name": TriremeConfig().name,
        "gateway": {
            name: gateway[name]
            for name in ("port", "replicas", "num_cpus", "haproxy", "max_body_bytes")
        }
        | {"max_stream_s": gateway["max_stream_s"]},
        "pool": {
            name: pool[name]
            for name in (
                *("name", "engine", "replicas", "device", "tensor_parallel_size", "num_cpus"),
                *("drain_timeout_s",),
            )
        },
        "scaling": {name: scaling[name] for name in ("min_replicas", "max_replicas")},
    }


def reference() -> str:
    """The values as a table: every leaf with its default and what it does."""
    lines = ["| value | default | what it does |", "|---|---|---|"]
    lines += [
        f"| `{path}` | {'' if default is None else f'`{json.dumps(default)}`'} | {text} |"
        for path, default, text in _leaves(Values, "")
    ]
    return "\n".join(lines)


def _leaves(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any, str]]:
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        inner = field.annotation
        text = (field.description or "").replace("|", "\\|")
        if name == "pools":
            yield from _leaves(Pool, f"{path}.NAME.")
        elif inner is TriremeConfig:
            yield path, None, text
        elif isinstance(inner, type) and issubclass(inner, BaseModel) and inner is not Resources:
            yield from _leaves(inner, f"{path}.")
        else:
            default = None if field.is_required() else field.default
            if isinstance(default, BaseModel):
                default = default.model_dump(exclude_none=True)
            if isinstance(default, list):
                default = [
                    each.model_dump(exclude_unset=True, by_alias=True)
                    if isinstance(each, BaseModel)
                    else each
                    for each in default
                ]
            yield path, default, text


def files() -> dict[Path, str]:
    """Every generated file as it should be."""
    text = DOCUMENT.read_text() if DOCUMENT.is_file() else f"{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return {
        CHART / "values.schema.json": json.dumps(values_schema(), indent=1) + "\n",
        CHART / "config-defaults.json": json.dumps(config_defaults(), indent=1) + "\n",
        DOCUMENT: f"{before}{BEGIN}\n{reference()}\n{END}{after}",
    }


def main() -> int:
    """Returns 1 if ``--check`` found something out of date."""
    old = [path for path, text in files().items() if not path.is_file() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in old:
            print(f"out of date: {path.relative_to(ROOT)} (run python -m cluster.chart)")
        return 1 if old else 0
    for path, text in files().items():
        path.write_text(text)
    print(f"{len(old)} files written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
