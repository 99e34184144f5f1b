"""Clients: their connections, HTTP requests in, responses out. Knows nothing of the model server.

gunicorn_worker    gunicorn's threaded worker, around the event loop, the thread pool and the relays
event_loop         accepts, dispatches events, keeps deadlines; on the main thread
acceptor           listening sockets
loopback           the plain port for the model server on this machine
tls                the certificate, reloaded when its files change
connection         one client's connection, its stages, plain or TLS
connection_table   all connections: registered with epoll, limited, closed without a mix-up
room               limits for connections and for the memory of unfinished requests
ranking            which connection is closed to make room
framing            where a request ends
request_reader     requests as they arrive, until a thread can work on each
request            gunicorn's parser for one request
head_cache         header blocks seen before, which are not parsed again
response           gunicorn's response, with fewer system calls
response_writer    sends one response: on a thread of the pool, or parked in the relay
relay              streams that wait for the model server
"""
