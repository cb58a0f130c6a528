"""Responses in the background at a gateway: how they look, and the runner that answers them."""
