"""Threads, the request queue, and limits that several wings share. Knows nothing of HTTP, but for
`timed_http`.

thread_pool      threads for requests, few of which run at the same time; `with waiting:`
services         background threads: a step function and the loop around it
request_queue    first-in-first-out admission to the model
nonblocking      send and recv that never block and hold the GIL
timed_http       requests, with one deadline for a whole HTTP call
budget           a limit for something that many share, such as memory
limits           sizes that several modules share
log_limit        log lines that may come in floods, or are not wanted
server_sent_events  events with JSON in them, written and read
urls             what a URL names
redaction        user and password removed from URLs
sample           the beginning and end of a response body
signals          the signals that a worker refuses
affinity         keeps a busy worker on one processor
allocator        settings of glibc's allocator
"""
