{{/* What follows from `config`: the whole of it with what Kubernetes decides, and its pools as pods. */}}

{{- define "trireme.defaults" -}}
{{- .Files.Get "config-defaults.json" -}}
{{- end }}

{{/* config as the cluster gets it. Pods listen on every address; trireme.check asks that callers be known. */}}
{{- define "trireme.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $defaults := include "trireme.defaults" . | fromJson -}}
{{- $gateway := mustMergeOverwrite (dict) ($config.gateway | default dict) (dict "host" "0.0.0.0") -}}
{{- if not (hasKey $gateway "port") }}{{ $_ := set $gateway "port" $defaults.gateway.port }}{{ end -}}
{{- if .Values.gateway.tlsSecret }}{{ $_ := set $gateway "tls" (dict "cert_file" "/etc/trireme/gateway-tls/tls.crt" "key_file" "/etc/trireme/gateway-tls/tls.key") }}{{ end -}}
{{- $_ := set $config "gateway" $gateway -}}
{{- if .Values.channel.tlsSecret -}}
  {{- $_ := set $config "channel" (mustMergeOverwrite (dict) ($config.channel | default dict) (dict "tls" (dict "cert_file" "/etc/trireme/tls/tls.crt" "key_file" "/etc/trireme/tls/tls.key" "ca_file" "/etc/trireme/tls/ca.crt"))) -}}
{{- end -}}
{{- if .Values.gateway.usageQueuePath -}}
  {{- $_ := set $config "usage" (mustMergeOverwrite (dict) ($config.usage | default dict) (dict "queue_dir" "/usage/queue")) -}}
{{- end -}}
{{- if .Values.gateway.contentLogClaim -}}
  {{- $_ := set $config "content_log" (mustMergeOverwrite (dict) ($config.content_log | default dict) (dict "folder" "/content-log/files")) -}}
{{- end -}}
{{- $_ := set $config "name" ($config.name | default $defaults.name) -}}
{{- $several := gt (len $config.models) 1 -}}
{{- $scales := false -}}
{{- range $model := $config.models -}}
  {{- if not $model.pools }}{{ $_ := set $model "pools" (list (dict "name" $defaults.pool.name)) }}{{ end -}}
  {{- $simulated := true -}}
  {{- range $pool := $model.pools -}}
    {{- $_ := set $pool "name" ($pool.name | default $defaults.pool.name) -}}
    {{- if ne ($pool.engine | default $defaults.pool.engine) "simulated" }}{{ $simulated = false }}{{ end -}}
    {{- $bounds := index $.Values.pools $pool.name | default dict -}}
    {{- $replicas := int ($pool.replicas | default $defaults.pool.replicas) -}}
    {{- $most := int ($bounds.maxReplicas | default $replicas) -}}
    {{- $least := int (hasKey $bounds "minReplicas" | ternary $bounds.minReplicas $replicas) -}}
    {{- if and (not $pool.scaling) (lt $least $most) -}}
      {{- /* A pool whose nodes may all vanish still wants one: requests do not wait for a cold start. */ -}}
      {{- $_ := set $pool "scaling" (dict "min_replicas" (max 1 $least) "max_replicas" $most) -}}
    {{- end -}}
    {{- if $pool.scaling }}{{ $scales = true }}{{ end -}}
  {{- end -}}
  {{- if and $.Values.weights.uri (ne ($model.source | default "") "tiny") (not $simulated) (not (hasPrefix "/" ($model.source | default ""))) -}}
    {{- $_ := set $model "source" ($several | ternary (print "/models/" $model.name) "/models") -}}
  {{- end -}}
{{- end -}}
{{- $scaling := $config.autoscaling | default dict -}}
{{- if and $scales (not (hasKey $scaling "enabled")) -}}
  {{- $_ := set $config "autoscaling" (mustMergeOverwrite (dict "enabled" true) $scaling) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end }}

{{/* Every pool with all that its pods need, as a list under `pools`. Refuses what does not fit. */}}
{{- define "trireme.pools" -}}
{{- $defaults := include "trireme.defaults" . | fromJson -}}
{{- $contract := .Files.Get "node-contract.yaml" | fromYaml -}}
{{- $found := list -}}
{{- $names := list -}}
{{- $config := include "trireme.config" . | fromYaml -}}
{{- $scales := ($config.autoscaling | default dict).enabled -}}
{{- range $model := $config.models -}}
  {{- range $given := $model.pools -}}
    {{- $pool := mustMergeOverwrite (deepCopy $defaults.pool) $given -}}
    {{- $own := index $.Values.pools $pool.name | default dict -}}
    {{- $pods := mustMergeOverwrite (deepCopy $.Values.engine) (deepCopy $own) -}}
    {{- $size := int $pool.tensor_parallel_size -}}
    {{- $gpus := and (eq $pool.engine "vllm") (ne $pool.device "cpu") | ternary $size 0 -}}
    {{- if and (hasKey $own "gpus") (ne (int $own.gpus) $size) -}}
      {{- fail (printf "pools.%s.gpus: %d is not the pool's tensor_parallel_size (%d): write %d, or remove it" $pool.name (int $own.gpus) $size $size) -}}
    {{- end -}}
    {{- $replicas := int $pool.replicas -}}
    {{- $scaling := $pool.scaling | default (dict "min_replicas" $replicas "max_replicas" $replicas) -}}
    {{- if not $scales }}{{ $scaling = dict "min_replicas" $replicas "max_replicas" $replicas }}{{ end -}}
    {{- $least := int (hasKey $own "minReplicas" | ternary $own.minReplicas (hasKey $scaling "min_replicas" | ternary $scaling.min_replicas 1)) -}}
    {{- $most := int ($own.maxReplicas | default ($scaling.max_replicas | default 8)) -}}
    {{- if gt $least $most -}}
      {{- fail (printf "pools.%s.minReplicas: %d is more than its most (%d): lower it, or raise maxReplicas" $pool.name $least $most) -}}
    {{- end -}}
    {{- if or (gt $replicas $most) (lt $most (int ($scaling.max_replicas | default 8))) -}}
      {{- fail (printf "pools.%s.maxReplicas: %d pods are fewer than the replicas that config asks for: write %d or more" $pool.name $most (max $replicas (int ($scaling.max_replicas | default 8)))) -}}
    {{- end -}}
    {{- $tolerations := list -}}
    {{- if $pods.tolerations -}}
      {{- $tolerations = $pods.tolerations -}}
    {{- else if $gpus -}}
      {{- range concat $contract.taints.engine ($pods.interruptible | default false | ternary $contract.interruptible_taints list) -}}
        {{- $tolerations = append $tolerations (mustMergeOverwrite (dict "operator" "Equal") .) -}}
      {{- end -}}
    {{- end -}}
    {{- $names = append $names $pool.name -}}
    {{- $found = append $found (dict
        "name" $pool.name "model" $model.name "gpus" $gpus "replicas" (min $most (max $least $replicas)) "least" $least "most" $most
        "cpus" (ceil (max 1.0 (float64 $pool.num_cpus))) "drain" (ceil (float64 $pool.drain_timeout_s))
        "interruptible" ($pods.interruptible | default false) "gpuType" ($pool.gpu_type | default "")
        "resources" $pods.resources "sharedMemory" $pods.sharedMemory "nodeSelector" $pods.nodeSelector "tolerations" $tolerations "spread" $pods.spread) -}}
  {{- end -}}
{{- end -}}
{{- range $name, $_ := .Values.pools -}}
  {{- if not (has $name $names) -}}
    {{- fail (printf "pools.%s: config has no such pool; its pools are %s" $name (join ", " $names)) -}}
  {{- end -}}
{{- end -}}
{{- dict "pools" $found | toYaml -}}
{{- end }}

{{/* Seconds. A stream may last so long; so the gateway that carries it, and an old cluster, live as long. */}}
{{- define "trireme.longest" -}}
{{- $defaults := include "trireme.defaults" . | fromJson -}}
{{- ceil (float64 ((.Values.config.gateway | default dict).max_stream_s | default $defaults.gateway.max_stream_s)) | int -}}
{{- end }}

{{/* Serve keeps a leaving gateway reachable for 30 s first, and takes some to notice that it is done. */}}
{{- define "trireme.gatewayGrace" -}}
{{- add (include "trireme.longest" .) 90 -}}
{{- end }}

{{/* Whether models come over the network, by this chart's doing. */}}
{{- define "trireme.fetches" -}}
{{- $remote := false -}}
{{- if not (or .Values.weights.existingClaim .Values.weights.image) -}}
{{- range (include "trireme.config" . | fromYaml).models -}}
  {{- $source := .source | default "openai/gpt-oss-120b" -}}
  {{- $simulated := true -}}
  {{- range .pools }}{{ if ne (.engine | default "vllm") "simulated" }}{{ $simulated = false }}{{ end }}{{ end -}}
  {{- if not (or $simulated (eq $source "tiny") (and (hasPrefix "/" $source) (not $.Values.weights.uri))) }}{{ $remote = true }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if $remote }}yes{{ end -}}
{{- end }}

{{/* What no schema can say. Included first by rayservice.yaml. */}}
{{- define "trireme.check" -}}
{{- $contract := .Files.Get "node-contract.yaml" | fromYaml -}}
{{- if ne (int .Values.infrastructure.contractVersion) (int $contract.version) -}}
  {{- fail (printf "infrastructure.contractVersion: the values are for version %d of node-contract.yaml, this chart for %d: take the chart and terraform/ of one release" (int .Values.infrastructure.contractVersion) (int $contract.version)) -}}
{{- end -}}
{{- if gt (len (compact (list .Values.weights.uri .Values.weights.existingClaim .Values.weights.image))) 1 -}}
  {{- fail "weights: uri, existingClaim and image exclude each other: keep one" -}}
{{- end -}}
{{- if and .Values.redis.host (not .Values.redis.existingSecret) -}}
  {{- fail "redis.existingSecret: redis.host needs the secret with its password: create one and name it here" -}}
{{- end -}}
{{- if and .Values.redis.host (not .Values.faultTolerance.enabled) -}}
  {{- fail "redis.host: nothing would use it while faultTolerance.enabled is false: remove one of the two" -}}
{{- end -}}
{{- if and .Values.database.host (not .Values.database.existingSecret) -}}
  {{- fail "database.existingSecret: database.host needs the secret with its URL: create one and name it here" -}}
{{- end -}}
{{- if and (eq .Values.upgrade.strategy "NewClusterWithIncrementalUpgrade") (not .Values.upgrade.incremental.gatewayClassName) -}}
  {{- fail "upgrade.incremental.gatewayClassName: the incremental strategy needs the Gateway API: name a GatewayClass, or write upgrade.strategy: NewCluster" -}}
{{- end -}}
{{- $keys := include "trireme.keys" . -}}
{{- if and $keys (not .Values.database.host) -}}
  {{- fail "database.host: gateways know API keys from PostgreSQL: name one, or write config.access.mode: none for a trial that nobody else can reach" -}}
{{- end -}}
{{- if not (or $keys (.Values.config.gateway | default dict).insecure_listen_without_auth) -}}
  {{- fail "config.access.mode: with none, gateways would serve callers whom nobody has authenticated: write keys, or put an authenticating proxy (OIDC) in front and write config.gateway.insecure_listen_without_auth: true" -}}
{{- end -}}
{{- $admin := ne (kindOf (.Values.config.access | default dict).admin) "invalid" -}}
{{- if and $admin (not .Values.access.adminSecret) -}}
  {{- fail "access.adminSecret: config.access.admin needs the secret with the administrators' tokens: create one and name it here" -}}
{{- end -}}
{{- range $section, $secret := dict "gateway" .Values.gateway.tlsSecret "channel" .Values.channel.tlsSecret -}}
  {{- $own := index $.Values.config $section | default dict -}}
  {{- if and (ne (kindOf $own.tls) "invalid") (not $secret) -}}
    {{- fail (printf "%s.tlsSecret: config.%s.tls needs the secret with its files: create one and name it here, and leave the setting out" $section $section) -}}
  {{- end -}}
{{- end -}}
{{- if and .Values.gateway.contentLogClaim (not (.Values.config.content_log | default dict).enabled) -}}
  {{- fail "gateway.contentLogClaim: nothing would be written there: write config.content_log.enabled: true, or remove it" -}}
{{- end -}}
{{- if .Values.ingress.enabled -}}
  {{- range $key := list "host" "tlsSecret" -}}
    {{- if not (index $.Values.ingress $key) }}{{ fail (printf "ingress.%s: an ingress needs it: write it, or ingress.enabled: false" $key) }}{{ end -}}
  {{- end -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.gateway.name) -}}
  {{- fail "httpRoute.gateway.name: a route needs the Gateway that it joins: write its name" -}}
{{- end -}}
{{- range $way := list "ingress" "httpRoute" -}}
  {{- $it := index $.Values $way -}}
  {{- if and $it.enabled $.Values.networkPolicy.enabled (not $it.fromNamespace) -}}
    {{- fail (printf "%s.fromNamespace: the NetworkPolicy has to let its pods in: write their namespace" $way) -}}
  {{- end -}}
{{- end -}}
{{- end }}
