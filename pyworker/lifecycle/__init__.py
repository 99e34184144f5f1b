"""The model behind the worker: whether it is loaded and healthy, and how fast it is.

state             the state machine, and what a log line causes in each state
phases            when the model entered which state
log_lines         bytes to lines, and the phrases in them
log_tail          follows the model's log through rotation and truncation
log_glance        what it has read so far
model_lines       which lines of it may be shown
log_events        what a matching line does to the worker
probe             one GET of the health endpoint
health            checks a model that should be serving
healthcheck       `/healthcheck`: one probe, shared among clients
suspicion         several failed requests in a row cause a check
parallel          an author's code on threads of its own
benchmark         measures the throughput
small_file        files that keep something over a restart
benchmark_subject what a benchmark measures
benchmark_file    keeps the result of the benchmark
old_lines         what the log said before the start, and whether it still counts
loaded_mark       remembers that the model is loaded, for a restarted worker
warm_up           from loaded to ready: `prepare`, benchmark, health
loading_watch     logs why a model is still loading
throughput_watch  warns if real requests are served far faster or slower than the benchmark's
"""
