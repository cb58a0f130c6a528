{{/* What the pods of all Ray nodes have in common. */}}

{{/* Serve's settings, which must be there before any Ray process starts: cluster/local_ray.py. */}}
{{- define "trireme.env" -}}
{{- $ports := include "trireme.ports" . | fromYaml -}}
{{- $config := include "trireme.config" . | fromYaml -}}
{{- $defaults := include "trireme.defaults" . | fromJson -}}
{{- $longest := include "trireme.longest" . -}}
{{- $proxied := hasKey $config.gateway "haproxy" | ternary $config.gateway.haproxy $defaults.gateway.haproxy | ternary "1" "0" -}}
- { name: POD_IP, valueFrom: { fieldRef: { fieldPath: status.podIP } } }
- { name: TRIREME_OPS_ADDRESS, value: "$(POD_IP) {{ $ports.ops }}" }
- { name: TRIREME_CHANNEL_SECRET, valueFrom: { secretKeyRef: { name: {{ include "trireme.channelSecret" . }}, key: {{ .Values.channel.secretKey }} } } }
- { name: RAY_SERVE_ENABLE_HA_PROXY, value: "{{ $proxied }}" }
- { name: RAY_SERVE_ENABLE_DIRECT_INGRESS, value: "{{ $proxied }}" }
- { name: RAY_SERVE_THROUGHPUT_OPTIMIZED, value: "1" }
# KubeRay gives each container 65,536 descriptors; local_ray.py takes a quarter.
- { name: RAY_SERVE_HAPROXY_MAXCONN, value: "16384" }
- { name: RAY_SERVE_HAPROXY_NBTHREAD, value: "4" }
- { name: RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S, value: "{{ $longest }}" }
- { name: RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S, value: "{{ $longest }}" }
- { name: RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S, value: "{{ $longest }}" }
# KubeRay's 600 would end all nodes of a cluster whose head is away for ten minutes.
- { name: RAY_gcs_rpc_server_reconnect_timeout_s, value: "3600" }
{{- if eq $proxied "1" }}
# HAProxy by way of cluster/front.py, with its own pages on loopback.
{{- $pair := ternary (dict "cert_file" "/etc/trireme/gateway-tls/tls.crt" "key_file" "/etc/trireme/gateway-tls/tls.key") nil (ne .Values.gateway.tlsSecret "") }}
- { name: RAY_SERVE_HAPROXY_BINARY_PATH, value: /opt/trireme/bin/trireme-front }
- { name: TRIREME_FRONT, value: {{ dict "head_s" 30 "private_ports" (list 8404 9101) "certificate" $pair | toJson | squote }} }
{{- end }}
- { name: RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT, value: "{{ $ports.direct.first }}" }
- { name: RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT, value: "{{ $ports.direct.last }}" }
- { name: RAY_SERVE_FALLBACK_PROXY_HTTP_PORT, value: "{{ $ports.fallback }}" }
- { name: RAY_worker_niceness, value: "0" }
- { name: RAY_USAGE_STATS_ENABLED, value: "0" }
- { name: RAY_COLOR_PREFIX, value: "0" }
- { name: HOME, value: /home/trireme }
- { name: TRIREME_HOME, value: /home/trireme/cache }
- { name: HF_HOME, value: /models/hub }
{{- if not (and (include "trireme.fetches" .) (not .Values.weights.uri)) }}
- { name: HF_HUB_OFFLINE, value: "1" }
{{- else if .Values.weights.huggingFace.existingSecret }}
- { name: HF_TOKEN, valueFrom: { secretKeyRef: { name: {{ .Values.weights.huggingFace.existingSecret }}, key: {{ .Values.weights.huggingFace.secretKey }} } } }
{{- end }}
{{- end }}

{{- define "trireme.mounts" -}}
- { name: tmp, mountPath: /tmp }
- { name: home, mountPath: /home/trireme }
- { name: shm, mountPath: /dev/shm }
{{- end }}

{{/* Files of secrets: (root, whether HAProxy takes callers here, whether the token channel ends here). */}}
{{- define "trireme.certificateMounts" -}}
{{- if and (index . 1) (index . 0).Values.gateway.tlsSecret }}
- { name: gateway-tls, mountPath: /etc/trireme/gateway-tls, readOnly: true }
{{- end }}
{{- if and (index . 2) (index . 0).Values.channel.tlsSecret }}
- { name: channel-tls, mountPath: /etc/trireme/tls, readOnly: true }
{{- end }}
{{- end }}

{{- define "trireme.certificates" -}}
{{- with and (index . 1) (index . 0).Values.gateway.tlsSecret }}
- { name: gateway-tls, secret: { secretName: {{ . }}, defaultMode: 0440 } }
{{- end }}
{{- with and (index . 2) (index . 0).Values.channel.tlsSecret }}
- { name: channel-tls, secret: { secretName: {{ . }}, defaultMode: 0440 } }
{{- end }}
{{- end }}

{{/* What outlives a gateway's pod. */}}
{{- define "trireme.keptMounts" -}}
{{- if .Values.gateway.usageQueuePath }}
- { name: usage, mountPath: /usage }
{{- end }}
{{- if .Values.gateway.contentLogClaim }}
- { name: content-log, mountPath: /content-log }
{{- end }}
{{- end }}

{{- define "trireme.kept" -}}
{{- with .Values.gateway.usageQueuePath }}
- { name: usage, hostPath: { path: {{ . }}, type: DirectoryOrCreate } }
{{- end }}
{{- with .Values.gateway.contentLogClaim }}
- { name: content-log, persistentVolumeClaim: { claimName: {{ . }} } }
{{- end }}
{{- end }}

