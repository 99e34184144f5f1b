"""Which worker follows from what listens and what is logged; and that nothing is ever guessed."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pyworker.config import Settings
from pyworker.discovery.fingerprints import Answer
from pyworker.discovery.log_evidence import USUAL_LOGS
from pyworker.discovery.survey import USUAL_PORTS, Survey, decide
from tests.discovery.engines import ROUTES, answer_as
from tests.support.ports import free_port
from tests.support.scripted import Act, ScriptedServer

LOCAL = "http://127.0.0.1:"
NOBODY = Answer(f"{LOCAL}1", {}, f"{LOCAL}1/v1/models cannot be reached")


def at(port: int, *workers: str) -> Answer:
    return Answer(f"{LOCAL}{port}", {worker: f"/x has the form of {worker}" for worker in workers})


def test_one_server_is_the_one() -> None:
    finding = decide([NOBODY, at(2, "tgi")], {})
    assert (finding.worker, finding.url) == ("tgi", f"{LOCAL}2")
    assert finding.reason == f"{LOCAL}2/x has the form of tgi"
    settings = Settings()
    assert finding.applied_to(settings) == replace(settings, model_server_url=f"{LOCAL}2")


@pytest.mark.parametrize(
    "answers", [[at(1, "vllm"), at(2, "comfyui")], [at(1, "vllm"), at(2, "vllm")], [at(1, "vllm", "tgi")]]
)
def test_two_are_not_chosen_between(answers: list[Answer]) -> None:
    finding = decide(answers, {})
    assert (finding.worker, finding.is_ambiguous) == (None, True)
    assert finding.reason.startswith("more than one may be meant: ")
    assert "set BACKEND to the worker, or MODEL_SERVER_URL" in finding.reason


def test_the_wrapper_stands_in_front_of_its_comfyui() -> None:
    assert decide([at(1, "comfyui"), at(2, "comfyui-json")], {}).worker == "comfyui-json"
    assert decide([at(1, "comfyui-json")], {"comfyui": "a log says it"}).worker == "comfyui-json"
    assert decide([at(1, "comfyui")], {}).worker == "comfyui"
    # It comes up after ComfyUI.
    for finding in (
        decide([at(1, "comfyui")], {}, wrapper_is_near=True),
        decide([at(1, "comfyui")], {"comfyui-json": "a log says it"}),
    ):
        assert (finding.worker, finding.is_ambiguous) == (None, True)
        assert "its wrapper has not answered yet" in finding.reason
    assert decide([at(1, "comfyui")], {}, given=True, wrapper_is_near=True).worker == "comfyui"
    assert decide([NOBODY], {"comfyui": "one", "comfyui-json": "two"}).worker == "comfyui-json"


@pytest.mark.parametrize("worker", ["vllm", "sglang", "llama"])
def test_a_log_says_which_of_the_openai_servers_it_is(worker: str) -> None:
    finding = decide([at(1, "openai")], {worker: "a log says it"})
    assert (finding.worker, finding.url) == (worker, f"{LOCAL}1")
    assert finding.reason == f"{LOCAL}1/x has the form of openai, and a log says it"


def test_a_log_of_another_server_is_a_contradiction() -> None:
    finding = decide([at(1, "comfyui")], {"vllm": "/var/log/vllm.log says 'Model loading took'"})
    assert (finding.worker, finding.is_ambiguous) == (None, True)
    assert "but /var/log/vllm.log says 'Model loading took'" in finding.reason
    assert decide([at(1, "openai")], {"vllm": "one", "sglang": "two"}).worker is None
    assert decide([at(1, "vllm")], {"comfyui": "a log says it"}).worker is None
    # Unless the server was named.
    assert decide([at(1, "tgi")], {"vllm": "a log says it"}, given=True).worker == "tgi"
    assert decide([at(1, "vllm")], {"vllm": "a log says it"}).worker == "vllm"


def test_a_log_speaks_for_a_server_that_does_not_listen() -> None:
    finding = decide([NOBODY], {"vllm": "a log says it"})
    assert (finding.worker, finding.url, finding.reason) == ("vllm", None, "a log says it")
    assert finding.applied_to(Settings()) == Settings()
    two = decide([NOBODY], {"vllm": "one", "tgi": "two"})
    assert (two.worker, two.is_ambiguous) == (None, True)


def test_nothing_is_waited_for() -> None:
    nothing = decide([NOBODY, replace(NOBODY, url=f"{LOCAL}3")], {})
    assert (nothing.worker, nothing.is_ambiguous) == (None, False)
    assert nothing.reason == f"nothing answers at {LOCAL}1, {LOCAL}3"
    # Something unrelated may listen on a usual port; not so at the URL that was given.
    stranger = Answer(f"{LOCAL}2", {})
    slow = Answer(f"{LOCAL}4", {}, "it is too slow to tell what it is")
    for answer, text in ((stranger, "not a server that is known"), (slow, "too slow")):
        assert not decide([NOBODY, answer], {}).is_ambiguous
        finding = decide([answer], {}, given=True)
        assert finding.is_ambiguous
        assert text in finding.reason


# -- real servers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("worker", ROUTES)
def test_a_server_on_one_of_the_ports_is_found(scripted_model: ScriptedServer, worker: str) -> None:
    answer_as(scripted_model, worker)
    finding = Survey(Settings(), ports=[free_port(), scripted_model.port], logs={}).look()
    assert (finding.worker, finding.url) == (worker, scripted_model.url)


def test_two_servers_at_once(scripted_model: ScriptedServer) -> None:
    with ScriptedServer() as other:
        answer_as(scripted_model, "vllm")
        answer_as(other, "tgi")
        ports = [scripted_model.port, other.port]
        assert Survey(Settings(), ports=ports, logs={}).look().is_ambiguous
        # The settings say which.
        chosen = Settings(model_server_url=other.url)
        assert Survey(chosen, ports=ports, logs={}).look().worker == "tgi"


def test_the_worker_itself_is_not_asked(scripted_model: ScriptedServer) -> None:
    answer_as(scripted_model, "vllm")
    settings = Settings(worker_port=scripted_model.port)
    assert Survey(settings, ports=[scripted_model.port], logs={}).look().worker is None
    assert scripted_model.requests() == []


def test_the_log_that_was_named_is_the_only_one(tmp_path: Path) -> None:
    usual, named = tmp_path / "usual.log", tmp_path / "named.log"
    usual.write_text("The server is fired up and ready to roll!\n")
    named.write_text("Model loading took 3 GiB\n")
    survey = Survey(Settings(model_log=named), ports=[], logs={"sglang": usual})
    assert survey.look().worker == "vllm"
    assert Survey(Settings(), ports=[], logs={"sglang": usual}).look().worker == "sglang"


def test_a_secret_of_the_url_is_not_told(scripted_model: ScriptedServer) -> None:
    answer_as(scripted_model, "vllm")
    url = scripted_model.url.replace("//", "//user:hunter2@")
    survey = Survey(Settings(model_server_url=url), logs={})
    finding = survey.look()
    assert (finding.worker, finding.url) == ("vllm", url)
    assert "hunter2" not in finding.reason + repr(survey)


def test_a_look_is_aborted(scripted_model: ScriptedServer) -> None:
    scripted_model.default = (Act.HANG,)
    survey = Survey(Settings(), ports=[scripted_model.port] * 10, logs={})
    looking = threading.Thread(target=survey.look)
    looking.start()
    scripted_model.request("/v1/models")
    began = time.monotonic()
    survey.close()
    looking.join()
    assert time.monotonic() - began < 1.5


def test_the_usual_places_are_those_of_the_readme() -> None:
    readme = (Path(__file__).parents[2] / "workers" / "auto" / "README.md").read_text("utf-8")
    assert all(str(port) in readme for port in USUAL_PORTS)
    assert set(USUAL_LOGS) <= set(ROUTES)
