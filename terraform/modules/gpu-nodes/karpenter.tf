locals {
  reservation_terms = var.reservation_id == null ? {} : { capacityReservationSelectorTerms = [{ id = var.reservation_id }] }

  karpenter_manifests = [
    {
      apiVersion = "karpenter.k8s.aws/v1"
      kind       = "EC2NodeClass"
      metadata   = { name = "${var.name}-${var.pool}" }
      spec = merge({
        amiSelectorTerms           = [{ alias = "al2023@latest" }]
        instanceProfile            = var.cluster.instance_profile
        subnetSelectorTerms        = [for id in var.subnet_ids : { id = id }]
        securityGroupSelectorTerms = [{ id = var.cluster.security_group_id }]
        instanceStorePolicy        = "RAID0"
        metadataOptions            = { httpEndpoint = "enabled", httpTokens = "required", httpPutResponseHopLimit = 1 }
        blockDeviceMappings = [{
          deviceName = "/dev/xvda"
          ebs        = { volumeType = "gp3", volumeSize = "${var.root_volume_gb}Gi", encrypted = true, deleteOnTermination = true }
        }]
        tags = local.tags
      }, local.reservation_terms)
    },
    {
      apiVersion = "karpenter.sh/v1"
      kind       = "NodePool"
      metadata   = { name = "${var.name}-${var.pool}" }
      spec = {
        template = {
          metadata = { labels = local.labels }
          spec = {
            nodeClassRef = { group = "karpenter.k8s.aws", kind = "EC2NodeClass", name = "${var.name}-${var.pool}" }
            taints       = local.taints
            requirements = [
              { key = "node.kubernetes.io/instance-type", operator = "In", values = [local.instance_type] },
              {
                key      = "karpenter.sh/capacity-type"
                operator = "In"
                values   = [{ on-demand = "on-demand", spot = "spot", reservation = "reserved", capacity-block = "reserved" }[var.capacity]]
              },
            ]
          }
        }
        limits = { (local.contract.gpu_resource) = tostring(local.max_nodes * local.facts_of_type.gpus) }
        # Replicas move only when their pods go; a node that carries streams is never merged away.
        disruption = { consolidationPolicy = "WhenEmpty", consolidateAfter = "10m" }
      }
    },
  ]
}
