{{/*
The picture's flows, once: from, to, ports. Both ends' NetworkPolicies are made from them, and the tests read them back.
A role is ours; an upper-case word is a list of peers in networkPolicy.
*/}}
{{- define "trireme.flows" -}}
{{- $ports := include "trireme.ports" . | fromYaml -}}
{{- $http := print $ports.http -}}
{{- $direct := printf "%v-%v" $ports.direct.first $ports.direct.last -}}
{{- $free := printf "%v-%v" $ports.free.first $ports.free.last -}}
{{- $ray := printf "%v-%v %v %v-%v" $ports.ray.first $ports.ray.last $ports.agent $ports.workers.first $ports.workers.last -}}
{{- $stores := list -}}
# Ray: every node with the head, and no node with another.
- { from: gateway, to: head, ports: "{{ $ports.gcs }} {{ $ray }} {{ $free }} {{ $ports.fallback }}" }
- { from: engine, to: head, ports: "{{ $ports.gcs }} {{ $ray }} {{ $free }}" }
- { from: head, to: gateway, ports: "{{ $ray }} {{ $free }} {{ $ports.ops }}" }
- { from: head, to: engine, ports: "{{ $ray }} {{ $free }} {{ $ports.ops }}" }
# Requests: HAProxy to any gateway, gateways to engines over the token channel.
- { from: clients, to: gateway, ports: "{{ $http }}" }
- { from: gateway, to: gateway, ports: "{{ $direct }}" }
- { from: gateway, to: engine, ports: "{{ $free }}" }
- { from: test, to: gateway, ports: "{{ $http }}" }
# Operators.
- { from: operators, to: head, ports: "{{ $ports.dashboard }} {{ $http }}" }
- { from: prometheus, to: head, ports: "{{ $ports.metrics }} {{ $ports.ops }}" }
- { from: prometheus, to: gateway, ports: "{{ $ports.metrics }} {{ $ports.ops }}" }
- { from: prometheus, to: engine, ports: "{{ $ports.metrics }} {{ $ports.ops }}" }
- { from: head, to: apiServer, ports: "443 6443" }
{{- if .Values.monitoring.remoteWriteUrl }}
- { from: metrics, to: head, ports: "{{ $ports.metrics }} {{ $ports.ops }}" }
- { from: metrics, to: gateway, ports: "{{ $ports.metrics }} {{ $ports.ops }}" }
- { from: metrics, to: engine, ports: "{{ $ports.metrics }} {{ $ports.ops }}" }
- { from: metrics, to: apiServer, ports: "443 6443" }
- { from: metrics, to: internet, ports: "443" }
{{- end }}
{{- if include "trireme.ownRedis" . }}
- { from: head, to: redis, ports: "6379" }
{{- else if .Values.faultTolerance.enabled }}
- { from: head, to: internet, ports: "{{ .Values.redis.port }}" }
{{- end }}
{{- if .Values.database.host }}
- { from: gateway, to: internet, ports: "{{ .Values.database.port }}" }
{{- end }}
{{- if include "trireme.fetches" . }}
- { from: gateway, to: internet, ports: "443" }
- { from: engine, to: internet, ports: "443" }
{{- end }}
{{- with ((.Values.config.telemetry | default dict).tracing | default dict).endpoint }}
{{- $host := (urlParse .).host }}
{{- $port := contains ":" $host | ternary (splitList ":" $host | last) (hasPrefix "https" . | ternary "443" "80") }}
- { from: gateway, to: collector, ports: "{{ $port }}" }
- { from: engine, to: collector, ports: "{{ $port }}" }
{{- end }}
{{- end }}

{{/* "6379 30000-31000" as ports of a NetworkPolicy. */}}
{{- define "trireme.policyPorts" -}}
{{- range splitList " " . }}
{{- $ends := splitList "-" . }}
- { protocol: TCP, port: {{ index $ends 0 }}{{ if eq (len $ends) 2 }}, endPort: {{ index $ends 1 }}{{ end }} }
{{- end }}
{{- end }}

{{/* (root, name): the peers that a name of a flow means. */}}
{{- define "trireme.peers" -}}
{{- $root := index . 0 -}}
{{- $who := index . 1 -}}
{{- if eq $who "collector" }}
# Wherever the collector is: only its port is known here.
- namespaceSelector: {}
{{ toYaml $root.Values.networkPolicy.internet }}
{{- else if eq $who "clients" }}
{{- with $root.Values.networkPolicy.clients }}
{{ toYaml . }}
{{- end }}
{{- range list $root.Values.ingress $root.Values.httpRoute }}
{{- if .enabled }}
- namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: {{ .fromNamespace }} } }
{{- end }}
{{- end }}
{{- else if hasKey $root.Values.networkPolicy $who }}
{{- with index $root.Values.networkPolicy $who }}
{{ toYaml . }}
{{- end }}
{{- else }}
- podSelector:
    matchLabels:
      {{- include "trireme.selector" $root | nindent 6 }}
      trireme.dev/role: {{ $who }}
{{- end }}
{{- end }}
