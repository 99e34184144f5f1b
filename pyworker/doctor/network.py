"""The port of the worker, the autoscaler and the model server."""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
import time
from email.utils import parsedate_to_datetime

import requests

from pyworker.config import Settings
from pyworker.doctor.finding import Examination, Finding, NotChecked, fail, ok, warn
from pyworker.errors import AutoscalerError
from pyworker.lifecycle.probe import HealthProbe
from pyworker.proxy.auth import SignatureVerifier
from pyworker.reporting.autoscaler_client import AutoscalerClient
from pyworker.runtime.redaction import redacted
from pyworker.runtime.timed_http import timed_session

_TIMEOUT = 3.0
MAX_SKEW = 60.0


def port(examination: Examination) -> Finding:
    """The worker can listen at its port, or does so already."""
    settings = examination.settings
    place = settings.bind
    try:
        _bind(settings)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return fail(f"cannot listen at {place} ({error.strerror})", "set WORKER_HOST or WORKER_PORT")
        if _answers_ping(settings):
            return ok(f"a worker is running at {place} and answers /ping")
        return fail(
            f"{place} is held by a program that does not respond to /ping like a worker",
            f"end it (ss -ltnp 'sport = :{settings.worker_port}' shows which), or set WORKER_PORT",
        )
    return ok(f"{place} is free; no worker is running there")


def _bind(settings: Settings) -> None:
    """Listen for a moment, with the same option as gunicorn."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        settings.worker_host, settings.worker_port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)


def _answers_ping(settings: Settings) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.worker_host, settings.worker_host)
    connection: http.client.HTTPConnection
    if settings.use_ssl:
        # The check of the certificate is another one.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(
            host, settings.worker_port, timeout=_TIMEOUT, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, settings.worker_port, timeout=_TIMEOUT)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().read(16) == b"pong"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def public_key(examination: Examination) -> Finding:
    """The autoscaler gives the key that signs requests."""
    settings = examination.settings
    if settings.unsecured:
        raise NotChecked("UNSECURED=true")
    problems = [problem for address in settings.report_addrs if (problem := _key_problem(address))]
    advice = "see whether REPORT_ADDR is right and the instance reaches it; requests get 503 without the key"
    if len(problems) == len(settings.report_addrs):
        return fail("; ".join(problems), advice)
    if problems:
        return warn(f"{'; '.join(problems)}; another address of REPORT_ADDR gives it", advice)
    return ok(f"{', '.join(map(redacted, settings.report_addrs))} gives it")


def _key_problem(address: str) -> str:
    """Empty if this address gives a key that the worker can use."""
    client = AutoscalerClient([address])
    verifier = SignatureVerifier(None, now=time.monotonic, on_stale_key=lambda: None)
    try:
        verifier.set_public_key(client.fetch_public_key())
    except AutoscalerError as error:
        return str(error)
    except (ValueError, IndexError, TypeError):
        return f"{redacted(address)}/pubkey/ is no PEM of an RSA key"
    finally:
        client.close()
    return ""


def clock(examination: Examination) -> Finding:
    """This clock and the autoscaler's agree; reports carry the time of day."""
    address = examination.settings.report_addrs[0]
    try:
        with timed_session() as session:
            limits = (_TIMEOUT, 2 * _TIMEOUT)
            response = session.get(f"{address}/pubkey/", timeout=limits, allow_redirects=False, stream=True)
        there = parsedate_to_datetime(response.headers["Date"]).timestamp()
    except requests.exceptions.RequestException:
        raise NotChecked(f"{redacted(address)} cannot be reached") from None
    except (KeyError, ValueError, TypeError):
        raise NotChecked(f"{redacted(address)} sends no time of day") from None
    skew = time.time() - there
    if abs(skew) > MAX_SKEW:
        word = "ahead of" if skew > 0 else "behind"
        return warn(f"{abs(skew):.0f} s {word} the autoscaler's", "set the host's clock, or ask its operator")
    return ok(f"within {max(abs(skew), 1):.0f} s of the autoscaler's")


def model_server(examination: Examination) -> Finding:
    """The model server accepts connections."""
    client = examination.backend.client
    problem = client.connection_problem()
    if problem:
        return fail(problem, "start it, or set MODEL_SERVER_URL; some listen only once the model is loaded")
    return ok(f"{redacted(client.base_url)} accepts connections")


def health(examination: Examination) -> Finding:
    """The model server's health endpoint responds 2xx."""
    backend = examination.backend
    if backend.health_url is None:
        return warn(
            "no health endpoint is configured, so an error line in the log takes a ready worker down",
            "set MODEL_HEALTH_ENDPOINT",
        )
    if backend.health_url.startswith(backend.client.base_url + "/"):
        examination.require("model server")
    settings = examination.settings
    probe = HealthProbe(backend.health_url, settings.model_api_key, ca_file=settings.model_ca_file)
    problem = probe.problem()
    if problem:
        advice = "look into the model's log, or set MODEL_HEALTH_ENDPOINT to a path that responds 2xx"
        return fail(problem, advice)
    return ok(f"{probe.name} is healthy")
