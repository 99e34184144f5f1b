"""The model server: a pool of connections, responses read as they arrive, calls that any thread can abort.

client           the pooled Session, and a client on it that forwards requests
adapter          the Session's transport adapter: the pool, and when a request is sent a second time
connection       one connection: sends a request, notices an early response
origin           connects to the model server, over TLS for `https://`; redirects into the instance
call             a call as any thread may abort it
response_reader  one response on a connection: header blocks, then the body
response_head    bytes of a header block → status, fields, framing
header_fields    which header fields of a response are passed on
response_body    the framings of a body: by its length, in chunks, until the connection ends
incoming         a buffer of received bytes
lazy_response    the response as handlers get it, its parts made on first use
tap              what may be put between a body and its reader
event_filter     leaves out events of a stream that the client must not get
encoding         payload → strict JSON, or a form
error_objects    error objects that come with status 200
faults           why a call failed, in words
"""
