"""What happened to requests, in figures: nothing of their content, no key, no query string.

stopwatch   when a request reached which step
record      one request that ended or was refused
recorder    the last requests, and who is told of each
window      rates and percentiles of the last minute
metrics     counters and histograms for Prometheus
last_lines  the last lines of the logs, as they may be shown
"""
