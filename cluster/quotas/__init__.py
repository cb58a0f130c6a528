"""Limits of tenants and keys: reserved before a request runs and settled when it has ended."""
