"""BACKEND=auto: the worker that fits the model server found on this machine."""
