"""A worker made the short way."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from typing_extensions import Self

from pyworker.backend import Backend
from pyworker.config import Settings
from pyworker.data_types import EndpointHandler, NoPayload, OpenPayload
from pyworker.errors import ConfigError, JsonDataException
from pyworker.routes import Get, Post, worker


@dataclass
class Completion(OpenPayload):
    max_tokens: int | None = None

    @classmethod
    def for_test(cls) -> Self:
        return cls(16)

    def count_workload(self) -> float:
        return self.max_tokens or 256


BENCHMARK = {"prompt": "Tell me about the sea.", "max_tokens": 64}
COMPLETIONS = Post("/v1/completions", Completion, benchmark=BENCHMARK)


def backend_of(*routes: Post | Get) -> Backend:
    create_backend, _ = worker("http://127.0.0.1:1", *routes, health="/health", parallel=True)
    return create_backend(Settings())


def test_the_benchmark_sends_what_the_route_says() -> None:
    handler = backend_of(COMPLETIONS, Get("/v1/models")).benchmark_handler
    payload = handler.make_benchmark_payload()
    assert payload.generate_payload_json() == BENCHMARK
    assert payload.count_workload() == 64
    assert (handler.endpoint, handler.method) == ("/v1/completions", "POST")


def test_a_benchmark_may_be_made_anew_for_each_request() -> None:
    numbers = iter(range(1, 9))
    made = Post(
        "/v1/completions", Completion, benchmark=lambda: Completion(next(numbers)), runs=5, concurrency=2
    )
    handler = backend_of(made).benchmark_handler
    assert [handler.make_benchmark_payload().count_workload() for _ in range(3)] == [1, 2, 3]
    assert (handler.benchmark_runs, handler.concurrency) == (5, 2)


@pytest.mark.parametrize("routes", [[], [Get("/v1/models")], [Post("/a", Completion)], [COMPLETIONS] * 2])
def test_one_route_has_the_benchmark(routes: list[Post | Get]) -> None:
    with pytest.raises(ConfigError, match=r"routes have a benchmark: give one route"):
        worker("http://127.0.0.1:1", *routes)


def test_the_views_have_the_methods_of_their_routes() -> None:
    import flask

    create_backend, create_blueprint = worker("http://127.0.0.1:1", COMPLETIONS, Get("/v1/models"))
    app = flask.Flask(__name__)
    app.register_blueprint(create_blueprint(create_backend(Settings())))
    methods = {rule.rule: (rule.methods or set()) - {"HEAD", "OPTIONS"} for rule in app.url_map.iter_rules()}
    assert methods["/v1/completions"] == {"POST"}
    assert methods["/v1/models"] == {"GET"}


def test_an_open_payload_keeps_what_is_not_declared() -> None:
    sent = {"stop": None, "max_tokens": 5, "tools": [{"a": 1}], "n": 2}
    payload = Completion.from_json_msg(sent)
    assert payload.max_tokens == 5
    assert payload.generate_payload_json() == sent
    assert list(payload.generate_payload_json()) == list(sent)
    payload.max_tokens = 6
    assert payload.generate_payload_json() == {**sent, "max_tokens": 6}
    assert payload.sent == sent


def test_an_open_payload_checks_what_is_declared() -> None:
    with pytest.raises(JsonDataException) as caught:
        Completion.from_json_msg({"max_tokens": "5", "n": "x"})
    assert list(caught.value.json_msg) == ["max_tokens"]


def test_a_null_that_the_client_sent_stays_a_null() -> None:
    assert Completion.from_json_msg({"max_tokens": None}).generate_payload_json() == {"max_tokens": None}
    assert Completion().generate_payload_json() == {}
    assert Completion(3).generate_payload_json() == {"max_tokens": 3}


def test_a_get_has_no_workload() -> None:
    handler: EndpointHandler[NoPayload] = Get("/v1/models").handler()
    assert handler.make_benchmark_payload().count_workload() == 0
    assert NoPayload.for_test().generate_payload_json() == {}
