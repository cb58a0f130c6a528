{{/* A Prometheus that keeps nothing: it scrapes the release's pods and sends all of it on. */}}
{{- define "trireme.agentConfig" -}}
{{- $ports := include "trireme.ports" . | fromYaml -}}
{{- $scales := ((include "trireme.config" . | fromYaml).autoscaling | default dict).enabled -}}
global: { scrape_interval: {{ .Values.monitoring.podMonitor.interval }} }
remote_write:
  - url: {{ .Values.monitoring.remoteWriteUrl | quote }}
    {{- if eq .Values.infrastructure.cloud "aws" }}
    sigv4: { region: {{ .Values.infrastructure.region | quote }} }
    {{- end }}
scrape_configs:
  {{- range $job, $port := dict "trireme" "ops" "trireme-ray" "metrics" }}
  - job_name: {{ $job }}
    kubernetes_sd_configs:
      - role: pod
        namespaces: { own_namespace: true }
        selectors: [{ role: pod, label: "app.kubernetes.io/name=trireme,app.kubernetes.io/instance={{ $.Release.Name }}" }]
    relabel_configs:
      - { source_labels: [__meta_kubernetes_pod_container_port_name], regex: {{ $port }}, action: keep }
      {{- if and (eq $port "ops") (not $scales) }}
      - { source_labels: [__meta_kubernetes_pod_label_trireme_dev_role], regex: head, action: drop }
      {{- end }}
      - { source_labels: [__meta_kubernetes_pod_name], target_label: pod }
      - { source_labels: [__meta_kubernetes_pod_label_trireme_dev_role], target_label: role }
  {{- end }}
{{- end }}

{{- define "trireme.metricsAgent" -}}
{{- $name := include "trireme.fullname" . }}
{{- $account := .Values.serviceAccounts.metrics.name }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name }}-metrics
  labels:
    {{- include "trireme.labels" . | nindent 4 }}
data:
  prometheus.yml: |
    {{- include "trireme.agentConfig" . | nindent 4 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ $name }}-metrics
  labels:
    {{- include "trireme.labels" . | nindent 4 }}
rules:
  - { apiGroups: [""], resources: [pods], verbs: [get, list, watch] }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $name }}-metrics
  labels:
    {{- include "trireme.labels" . | nindent 4 }}
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ $name }}-metrics }
subjects:
  - { kind: ServiceAccount, name: {{ $account }}, namespace: {{ .Release.Namespace }} }
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}-metrics
  labels:
    {{- include "trireme.labels" . | nindent 4 }}
spec:
  replicas: 1
  strategy: { type: Recreate } # two would send everything twice
  selector:
    matchLabels:
      {{- include "trireme.selector" . | nindent 6 }}
      trireme.dev/role: metrics
  template:
    metadata:
      labels:
        {{- include "trireme.selector" . | nindent 8 }}
        trireme.dev/role: metrics
      annotations:
        checksum/config: {{ include "trireme.agentConfig" . | sha256sum }}
    spec:
      serviceAccountName: {{ $account }}
      automountServiceAccountToken: true
      enableServiceLinks: false
      {{- include "trireme.pullSecrets" . | nindent 6 }}
      {{- with .Values.head.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.head.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- include "trireme.podSecurity" . | nindent 8 }}
      containers:
        - name: prometheus
          image: {{ include "trireme.prefixed" (list . .Values.images.metrics) }}
          imagePullPolicy: {{ .Values.image.pullPolicy }}
          args: [--agent, --config.file=/etc/prometheus/prometheus.yml, --storage.agent.path=/data]
          readinessProbe:
            httpGet: { path: /-/ready, port: 9090 }
          resources: { requests: { cpu: 200m, memory: 512Mi }, limits: { memory: 1Gi } }
          securityContext:
            {{- include "trireme.containerSecurity" . | nindent 12 }}
          volumeMounts:
            - { name: config, mountPath: /etc/prometheus }
            - { name: data, mountPath: /data }
      volumes:
        - { name: config, configMap: { name: {{ $name }}-metrics } }
        - { name: data, emptyDir: { sizeLimit: 5Gi } }
{{- end }}
