"""Engine replicas: a vLLM (or simulated) engine behind the token channel."""
