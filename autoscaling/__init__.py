"""How many replicas, and what would happen if: signals, policy, and the simulator."""
