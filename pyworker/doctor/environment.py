"""Settings, identity and the worker package."""

from __future__ import annotations

from pyworker.config import Settings, own_environment
from pyworker.discovery.waiting import AUTO, choose
from pyworker.doctor.finding import Examination, Finding, fail, ok, warn
from pyworker.doctor.running import beside
from pyworker.errors import ConfigError
from pyworker.registry import load_worker
from pyworker.runtime.redaction import redacted

DEFAULT_WORKER = "hello_world"


def environment(examination: Examination) -> Finding:
    """Every variable has a valid value."""
    running = examination.running = beside(own_environment())
    try:
        settings = Settings.from_env() if running is None else running.settings()
    except ConfigError as error:
        return fail("; ".join(error.problems))
    examination.known_settings = settings
    whose = "of this shell, since no worker is known to run beside it"
    if running is not None:
        whose = f"of the worker {running.worker} that runs here (process {running.pid})"
    chosen = settings.model_readiness
    readiness = "not set" if chosen is None else chosen.value
    return ok(f"every variable that is set is valid; MODEL_READINESS={readiness}; settings {whose}")


def identity(examination: Examination) -> Finding:
    """The worker can report, and check that a signature was made for it."""
    settings = examination.settings
    try:
        settings.require_identity()
    except ConfigError as error:
        return fail("; ".join(error.problems))
    if settings.unsecured:
        return warn("UNSECURED=true, so anybody may use this worker", "unset it on an instance")
    url = redacted(settings.public_url or "") or "a URL that is not known"
    found = f"instance {settings.container_id} at {url}"
    if not settings.check_url:
        found += "; CHECK_URL=false accepts a signature made for another worker"
        return warn(found, "unset it if the public URL is known")
    return ok(found)


def master_token(examination: Examination) -> Finding:
    """Reports carry the token that the autoscaler knows."""
    token = examination.settings.master_token
    if not token:
        advice = "set it if the autoscaler expects one; /pyworker/update is closed"
        return warn("MASTER_TOKEN is not set", advice)
    return ok(f"set, {len(token)} characters")


def worker(examination: Examination) -> Finding:
    """The worker package can be imported and describes its model server."""
    settings = examination.settings
    running = examination.running
    started = None if running is None else running.worker
    name = examination.worker or started or settings.backend or DEFAULT_WORKER
    try:
        if name == AUTO:
            name, settings = choose(settings)
        module = load_worker(name)
        backend = module.create_backend(settings)
        module.create_blueprint(backend)
    except ConfigError as error:
        return fail(str(error), "set BACKEND, or name one with -w")
    except Exception as error:  # noqa: BLE001 - it is foreign code, and whatever it raises is the finding
        return fail(f"{name} cannot be loaded: {type(error).__name__}: {error}", "mend its server.py")
    examination.known_backend = backend
    try:
        backend.require_readiness_source()
    except ConfigError as error:
        return fail(str(error))
    return ok(f"{name} in front of {redacted(backend.client.base_url)}, {len(backend.handlers) - 1} routes")
