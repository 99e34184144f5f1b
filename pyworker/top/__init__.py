"""A worker, or the fleet of a local autoscaler, in a terminal: `python -m pyworker.top URL`.

stream         the server-sent events behind their page, over HTTP
fields         reads figures and texts out of them
words          numbers, durations and texts as they are shown
worker_screen  a worker
fleet_screen   a fleet
"""
