"""What the worker does, for people and for Prometheus.

report   everything about the worker as one JSON object
reasons  why the model is not ready, and why requests were refused
views    the routes: /status, /metrics, /livez, /readyz, /startupz
"""
