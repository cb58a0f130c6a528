"""The command line: one module a command. ``main`` runs it."""

from cluster.cli.app import main

__all__ = ["main"]
