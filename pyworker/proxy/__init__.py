"""The path of one request: from the client's body to the last byte of its response.

pipeline    the steps in order: parse, authenticate, admit, queue, forward
route       a handler, and what is decided about its requests when the worker is made
target      where on the model server a request goes
reception   what a client has sent, once it is authenticated
body        reads bodies within limits; a large one must show its signature early
envelope    the body's parts: `auth_data`, payload, session id
door        clients with an API key, and errors in the shape that they expect
undeclared  says in the log which fields of clients a payload class leaves out
forms       multipart/form-data → text fields and files
auth        the autoscaler's signatures, and replays of them
direct      routes that pass on what the model server sends, past Flask's objects
admission   is the worker ready, and is the wait short enough?
exchange    what one request holds until its last byte, and how it is aborted
cancellation    tells the model server that the client of a request has gone
open_exchanges  exchanges that can be aborted together
history     what is recorded of one request
verdict     the model server's response → the outcome
disconnect  notifies requests whose client hung up
"""
