"""`python -m pyworker.check my_llm`: what a worker gets wrong, found by running it.

The worker runs under gunicorn, in front of a model server that fails in every way and beside an autoscaler
that keeps account of it.

finding    what was found, and what to do about it
subject    the routes of a worker, with an example of a request to each
contract   what its code says: workload, payloads, phrases of the log
behaviour  what it does: success, errors, cut and missing responses, clients that hang up
accounts   what the autoscaler should be told of each request, and whether it was
protocol   HTTP: HEAD, OPTIONS, paths and methods that it has not
run        all of it, in order
__main__   the command
"""
