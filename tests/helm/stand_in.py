"""A Kubernetes API in memory, over real HTTP: what helm, kubectl, Ray and `trireme k8s doctor` ask.

It keeps objects, refuses those that Kubernetes' own schemas refuse, answers discovery, selectors
and watches, applies the patches that helm 3, helm 4 and Ray send, and completes a Job a moment
after it was made, as it does a Pod that runs once. ``requests`` has every change, in order.

Not here: admission, RBAC beyond ``forbidden``, controllers, conflicts between several writers (what
is applied replaces what the one writer applied before).
"""

import base64
import copy
import json
import ssl
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.helm.toolbox import KUBERNETES, Schemas, Tree

ENDS_AFTER_S = 0.2


@dataclass(frozen=True)
class Resource:
    """One kind: ``group_version`` as in apiVersion."""

    group_version: str
    plural: str
    kind: str
    namespaced: bool = True


def _resources(text: str) -> list[Resource]:
    found = []
    for line in text.split("\n"):
        if words := line.split():
            group_version, *kinds = words
            for each in kinds:
                plural, _, kind = each.partition("=")
                found.append(Resource(group_version, plural, kind.strip("*"), kind[-1] != "*"))
    return found


# A star: not in a namespace.
BUILT_IN = _resources("""
v1 namespaces=Namespace* nodes=Node* pods=Pod services=Service configmaps=ConfigMap secrets=Secret
v1 serviceaccounts=ServiceAccount persistentvolumeclaims=PersistentVolumeClaim events=Event
apps/v1 deployments=Deployment statefulsets=StatefulSet daemonsets=DaemonSet replicasets=ReplicaSet
batch/v1 jobs=Job
policy/v1 poddisruptionbudgets=PodDisruptionBudget
networking.k8s.io/v1 networkpolicies=NetworkPolicy ingresses=Ingress ingressclasses=IngressClass*
rbac.authorization.k8s.io/v1 roles=Role rolebindings=RoleBinding
scheduling.k8s.io/v1 priorityclasses=PriorityClass*
storage.k8s.io/v1 storageclasses=StorageClass*
""")
CUSTOM = _resources("""
ray.io/v1 rayservices=RayService rayclusters=RayCluster
monitoring.coreos.com/v1 podmonitors=PodMonitor prometheusrules=PrometheusRule
gateway.networking.k8s.io/v1 httproutes=HTTPRoute gateways=Gateway gatewayclasses=GatewayClass*
external-secrets.io/v1 externalsecrets=ExternalSecret secretstores=SecretStore
external-secrets.io/v1 clustersecretstores=ClusterSecretStore*
karpenter.sh/v1 nodepools=NodePool*
""")

MERGE_KEYS = {
    **dict.fromkeys(("containers", "initContainers", "volumes", "env", "imagePullSecrets"), "name"),
    "volumeMounts": "mountPath",
    "ports": "containerPort",
}


