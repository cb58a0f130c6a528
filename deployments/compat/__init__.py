"""Every name of Ray Serve and vLLM that is not a promise of theirs, wrapped in one place each.

``tests/deployments/compat`` holds the contract: it says which of these names broke, not which of
our features.
"""
