"""A worker package of somebody else's, outside the repository, under gunicorn."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

from pyworker.local.model_server import ModelServer
from tests.support.http import ask, next_request_idx
from tests.support.process import ROOT
from tests.support.scripted import whole
from tests.support.stack import NewStack
from tests.support.waiting import wait_until

DATA_TYPES = """
    from __future__ import annotations

    from dataclasses import dataclass

    from pyworker.data_types import ApiPayload


    @dataclass
    class Question(ApiPayload):
        text: str
        times: int = 1

        @classmethod
        def for_test(cls) -> Question:
            return cls("what?")

        def count_workload(self) -> float:
            return float(self.times)

        def generate_payload_json(self) -> dict[str, object]:
            return {"inputs": [self.text] * self.times}
"""

SERVER = """
    from __future__ import annotations

    import flask
    import requests

    from my_company.workers.asking.data_types import Question
    from pyworker import responses
    from pyworker.backend import Backend
    from pyworker.config import Settings
    from pyworker.data_types import EndpointHandler, LogAction


    class AskHandler(EndpointHandler[Question]):
        @property
        def endpoint(self) -> str:
            return "/v1/ask.json"

        @classmethod
        def payload_cls(cls) -> type[Question]:
            return Question

        def make_benchmark_payload(self) -> Question:
            return Question("how fast?", times=5)

        def generate_client_response(
            self, client_request: flask.Request, model_response: requests.Response
        ) -> flask.Response:
            answer = responses.json_response(model_response)
            answer.headers["X-Asked-From"] = client_request.path
            return answer


    def create_backend(settings: Settings) -> Backend:
        return Backend(
            model_server_url="http://127.0.0.1:5001",
            model_log_file="/var/log/of-the-model.log",
            benchmark_handler=AskHandler(benchmark_runs=1),
            log_actions=[(LogAction.ModelLoaded, "answers from now on")],
            settings=settings,
        )


    def create_blueprint(backend: Backend) -> flask.Blueprint:
        blueprint = flask.Blueprint("asking", __name__)
        view = backend.create_handler(AskHandler())
        blueprint.add_url_rule("/ask", view_func=view, methods=["POST"])
        return blueprint
"""


def test_a_package_outside_the_repository_serves(tmp_path: Path, new_stack: NewStack) -> None:
    site = tmp_path / "site"
    package = site / "my_company" / "workers" / "asking"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    (package / "data_types.py").write_text(textwrap.dedent(DATA_TYPES))
    (package / "server.py").write_text(textwrap.dedent(SERVER))

    stack = new_stack(
        {"PYTHONPATH": f"{ROOT}{os.pathsep}{site}"},
        "pyworker:create_app('my_company.workers.asking')",
    )
    stack.model.script("/v1/ask.json", whole(b'{"answer": 42}', "Content-Type: application/json"))
    stack.worker.say("the model answers from now on")
    stack.worker.start()
    stack.wait_for_report(lambda report: report["max_perf"] > 0, "a report of a ready worker")
    # One to warm up, one to measure: this model takes one request at a time.
    assert [request.json() for request in stack.model.requests()] == [{"inputs": ["how fast?"] * 5}] * 2

    stack.model.once("/v1/ask.json", whole(b'{"answer": 43}', "Content-Type: application/json"))
    request_idx = next_request_idx()
    body = stack.envelope(request_idx=request_idx, text="why?", times=2)
    wait_until(lambda: "fetched the autoscaler's public key" in stack.worker.log, "the public key")
    response = ask(stack.url, "POST", "/ask", body)
    assert (response.status, response.object()) == (200, {"answer": 43})
    assert response.header("X-Asked-From") == "/ask"
    assert stack.model.requests()[-1].json() == {"inputs": ["why?"] * 2}
    assert stack.outcome(request_idx) == "Success"
    assert ask(stack.url, "POST", "/ask", stack.envelope()).object()["payload"] == {
        "text": "missing parameter"
    }


def test_hello_world_serves_beside_its_local_model(new_stack: NewStack, local_model: ModelServer) -> None:
    stack = new_stack(
        {
            "MODEL_SERVER_URL": local_model.url,
            "MODEL_HEALTH_ENDPOINT": "/healthcheck",
            # Nothing is fetched: the tokenizer that ships counts as well.
            "HF_HUB_OFFLINE": "1",
        },
        "pyworker:create_app('hello_world')",
    )
    stack.worker.say('{"message":"infer server has started on a port"}')
    stack.worker.start()
    stack.wait_for_report(lambda report: report["max_perf"] > 0, "a report of a ready worker", 60)
    stack.worker.wait_for_log("fetched the autoscaler's public key")
    request_idx = next_request_idx()
    response = ask(
        stack.url,
        "POST",
        "/generate",
        stack.envelope("a question", request_idx=request_idx, max_response_tokens=7),
    )
    assert response.status == 200
    assert response.object()["tokens"] == 7
    streamed = ask(stack.url, "POST", "/generate_stream", stack.envelope("a question", max_response_tokens=3))
    assert streamed.body.count(b"data: ") == 4
    assert streamed.body.endswith(b"data: [DONE]\n\n")
    assert stack.outcome(request_idx) == "Success"
    assert ask(stack.url, "GET", "/healthcheck").object() == {"status": "ok"}
