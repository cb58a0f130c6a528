{{/* What Ray Serve is told: settings are arguments, so that a changed one is updated in place. */}}
{{- define "trireme.serveConfig" -}}
{{- $ports := include "trireme.ports" . | fromYaml -}}
{{- $config := include "trireme.config" . | fromYaml -}}
{{- $scaling := $config.autoscaling | default dict -}}
proxy_location: EveryNode
http_options:
  host: 0.0.0.0
  port: {{ $ports.http }}
applications:
  - name: {{ $config.name }}
    route_prefix: /
    import_path: deployments.kubernetes:build
    {{- if and $scaling.enabled (eq ($scaling.actuator | default "serve") "external") }}
    external_scaler_enabled: true
    {{- end }}
    args:
      config:
        {{- include "trireme.config" . | nindent 8 }}
{{- if $scaling.enabled }}
  - name: {{ $config.name }}-autoscaler
    route_prefix: null
    import_path: deployments.kubernetes:build_autoscaler
    args:
      config:
        {{- include "trireme.config" . | nindent 8 }}
    deployments:
      - name: autoscaler
        ray_actor_options:
          num_cpus: 0
          resources: { trireme-head: 0.001 }
{{- end }}
{{- end }}
