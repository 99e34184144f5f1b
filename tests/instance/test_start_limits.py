"""Starts where the machine gives less than usual: few descriptors, IPv6 alone."""

from __future__ import annotations

import contextlib
import http.client
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.support.ports import free_port
from tests.support.stack import NewStack
from tests.support.waiting import wait_until


@pytest.mark.parametrize("limit", [1024, 256])
def test_a_worker_starts_and_serves_with_few_descriptors(new_stack: NewStack, limit: int) -> None:
    stack = new_stack()
    stack.worker.prefix = ("prlimit", f"--nofile={limit}:{limit}")
    stack.start_ready()
    connections = limit // 4
    assert (
        f"the limit of {limit} open files allows {connections} connections and {connections - 16} threads"
        in stack.worker.log
    )
    with contextlib.ExitStack() as idle:
        for _ in range(limit):  # more connections than there may be: each makes room by another's end
            idle.enter_context(socket.create_connection(("127.0.0.1", stack.worker.port), timeout=20))
        with ThreadPoolExecutor(4) as pool:
            answers = pool.map(partial(stack.post, "/pass"), map(str, range(60)))
        assert {answer.status for answer in answers} == {200}
    assert "Traceback" not in stack.worker.log
    assert len(stack.worker.children) == 1


def test_too_few_descriptors_are_refused_with_one_line(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.worker.prefix = ("prlimit", "--nofile=128:128")
    stack.worker.launch()
    assert stack.worker.wait() != 0
    [line] = stack.worker.log.splitlines()
    assert line.startswith("pyworker: the limit of open files is 128, which is too low: raise it to 132")


@pytest.mark.parametrize("host", ["::", "::1", "[::1]", "[::]"])
def test_an_address_of_ipv6_is_listened_at(new_stack: NewStack, host: str) -> None:
    stack = new_stack({"WORKER_HOST": host})
    stack.worker.say("echo model is loaded")
    stack.worker.launch()

    def answers() -> bool:
        assert stack.worker.is_alive, stack.worker.log
        connection = http.client.HTTPConnection("::1", stack.worker.port, timeout=20)
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().read() == b"pong"
        except OSError:
            return False
        finally:
            connection.close()

    wait_until(answers, "an answer over IPv6")
    if "1" not in host:
        assert stack.worker.answers_ping(), "and over IPv4, where it listens at every address"


def test_a_port_is_looked_at_where_ipv6_is_listened_at() -> None:
    """What start_server.sh does before it starts anything."""
    from pyworker.instance import ports

    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        for host in ("::1", "[::1]"):
            assert f"port {port} is taken by" in ports.fault_of(host, "WORKER_PORT", str(port), set())
    assert ports.fault_of("[::1]", "WORKER_PORT", str(free_port()), set()) == ""
