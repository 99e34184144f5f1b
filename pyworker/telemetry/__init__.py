"""What happened to requests, in figures: nothing of their content, no key, no query string.

stopwatch      when a request reached which step
trace          the trace that a request is part of
record         one request that ended or was refused
recorder       the last requests, and who is told of each
window         rates and percentiles of the last minute
idle           how much of the time nothing was in hand
causes         why requests were refused or failed, in short words
histogram      a histogram of plain numbers, and vLLM's buckets
metrics        counters and histograms for Prometheus
spans          the export of requests to OpenTelemetry
otel           requests as spans of OpenTelemetry
log_format     a line of the worker's log, as text or JSON
request_lines  one such line for each request
last_lines     the last lines of the logs, as they may be shown
"""
