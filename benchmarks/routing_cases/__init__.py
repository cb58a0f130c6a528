"""What `benchmarks/routing.py` runs: scenarios, how they are measured, and one module a goal."""