{{/* (root, size of /dev/shm) */}}
{{- define "trireme.volumes" -}}
- { name: tmp, emptyDir: { sizeLimit: 20Gi } }
- { name: home, emptyDir: { sizeLimit: 10Gi } }
- { name: shm, emptyDir: { medium: Memory, sizeLimit: {{ index . 1 }} } }
{{- end }}

{{- define "trireme.modelMount" -}}
- { name: models, mountPath: /models{{ if or .Values.weights.existingClaim .Values.weights.image }}, readOnly: true{{ end }} }
{{- end }}

{{/* Where models lie: (root, whether the pod runs engines). A gateway needs the tokenizer, not the weights. */}}
{{- define "trireme.modelVolume" -}}
{{- $root := index . 0 -}}
{{- $weights := $root.Values.weights -}}
{{- if $weights.existingClaim }}
- { name: models, persistentVolumeClaim: { claimName: {{ $weights.existingClaim }}, readOnly: true } }
{{- else if $weights.image }}
- { name: models, image: { reference: {{ include "trireme.prefixed" (list $root $weights.image) }}, pullPolicy: {{ $root.Values.image.pullPolicy }} } }
{{- else if and (index . 1) $weights.hostPath }}
- { name: models, hostPath: { path: {{ $weights.hostPath }}, type: DirectoryOrCreate } }
{{- else if index . 1 }}
- { name: models, emptyDir: { sizeLimit: {{ $weights.size }} } }
{{- else }}
- { name: models, emptyDir: { sizeLimit: 2Gi } }
{{- end }}
{{- end }}

{{/* Before an engine or a gateway starts: folders of the node, and the copy of weights.uri. (root, whether engines) */}}
{{- define "trireme.before" -}}
{{- $root := index . 0 -}}
{{- $weights := $root.Values.weights -}}
{{- $kept := and (index . 1) (not (or $weights.existingClaim $weights.image)) $weights.hostPath -}}
{{- $compiled := and (index . 1) $weights.compileCachePath -}}
{{- $queue := and (not (index . 1)) $root.Values.gateway.usageQueuePath -}}
{{- if or $kept $compiled $queue }}
# Folders of the node belong to root, and no fsGroup reaches them.
- name: folders
  image: {{ include "trireme.image" $root }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  command: [chown, "10001:10001"{{ if $kept }}, /models{{ end }}{{ if $compiled }}, /compiled{{ end }}{{ if $queue }}, /usage{{ end }}]
  resources: { requests: { cpu: 100m, memory: 64Mi }, limits: { memory: 64Mi } }
  securityContext:
    runAsUser: 0
    runAsNonRoot: false
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities: { drop: [ALL], add: [CHOWN] }
    seccompProfile: { type: RuntimeDefault }
  volumeMounts:
{{- if $kept }}
    - { name: models, mountPath: /models }
{{- end }}
{{- if $compiled }}
    - { name: compiled, mountPath: /compiled }
{{- end }}
{{- if $queue }}
    - { name: usage, mountPath: /usage }
{{- end }}
{{- end }}
{{- if $weights.uri }}
# One copy for all pods of the node: whoever comes second waits for the first, and then finds it all there.
- name: fetch
  image: {{ include "trireme.prefixed" (list $root $root.Values.images.fetch) }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  command: [sh, -euc]
  args:
    - >-
      exec 9> /models/.lock; flock 9;
      exec rclone copy "$REMOTE" /models --config /dev/null --transfers 16 --checkers 16 --stats 30s --stats-one-line -v
      {{- if not (index . 1) }} --exclude "*.safetensors" --exclude "*.bin"{{ end }}
  env:
{{- if hasPrefix "s3://" $weights.uri }}
    - { name: REMOTE, value: ":s3,provider=AWS,env_auth=true{{ with $root.Values.infrastructure.region }},region={{ . }}{{ end }}:{{ trimPrefix "s3://" $weights.uri }}" }
{{- else }}
    - { name: REMOTE, value: ":gcs,env_auth=true,bucket_policy_only=true:{{ trimPrefix "gs://" $weights.uri }}" }
{{- end }}
  resources: { requests: { cpu: "1", memory: 1Gi }, limits: { memory: 2Gi } }
  securityContext:
    {{- include "trireme.containerSecurity" $root | nindent 4 }}
  volumeMounts:
    - { name: models, mountPath: /models }
{{- end }}
{{- end }}

{{/* preStop: hand the work over while Serve still can. (seconds) */}}
{{- define "trireme.leave" -}}
preStop:
  exec:
    command: [python, -P, -m, cluster.cli, k8s, leave, --within-s, {{ . | toString | quote }}]
{{- end }}

{{/* (label, labels of the pods): spread over the values of the label, as far as nodes allow. */}}
{{- define "trireme.spread" -}}
{{- if index . 0 }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: {{ index . 0 }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- index . 1 | nindent 8 }}
{{- end }}
{{- end }}

{{/* (resources, GPUs): a request for CPUs, as a limit would throttle; memory is both. */}}
{{- define "trireme.resources" -}}
{{- $gpus := index . 1 -}}
requests: { cpu: {{ (index . 0).cpu | quote }}, memory: {{ (index . 0).memory }}{{ if $gpus }}, nvidia.com/gpu: {{ $gpus }}{{ end }} }
limits: { memory: {{ (index . 0).memory }}{{ if $gpus }}, nvidia.com/gpu: {{ $gpus }}{{ end }} }
{{- end }}
