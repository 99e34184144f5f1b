"""What our server offers an app beyond WSGI: keys of the environ. Absent under any other server."""

#: `pyworker.disconnect.Presence`: whether the client is still connected.
PRESENCE = "pyworker.presence"

#: A callable without arguments, for a request whose body has not arrived completely: it gives back its place
#: among the requests whose large bodies threads may wait for. Any number of times.
LEAVE_LINE = "pyworker.leave_line"

#: Where the app keeps what its request holds (an object with `fail()` and `close()`): the server calls
#: `close` at the end of the response, whatever happened, and the app calls `fail` if an error comes before
#: its first byte.
HELD = "pyworker.held"