class Refused(Exception):
    """An answer that is no success, as Kubernetes words it."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


@dataclass(frozen=True)
class Change:
    """One change that came over HTTP."""

    verb: str
    kind: str
    name: str


@dataclass
class StandIn:
    """The store. ``put`` is for tests; everything else comes over HTTP."""

    schemas: Schemas | None = None
    version: str = f"v{KUBERNETES[1]}.0"
    groups: frozenset[str] = frozenset({"ray.io"})
    """Groups of custom resources that are installed."""
    succeeds: bool = True
    """Whether Jobs and Pods that run once do."""
    forbidden: frozenset[str] = frozenset()
    """Plurals that the caller may not read."""
    requests: list[Change] = field(default_factory=list)
    _objects: dict[tuple[Resource, str, str], Tree] = field(default_factory=dict)
    _events: list[tuple[int, str, Resource, Tree]] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _count: int = 100

    def __post_init__(self) -> None:
        for name in ("default", "kube-system"):
            self.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    # ------------------------------------------------------------------------------- the store

    def resources(self) -> list[Resource]:
        custom = [each for each in CUSTOM if each.group_version.split("/")[0] in self.groups]
        return BUILT_IN + custom

    def resource(self, group_version: str, plural: str) -> Resource:
        for each in self.resources():
            if (each.group_version, each.plural) == (group_version, plural):
                return each
        raise Refused(404, "NotFound", "the server could not find the requested resource")

    def put(self, item: Tree) -> None:
        """An object that is simply there. Kinds that are not installed cannot be."""
        (found,) = [
            each
            for each in self.resources()
            if (each.group_version, each.kind) == (item["apiVersion"], item["kind"])
        ]
        self.store(found, item["metadata"].get("namespace", ""), copy.deepcopy(item))

    def all(self, *kinds: str) -> list[Tree]:
        """Every object of these kinds; of all kinds, if none is named."""
        with self._changed:
            return [o for o in self._objects.values() if not kinds or o["kind"] in kinds]

    def store(self, resource: Resource, namespace: str, item: Tree) -> Tree:
        with self._changed:
            self._count += 1
            metadata = item["metadata"]
            key = resource, namespace, metadata["name"]
            old = self._objects.get(key)
            fixed = (old or {}).get("metadata", {})
            metadata["uid"] = fixed.get("uid") or str(uuid.uuid4())
            metadata["creationTimestamp"] = fixed.get("creationTimestamp") or _now()
            same = old is not None and old.get("spec") == item.get("spec")
            metadata["generation"] = fixed.get("generation", 0) + (0 if same else 1)
            metadata["resourceVersion"] = str(self._count)
            if namespace:
                metadata["namespace"] = namespace
            if resource.kind == "Namespace":
                item["status"] = {"phase": "Active"}
            self._objects[key] = item
            self._tell("MODIFIED" if old else "ADDED", resource, item)
        once = item.get("spec", {}).get("restartPolicy") == "Never" and "status" not in item
        if old is None and (resource.kind == "Job" or (resource.kind == "Pod" and once)):
            threading.Timer(ENDS_AFTER_S, self._end, (resource, namespace, item)).start()
        return item

    def _end(self, resource: Resource, namespace: str, item: Tree) -> None:
        kinds = ("SuccessCriteriaMet", "Complete") if self.succeeds else ("Failed",)
        conditions = [{"type": each, "status": "True", "reason": "Ended"} for each in kinds]
        status: Tree = {"succeeded" if self.succeeds else "failed": 1, "conditions": conditions}
        if resource.kind == "Pod":
            status = {"phase": "Succeeded" if self.succeeds else "Failed"}
        with self._changed:
            if (resource, namespace, item["metadata"]["name"]) in self._objects:
                self.store(resource, namespace, {**copy.deepcopy(item), "status": status})

    def remove(self, resource: Resource, namespace: str, name: str) -> None:
        with self._changed:
            gone = self._objects.pop((resource, namespace, name))
            self._count += 1
            gone["metadata"]["resourceVersion"] = str(self._count)
            self._tell("DELETED", resource, gone)

    def _tell(self, kind: str, resource: Resource, item: Tree) -> None:
        self._events.append((self._count, kind, resource, copy.deepcopy(item)))
        self._changed.notify_all()

    def find(self, resource: Resource, namespace: str, name: str) -> Tree:
        found = self._objects.get((resource, namespace, name))
        if found is None:
            raise Refused(404, "NotFound", f'{resource.plural} "{name}" not found')
        return found

    def listed(self, resource: Resource, namespace: str, query: dict[str, str]) -> Tree:
        if resource.plural in self.forbidden:
            raise Refused(403, "Forbidden", f'cannot list resource "{resource.plural}"')
        with self._changed:
            items = [
                each
                for (kind, where, _), each in sorted(self._objects.items(), key=lambda o: str(o))
                if kind == resource and namespace in ("", where) and _selected(each, query)
            ]
            version = str(self._count)
        metadata = {"resourceVersion": version}
        head = {"kind": f"{resource.kind}List", "apiVersion": resource.group_version}
        return {**head, "metadata": metadata, "items": items}

    def watched(
        self, resource: Resource, namespace: str, query: dict[str, str], ended: threading.Event
    ) -> Iterator[Tree]:
        """Events after ``resourceVersion``, for as long as asked (at most until ``ended``)."""
        seen = int(query.get("resourceVersion") or 0)
        if query.get("sendInitialEvents") == "true":
            for each in self.listed(resource, namespace, query)["items"]:
                yield {"type": "ADDED", "object": each}
                seen = max(seen, int(each["metadata"]["resourceVersion"]))
            marks = {"k8s.io/initial-events-end": "true"}
            metadata = {"resourceVersion": str(self._count), "annotations": marks}
            head = {"kind": resource.kind, "apiVersion": resource.group_version}
            yield {"type": "BOOKMARK", "object": {**head, "metadata": metadata}}
        while not ended.is_set():
            with self._changed:
                new = [each for each in self._events if each[0] > seen]
                if not new:
                    self._changed.wait(0.5)
            for count, kind, which, item in new:
                seen = count
                where = item["metadata"].get("namespace", "")
                if which == resource and namespace in ("", where) and _selected(item, query):
                    yield {"type": kind, "object": item}

    # --------------------------------------------------------------------------- what is asked

    def check(self, item: Tree) -> None:
        """Raises Refused for what Kubernetes' schemas do not allow."""
        if self.schemas is None:
            return
        plain = {name: value for name, value in item.items() if name != "status"}
        try:
            faults = self.schemas.faults(plain, KUBERNETES[1])
        except KeyError:
            return
        if faults:
            raise Refused(422, "Invalid", "; ".join(faults))

    def change(
        self, verb: str, path: tuple[Resource, str, str], body: Any, kind: str, dry: bool
    ) -> tuple[int, Tree]:
        """A write. Returns the status and what stands there now."""
        resource, namespace, name = path
        if verb != "DELETE" and resource.namespaced:
            self.find(self.resource("v1", "namespaces"), "", namespace)
        old = self._objects.get((resource, namespace, name))
        new: Tree
        if verb == "POST":
            name = body["metadata"]["name"]
            if (resource, namespace, name) in self._objects:
                raise Refused(409, "AlreadyExists", f'{resource.plural} "{name}" already exists')
            new = body
        elif verb == "DELETE":
            gone = self.find(resource, namespace, name)
            if not dry:
                self.requests.append(Change(verb, resource.kind, name))
                self.remove(resource, namespace, name)
            return 200, gone
        elif verb == "PUT":
            new = body
        elif kind == "application/apply-patch+yaml":
            new = body
            if old is not None and "status" in old:
                new = {**new, "status": old["status"]}
        else:
            new = _patched(self.find(resource, namespace, name), body, kind, resource)
        self.check(new)
        if dry:
            return 200, new
        if old is None or _content(old) != _content(new):
            self.requests.append(Change("create" if old is None else "update", resource.kind, name))
            new = self.store(resource, namespace, copy.deepcopy(new))
        else:
            new = old
        return (201 if old is None else 200), new

    def discovery(self, parts: list[str]) -> Tree:
        known = [each.group_version for each in self.resources()]
        groups: dict[str, list[str]] = {}
        for each in dict.fromkeys(known):
            if "/" in each:
                groups.setdefault(each.split("/")[0], []).append(each)
        if parts == ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"]}
        if parts == ["apis"]:
            listed = [
                {
                    "name": name,
                    "versions": [{"groupVersion": v, "version": v.split("/")[1]} for v in all_],
                    "preferredVersion": {"groupVersion": all_[0], "version": all_[0].split("/")[1]},
                }
                for name, all_ in groups.items()
            ]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}
        version = "/".join(parts[1:])
        if version not in known:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
        resources = [
            {
                "name": each.plural,
                "singularName": each.kind.lower(),
                "namespaced": each.namespaced,
                "kind": each.kind,
                "verbs": verbs,
            }
            for each in self.resources()
            if each.group_version == version
        ]
        head = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version}
        return {**head, "resources": resources}

    def openapi(self, parts: list[str]) -> Tree:
        """Only that every write may be checked by the server: clients look for that."""
        found: Tree = {}
        if not parts:
            for version in {each.group_version for each in self.resources()}:
                place = f"{'apis' if '/' in version else 'api'}/{version}"
                found[place] = {"serverRelativeURL": f"/openapi/v3/{place}"}
            return {"paths": found}
        version = "/".join(parts[1:])
        group, _, plain = version.rpartition("/")
        names = ("dryRun", "fieldManager", "fieldValidation", "force")
        asked = [{"name": n, "in": "query", "schema": {"type": "string"}} for n in names]
        for each in self.resources():
            if each.group_version == version:
                what = {"group": group, "version": plain, "kind": each.kind}
                way = {"parameters": asked, "x-kubernetes-group-version-kind": what}
                place = f"/{'/'.join(parts)}/{each.plural}"
                found[place] = {"post": {**way, "responses": {}}}
                found[f"{place}/{{name}}"] = {"patch": {**way, "responses": {}}}
        info = {"title": "stand-in", "version": self.version}
        return {"openapi": "3.0.0", "info": info, "paths": found}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _content(item: Tree) -> Tree:
    """What a writer says of an object."""
    metadata = item["metadata"]
    said = {name: metadata.get(name) or {} for name in ("labels", "annotations")}
    rest = {k: v for k, v in item.items() if k not in ("metadata", "status")}
    return {**rest, "metadata": said}


