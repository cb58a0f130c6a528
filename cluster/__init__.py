"""The cluster room: configuration, errors, facts of models and GPUs, and how a cluster starts."""
