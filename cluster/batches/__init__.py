"""Batches: many requests in one file, answered in spare time, each exactly once."""