def _selected(item: Tree, query: dict[str, str]) -> bool:
    labels = item["metadata"].get("labels") or {}
    for term in filter(None, query.get("labelSelector", "").split(",")):
        name, negated, value = term.partition("!=")
        if not negated:
            name, _, value = term.replace("==", "=").partition("=")
        if (labels.get(name) == value) == bool(negated):
            return False
    wanted = [t.partition("=") for t in query.get("fieldSelector", "").split(",") if t]
    known = {f"metadata.{name}": item["metadata"].get(name) for name in ("name", "namespace")}
    return all(known.get(name) == value for name, _, value in wanted)


def _merged(old: Any, patch: Any, name: str = "", strategic: bool = False) -> Any:
    if isinstance(patch, dict):
        found = dict(old) if isinstance(old, dict) else {}
        for key, value in patch.items():
            if key.startswith("$"):
                continue
            if value is None:
                found.pop(key, None)
            else:
                found[key] = _merged(found.get(key), value, key, strategic)
        return found
    key = MERGE_KEYS.get(name)
    if not (strategic and key and isinstance(patch, list) and isinstance(old, list)):
        return patch
    items = {each.get(key): each for each in old}
    for each in patch:
        if each.get("$patch") == "delete":
            items.pop(each.get(key), None)
        else:
            items[each.get(key)] = _merged(items.get(each.get(key)), each, "", True)
    return list(items.values())


