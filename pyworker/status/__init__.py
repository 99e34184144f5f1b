"""What the worker does, for people and for Prometheus.

report  everything about the worker as one JSON object
views   the routes: /status, /metrics, /livez, /readyz, /startupz
"""
