"""For the tests of a worker: it is brought to ready in front of a model server that answers as it is told to.

    with running("my_llm") as kit:
        kit.model.answer("/v1/completions", whole({"choices": [{"text": "in and out"}]}))
        reply = kit.post("/v1/completions", {"prompt": "tide"})
        assert reply.status == 200
        assert kit.model.request("/v1/completions").json() == {"prompt": "tide"}
        assert kit.reported.outcome(reply.request_idx) == "Success"

The signatures are real, and so are the reports: an autoscaler of this package stands beside the worker. A
test needs no network. `running(…, live=True)` has the worker run under gunicorn in a process of its own.

answers   what the model server answers: whole, streamed, an error, cut, or nothing
model     the model server
calls     a request to a worker and its reply, with or without sockets
reported  what the worker has told the autoscaler
process   a worker under gunicorn
kit       all of it together
plugin    fixtures for pytest, if they are asked for; nothing else needs pytest
"""

from __future__ import annotations

from pyworker.testing.answers import Answer, cut, error, silent, stream, whole
from pyworker.testing.calls import OpenReply, Reply
from pyworker.testing.kit import Kit, WorkerNotReady, running
from pyworker.testing.model import ModelRequest, ModelServer
from pyworker.testing.reported import Reported

__all__ = [
    "Answer",
    "Kit",
    "ModelRequest",
    "ModelServer",
    "OpenReply",
    "Reply",
    "Reported",
    "WorkerNotReady",
    "cut",
    "error",
    "running",
    "silent",
    "stream",
    "whole",
]