def _json_patched(old: Tree, operations: list[Tree]) -> Tree:
    """RFC 6902, as the library that Kubernetes uses reads it: `replace` makes what is not there.

    Ray's autoscaler relies on that for `scaleStrategy`. (evanphx/json-patch v4.12, `replace`.)"""
    new = copy.deepcopy(old)
    for each in operations:
        *above, last = [
            part.replace("~1", "/").replace("~0", "~") for part in each["path"].split("/")[1:]
        ]
        place: Any = new
        try:
            for part in above:
                place = place[int(part)] if isinstance(place, list) else place[part]
            _operate(place, last, each)
        except (KeyError, IndexError, ValueError, TypeError):
            raise Refused(422, "Invalid", f"{each['op']} {each['path']}: no such place") from None
    return new


def _operate(place: Any, last: str, operation: Tree) -> None:
    key: Any = last
    if isinstance(place, list):
        key = len(place) if last == "-" else int(last)
    match operation["op"]:
        case "test":
            if place[key] != operation["value"]:
                raise Refused(422, "Invalid", f"test {operation['path']}: it is {place[key]!r}")
        case "remove":
            del place[key]
        case "add" if isinstance(place, list):
            place.insert(key, operation["value"])
        case "add" | "replace":
            place[key] = operation["value"]
        case other:
            raise Refused(400, "BadRequest", f"the operation {other}")


def _patched(old: Tree, patch: Any, kind: str, resource: Resource) -> Tree:
    if kind == "application/json-patch+json":
        return _json_patched(old, patch)
    strategic = kind == "application/strategic-merge-patch+json"
    if kind != "application/merge-patch+json" and (not strategic or resource in CUSTOM):
        raise Refused(415, "UnsupportedMediaType", kind)
    return dict(_merged(copy.deepcopy(old), patch, strategic=strategic))


# ---------------------------------------------------------------------------------------- bodies


def _fields(data: bytes) -> list[tuple[int, Any]]:
    from google.protobuf.empty_pb2 import Empty  # type: ignore[import-untyped]
    from google.protobuf.unknown_fields import (  # type: ignore[import-untyped]
        UnknownFieldSet,
    )

    message = Empty()
    message.ParseFromString(data)
    return [(each.field_number, each.data) for each in UnknownFieldSet(message)]


def _texts(entries: list[bytes]) -> dict[str, bytes]:
    pairs = [dict(_fields(each)) for each in entries]
    return {each.get(1, b"").decode(): each.get(2, b"") for each in pairs}


