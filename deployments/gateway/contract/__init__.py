"""The HTTP contract of the gateway: what callers may send, and what they get back.

Pure ASGI around vLLM's application. ``Door`` is the way in and out; everything else in this folder
is one of its rules.
"""

from deployments.gateway.contract.door import Door
from deployments.gateway.contract.limits import Limits

__all__ = ["Door", "Limits"]
