"""What the end-to-end tests share.

waiting      conditions with a deadline
http         a raw client socket, answers, envelopes
scripted     a model server whose answers a test writes byte by byte
process      a worker under gunicorn
stack        autoscaler, model server and worker together
timed_worker  a worker that stamps what it does, for the load test
leaks        threads and sockets that a test left behind
sdk          the public SDK in a process of its own
tls          certificates of workers
echo_worker  a worker package, written as an author would write it
"""
