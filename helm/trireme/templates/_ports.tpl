{{/* Every port, once: pods open them, NetworkPolicies name them. */}}
{{- define "trireme.ports" -}}
http: {{ (include "trireme.config" . | fromYaml).gateway.port }}
gcs: 6379
dashboard: 8265
metrics: 8080
ops: 9400
fallback: 8500
# Serve's range for the replicas behind HAProxy.
direct: { first: 30000, last: 31000 }
# Ray's: node manager, object manager, agents; then workers.
ray: { first: 6380, last: 6384 }
agent: 52365
workers: { first: 10002, last: 19999 }
# What the kernel gives out: the token channel of an engine, and a listener of each Serve replica.
free: { first: 42000, last: 52000 }
{{- end }}

{{/* `ray start` of every node. (root, custom resource, CPUs) */}}
{{- define "trireme.rayParams" -}}
{{- $ports := include "trireme.ports" (index . 0) | fromYaml -}}
num-cpus: {{ index . 2 | toString | quote }}
resources: {{ printf `"{\"%s\": 1}"` (index . 1) | squote }}
node-manager-port: {{ $ports.ray.first | toString | quote }}
object-manager-port: {{ add 1 $ports.ray.first | toString | quote }}
runtime-env-agent-port: {{ add 2 $ports.ray.first | toString | quote }}
dashboard-agent-grpc-port: {{ add 3 $ports.ray.first | toString | quote }}
dashboard-agent-listen-port: {{ $ports.agent | toString | quote }}
metrics-export-port: {{ $ports.metrics | toString | quote }}
min-worker-port: {{ $ports.workers.first | toString | quote }}
max-worker-port: {{ $ports.workers.last | toString | quote }}
object-store-memory: "104857600" # tokens never pass through it
{{- end }}
