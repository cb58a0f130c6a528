"""Who may call the endpoint, as what, and how much: tenants, their keys and their limits."""
