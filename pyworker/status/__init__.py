"""What the worker does, for people and for Prometheus.

report  everything about the worker as one JSON object
gauges  what /metrics tells of now
cost    dollars for what was done
engine  the metrics of the model server itself: /metrics/model
views   the routes: /status, /metrics, /livez, /readyz, /startupz
"""
