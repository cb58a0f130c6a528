"""Responses that are kept for their callers, and the conversations that they make up."""
