"""What runs in the cluster: gateways, the router, engine replicas, the channel between them."""
