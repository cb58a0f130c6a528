"""Files and batches at a gateway: what callers ask for, and the runner that answers lines."""
