{{/* What Ray Serve is told. It replaces all replicas of an application whose `args` change: a pool has its own, and in
its args what engines know. How many replicas a pool has stands beside them, and replaces none. */}}
{{- define "trireme.serveConfig" -}}
{{- $ports := include "trireme.ports" . | fromYaml -}}
{{- $config := include "trireme.config" . | fromYaml -}}
{{- $scaling := $config.autoscaling | default dict -}}
{{- $external := and $scaling.enabled (eq ($scaling.actuator | default "serve") "external") -}}
proxy_location: EveryNode
http_options:
  host: 0.0.0.0
  port: {{ $ports.http }}
applications:
  - name: {{ $config.name }}
    route_prefix: /
    import_path: deployments.kubernetes:build
    args:
      config:
        {{- include "trireme.gatewayConfig" $config | nindent 8 }}
{{- range $model := $config.models }}
{{- range $pool := $model.pools }}
  - name: {{ $config.name }}-engine-{{ $pool.name }}
    route_prefix: null
    import_path: deployments.kubernetes:build_engines
    {{- if $external }}
    external_scaler_enabled: true
    {{- end }}
    args:
      config:
        {{- include "trireme.engineConfig" (list $config $model $pool) | nindent 8 }}
    deployments:
      - name: engine-{{ $pool.name }}
        {{- include "trireme.poolSize" (list $ $config $pool $external) | nindent 8 }}
{{- end }}
{{- end }}
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

{{/* (config): what gateways know. They see for themselves which replicas there are. */}}
{{- define "trireme.gatewayConfig" -}}
{{- $models := list -}}
{{- range $model := .models -}}
  {{- $pools := list -}}
  {{- range $model.pools }}{{ $pools = append $pools (omit . "replicas" "scaling") }}{{ end -}}
  {{- $models = append $models (mustMergeOverwrite (dict) (omit $model "pools") (dict "pools" $pools)) -}}
{{- end -}}
{{- toYaml (mustMergeOverwrite (dict) (omit . "models" "autoscaling") (dict "models" $models)) -}}
{{- end }}

{{/* (config, model, pool): what engines of a pool know. Not how many they are, nor for whom they work. */}}
{{- define "trireme.engineConfig" -}}
{{- $config := index . 0 -}}
{{- $pool := omit (index . 2) "replicas" "scaling" "tiers" "lends_to" -}}
{{- $model := mustMergeOverwrite (dict) (omit (index . 1) "pools" "aliases") (dict "pools" (list $pool)) -}}
{{- toYaml (mustMergeOverwrite (pick $config "name" "channel" "telemetry") (dict "models" (list $model))) -}}
{{- end }}

{{/* (root, config, pool, external): how many replicas, or between which numbers the autoscaler may choose. */}}
{{- define "trireme.poolSize" -}}
{{- $defaults := include "trireme.defaults" (index . 0) | fromJson -}}
{{- $config := index . 1 -}}
{{- $pool := index . 2 -}}
{{- $replicas := int ($pool.replicas | default $defaults.pool.replicas) -}}
{{- if and $pool.scaling ($config.autoscaling | default dict).enabled (not (index . 3)) -}}
autoscaling_config:
  min_replicas: {{ hasKey $pool.scaling "min_replicas" | ternary $pool.scaling.min_replicas $defaults.scaling.min_replicas }}
  initial_replicas: {{ $replicas }}
  max_replicas: {{ $pool.scaling.max_replicas | default $defaults.scaling.max_replicas }}
  # The policy has waited already; Serve shall do what it says.
  upscale_delay_s: 0
  downscale_delay_s: 0
  downscale_to_zero_delay_s: 0
  policy:
    policy_function: autoscaling.serve_policy:ReadWanted
    policy_kwargs: { key: {{ $config.name }}/{{ $pool.name }}/wanted }
{{- else -}}
num_replicas: {{ $replicas }}
{{- end -}}
{{- end }}
