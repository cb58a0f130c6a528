"""Who asks for what and when: the clients of a simulated cluster."""

from autoscaling.simulator.workloads.settings import WorkloadSettings
from autoscaling.simulator.workloads.workload import Traffic, Workload

__all__ = ["Traffic", "Workload", "WorkloadSettings"]
