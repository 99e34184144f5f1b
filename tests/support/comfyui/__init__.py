"""A stand-in for ComfyUI 0.3.64: the same HTTP API, websocket events and log lines, without weights.

png     the bytes of real PNG files
nodes   the node types it knows, and what each computes
checks  the validation of a workflow, with ComfyUI's errors
runs    a prompt in the queue, and what its execution tells
engine  the queue, the cache, the history, and the thread that executes
sockets the websockets of clients
server  the HTTP routes
stack   a worker in front of it
"""
