"""Autoscaling in virtual time: days of load by the tick, policies to compare, and a clairvoyant."""
