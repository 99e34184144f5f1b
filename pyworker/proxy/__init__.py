"""The path of one request: from the client's body to the last byte of its response.

pipeline    the steps in order: parse, authenticate, admit, queue, forward
body        reads bodies within limits; a large one must show its signature early
envelope    the body's parts: `auth_data`, payload, session id
auth        the autoscaler's signatures, and replays of them
exchange    what one request holds until its last byte, and how it is aborted
verdict     the model server's response → the outcome
disconnect  notifies requests whose client hung up
"""
