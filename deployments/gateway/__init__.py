"""The gateway: vLLM's OpenAI application over the fleet of engine replicas."""