def _of_protobuf(data: bytes) -> Tree:
    """Secrets, ConfigMaps and Namespaces, which helm and kubectl write in Kubernetes' protobuf."""
    unknown = dict(_fields(data[4:]))
    meta = dict(_fields(unknown[1]))
    item: Tree = {"apiVersion": meta[1].decode(), "kind": meta[2].decode()}
    if item["kind"] == "DeleteOptions":
        return item
    parts = _fields(unknown[2])
    known = _fields(next(value for number, value in parts if number == 1))
    item["metadata"] = {
        name: value.decode()
        for number, name in ((1, "name"), (3, "namespace"))
        for at, value in known
        if at == number
    }
    for number, name in ((11, "labels"), (12, "annotations")):
        found = _texts([value for at, value in known if at == number])
        item["metadata"][name] = {key: value.decode() for key, value in found.items()}
    content = _texts([value for at, value in parts if at == 2 and item["kind"] != "Namespace"])
    if item["kind"] == "Secret":
        item["data"] = {k: base64.b64encode(value).decode() for k, value in content.items()}
        item["type"] = next((value.decode() for at, value in parts if at == 3), "Opaque")
    elif item["kind"] == "ConfigMap":
        item["data"] = {key: value.decode() for key, value in content.items()}
    return item


# ------------------------------------------------------------------------------------------ HTTP


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    api: StandIn
    ended: threading.Event

    def log_message(self, format: str, *args: Any) -> None:
        """Tests print what they need."""

    def _answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        try:
            self._route(body)
        except Refused as error:
            head = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
            told = {"message": str(error), "reason": error.reason, "code": error.code}
            self._send(error.code, {**head, **told})

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def _send(self, code: int, tree: Tree) -> None:
        data = json.dumps(tree).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, events: Iterator[Tree]) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            for each in events:
                data = json.dumps(each).encode() + b"\n"
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _route(self, body: bytes) -> None:
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        parts = [each for each in url.path.split("/") if each]
        if parts == ["version"]:
            _, minor, _ = self.api.version.split(".")
            told = {"major": "1", "minor": minor, "gitVersion": self.api.version}
            return self._send(200, told)
        if parts[:2] == ["openapi", "v3"]:
            return self._send(200, self.api.openapi(parts[2:]))
        if not parts or parts[0] not in ("api", "apis"):
            raise Refused(404, "NotFound", "not found")
        depth = 2 if parts[0] == "api" else 3
        if len(parts) <= depth:
            return self._send(200, self.api.discovery(parts))
        resource, namespace, name = self._meant(parts, depth)
        if self.command == "GET":
            if name:
                return self._send(200, self.api.find(resource, namespace, name))
            if query.get("watch") in ("true", "1"):
                events = self.api.watched(resource, namespace, query, self.ended)
                return self._stream(events)
            return self._send(200, self.api.listed(resource, namespace, query))
        kind = (self.headers.get("content-type") or "").split(";")[0]
        given = _of_protobuf(body) if body[:4] == b"k8s\0" else yaml.safe_load(body or b"{}")
        path = resource, namespace, name
        dry = query.get("dryRun") == "All"
        code, item = self.api.change(self.command, path, given, kind, dry)
        return self._send(code, item)

    def _meant(self, parts: list[str], depth: int) -> tuple[Resource, str, str]:
        version, rest = "/".join(parts[1:depth]), parts[depth:]
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        name = rest[1] if len(rest) > 1 else ""
        return self.api.resource(version, rest[0]), namespace, name


@contextmanager
def serving(
    api: StandIn, folder: Path, *, host: str = "127.0.0.1", secured: bool = False
) -> Iterator[Path]:
    """A kubeconfig in ``folder`` for ``api`` on a port of ``host``.

    ``secured``: over TLS, with ca.crt, client.crt and client.key beside the kubeconfig; the server
    asks for no certificate."""
    ended = threading.Event()
    handler = type("Handler", (_Handler,), {"api": api, "ended": ended})
    server = ThreadingHTTPServer((host, 0), handler)
    server.daemon_threads = True
    known: Tree = {}
    if secured:
        # The handshake is left to the thread of the connection.
        server.socket = _certified(host, folder).wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        known = {"certificate-authority": str(folder / "ca.crt")}
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    url = f"{'https' if secured else 'http'}://{host}:{server.server_port}"
    path = folder / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "stand-in", "cluster": {"server": url, **known}}],
        "users": [{"name": "tester", "user": {"token": "none"}}],
        "contexts": [{"name": "stand-in", "context": {"cluster": "stand-in", "user": "tester"}}],
        "current-context": "stand-in",
    }
    path.write_text(yaml.safe_dump(config))
    try:
        yield path
    finally:
        ended.set()
        server.shutdown()
        server.server_close()


def _certified(host: str, folder: Path) -> ssl.SSLContext:
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.crt")
    client = authority.issue_cert("client")
    client.private_key_pem.write_to_path(folder / "client.key")
    client.cert_chain_pems[0].write_to_path(folder / "client.crt")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    return context
