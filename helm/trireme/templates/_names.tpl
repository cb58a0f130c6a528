{{/* Names, labels, images. Names leave room for what KubeRay appends to that of a RayService. */}}
{{- define "trireme.fullname" -}}
{{- .Release.Name | trunc 35 | trimSuffix "-" -}}
{{- end }}

{{- define "trireme.selector" -}}
app.kubernetes.io/name: trireme
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "trireme.labels" -}}
{{ include "trireme.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* (root, image): with the registry put before it. */}}
{{- define "trireme.prefixed" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.imageRegistry }}{{ . }}/{{ end }}{{ index . 1 -}}
{{- end }}

{{- define "trireme.image" -}}
{{- $image := .Values.image -}}
{{- $version := print ":" ($image.tag | default .Chart.AppVersion) -}}
{{- with $image.digest }}{{ $version = print "@" . }}{{ end -}}
{{- include "trireme.prefixed" (list . (print $image.repository $version)) -}}
{{- end }}

{{- define "trireme.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "trireme.channelSecret" -}}
{{- .Values.channel.existingSecret | default (print (include "trireme.fullname" .) "-channel") -}}
{{- end }}

{{- define "trireme.accessSecret" -}}
{{- .Values.access.existingSecret | default (print (include "trireme.fullname" .) "-access") -}}
{{- end }}

{{/* Whether callers need keys. */}}
{{- define "trireme.keys" -}}
{{- if eq ((.Values.config.access | default dict).mode | default "none") "keys" }}yes{{ end -}}
{{- end }}

{{- define "trireme.redisSecret" -}}
{{- .Values.redis.existingSecret | default (print (include "trireme.fullname" .) "-redis") -}}
{{- end }}

{{- define "trireme.ownRedis" -}}
{{- if and .Values.faultTolerance.enabled (not .Values.redis.host) }}yes{{ end -}}
{{- end }}

{{/* The restricted profile of Kubernetes' Pod Security Standards. */}}
{{- define "trireme.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "trireme.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: { drop: [ALL] }
seccompProfile: { type: RuntimeDefault }
{{- end }}
