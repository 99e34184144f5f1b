"""What the worker does, for people and for Prometheus.

report    everything about the worker as one JSON object
reasons   why the model is not ready, and why requests were refused
sections  what the page shows
live      the streams of those who watch the page
gauges    what /metrics tells of now
cost      dollars for what was done
engine    the metrics of the model server itself: /metrics/model
views     the routes: /status, /status/events, /metrics, /livez, /readyz, /startupz
"""
