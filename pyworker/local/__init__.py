"""The embedded stack for development and tests: a local autoscaler and a stand-in model server."""
