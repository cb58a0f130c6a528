"""Bare vLLM and Trireme beside each other at a real model's full size; README.md says how."""
