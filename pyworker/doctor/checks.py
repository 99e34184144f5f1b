"""The checks, in the order in which they are made: what later ones need comes first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pyworker.doctor import certificate, environment, machine, model, network
from pyworker.doctor.finding import Check, Examination, Finding, Grade, NotChecked, fail
from pyworker.runtime.log_limit import silenced

CHECKS: Sequence[tuple[str, Check]] = (
    ("environment", environment.environment),
    ("identity", environment.identity),
    ("master token", environment.master_token),
    ("worker", environment.worker),
    ("port", network.port),
    ("certificate", certificate.certificate),
    ("public key", network.public_key),
    ("clock", network.clock),
    ("model server", network.model_server),
    ("health", network.health),
    ("model log", model.model_log),
    ("tokenizer", model.tokenizer),
    ("words", model.corpus),
    ("state folder", machine.state_folder),
    ("disk", machine.disk),
    ("descriptors", machine.descriptors),
)


def examine(worker: str | None) -> Iterator[tuple[str, Finding]]:
    """Make every check; each finding is yielded when it is made."""
    examination = Examination(worker)
    for name, check in CHECKS:
        # The findings say what the library would log.
        with silenced():
            finding = _guarded(check, examination)
        examination.findings[name] = finding
        yield name, finding
    if examination.known_backend is not None:
        examination.known_backend.client.close()


def _guarded(check: Check, examination: Examination) -> Finding:
    try:
        return check(examination)
    except NotChecked as reason:
        return Finding(Grade.SKIPPED, f"not checked, because {reason}")
    except Exception as error:  # noqa: BLE001 - one check that breaks must not hide the others
        return fail(f"this check broke: {type(error).__name__}: {error}", "please report it")
