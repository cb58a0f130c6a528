"""A tiny gpt-oss: a real vLLM CPU engine runs it, a script decides what it says.

This is test equipment and the embedded default on a machine without a GPU; it is no product code.
Scheduling, KV cache, sampling, structured output, Harmony parsing and tensor parallelism are vLLM's
own. Only the weights are random, so a logits processor
(`--logits-processors deployments.tiny_model.processor:HarmonyScript`) forces a well-formed Harmony
reply whose length follows the reasoning effort in the prompt.
"""

from deployments.tiny_model.weights import make_tiny_model

__all__ = ["make_tiny_model"]
