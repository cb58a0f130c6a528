"""The token channel: one multiplexed connection for each (gateway, engine replica) pair."""
