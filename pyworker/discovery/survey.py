"""All that listens and all that is logged, and which worker follows from it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pyworker.config import Settings
from pyworker.discovery.fingerprints import GENERIC, Answer, ask, new_probe
from pyworker.discovery.log_evidence import USUAL_LOGS, written_by
from pyworker.lifecycle.probe import HealthProbe
from pyworker.runtime.redaction import redacted

COMFYUI, WRAPPER = "comfyui", "comfyui-json"
#: Where the images of the service have their model servers.
USUAL_PORTS = (18000, 5001, 18188, 8188, 18288)
_HAVE_OPENAI_ROUTES = {"vllm", "sglang", "llama"}
_ADVICE = "set BACKEND to the worker, or MODEL_SERVER_URL to the server that is meant"


@dataclass(frozen=True)
class Finding:
    """The worker that fits, at a URL (None: the worker's own), and why; without one, what is in its way.

    is_ambiguous: there are signs of a model server, but not of exactly one.
    """

    worker: str | None
    reason: str
    url: str | None = None
    is_ambiguous: bool = False

    def applied_to(self, settings: Settings) -> Settings:
        """The settings of the worker."""
        return settings if self.url is None else replace(settings, model_server_url=self.url)


class Survey:
    """Looks at what listens and at what is logged. `look` is for one thread; any thread may call `close`."""

    def __init__(
        self,
        settings: Settings,
        *,
        ports: Sequence[int] = USUAL_PORTS,
        logs: Mapping[str, Path] = USUAL_LOGS,
    ) -> None:
        own = (settings.worker_port, settings.worker_http_port)
        chosen = settings.model_server_url
        #: Whether the URL of the model server was given: what answers there is the model server.
        self._is_given = chosen is not None
        usual = [f"http://127.0.0.1:{port}" for port in ports if port not in own]
        self._urls = usual if chosen is None else [chosen]
        self._logs = logs if settings.model_log is None else {"": settings.model_log}
        self._new_probe = new_probe(settings.model_api_key, settings.model_ca_file)
        # Guards _asked and _is_closed.
        self._lock = threading.Lock()
        self._asked: HealthProbe | None = None
        self._is_closed = False

    def look(self) -> Finding:
        """Everything once. Takes 5 s for each server that drips, less than a second usually."""
        answers = [ask(url, self._probe) for url in self._urls]
        told: dict[str, str] = {}
        for log in self._logs.values():
            told.update({worker: f"{log} says {line!r}" for worker, line in written_by(log).items()})
        return decide(answers, told, given=self._is_given, wrapper_is_near=self._wrapper_is_near())

    def close(self) -> None:
        """Abort `look`."""
        with self._lock:
            self._is_closed = True
            if self._asked is not None:
                self._asked.close()

    def _probe(self, url: str) -> HealthProbe:
        probe = self._new_probe(url)
        with self._lock:
            self._asked = probe
            if self._is_closed:
                probe.close()
        return probe

    def _wrapper_is_near(self) -> bool:
        """Whether this is an image that runs ComfyUI's wrapper, which may come up after ComfyUI."""
        log = self._logs.get(WRAPPER)
        return log is not None and log.exists()

    def __repr__(self) -> str:
        return f"<Survey of {', '.join(map(redacted, self._urls))}>"


def decide(
    answers: Sequence[Answer], told: Mapping[str, str], *, given: bool = False, wrapper_is_near: bool = False
) -> Finding:
    """What follows from what servers answer and logs say (by worker, the reason). Never a guess.

    given: the URL of the model server was given, so its answer counts whatever a log says.
    """
    found = [(worker, answer.url, why) for answer in answers for worker, why in answer.workers.items()]
    if any(worker == WRAPPER for worker, *_ in found):
        # It is in front of that ComfyUI.
        found = [one for one in found if one[0] != COMFYUI]
    if not found:
        return _by_logs(told, answers, given)
    reasons = [f"{redacted(url)}{why}" for _, url, why in found]
    if len(found) > 1:
        return Finding(
            None, f"more than one may be meant: {'; '.join(reasons)}. {_ADVICE}", is_ambiguous=True
        )
    [(worker, url, _)], [reason] = found, reasons
    if worker == COMFYUI and not given and (wrapper_is_near or WRAPPER in told):
        return Finding(None, f"{reason}; its wrapper has not answered yet", is_ambiguous=True)
    own = {WRAPPER, COMFYUI} if worker == WRAPPER else {worker}
    others = {} if given else {name: why for name, why in told.items() if name not in own}
    if worker == GENERIC and len(others) == 1 and others.keys() <= _HAVE_OPENAI_ROUTES:
        [(worker, why)] = others.items()
        return Finding(worker, f"{reason}, and {why}", url)
    if others:
        reason = f"{reason}, but {'; '.join(others.values())}. {_ADVICE}"
        return Finding(None, reason, is_ambiguous=True)
    return Finding(worker, reason, url)


def _by_logs(told: Mapping[str, str], answers: Sequence[Answer], given: bool) -> Finding:
    """Nothing that is known answers yet; a server that fails while it starts never does."""
    if WRAPPER in told:
        told = {worker: why for worker, why in told.items() if worker != COMFYUI}
    if len(told) == 1:
        [(worker, why)] = told.items()
        return Finding(worker, why)
    if told:
        return Finding(
            None, f"logs of more than one: {'; '.join(told.values())}. {_ADVICE}", is_ambiguous=True
        )
    heard = [f"{redacted(one.url)}: {one.trouble}" for one in answers if one.trouble and not _refused(one)]
    silent = ", ".join(redacted(one.url) for one in answers if _refused(one))
    unknown = [f"{redacted(one.url)}: not a server that is known" for one in answers if not one.trouble]
    reason = "; ".join([*heard, *unknown, *([f"nothing answers at {silent}"] if silent else [])])
    # On a usual port something unrelated may listen while the model server loads.
    is_ambiguous = given and bool(heard or unknown)
    return Finding(None, f"{reason}. {_ADVICE}" if is_ambiguous else reason, is_ambiguous=is_ambiguous)


def _refused(answer: Answer) -> bool:
    return answer.trouble.endswith("cannot be reached")
