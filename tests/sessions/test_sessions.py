"""Sessions by a clock of the test's own: their owners, their ends, their reports."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest

from pyworker.data_types import AuthData
from pyworker.errors import LimitReached, SessionClosed, TooManySessions, Unauthorized, UnknownSession
from pyworker.reporting.figures import Counts, Limits
from pyworker.reporting.journal import Journal
from pyworker.reporting.ledger import Ledger
from pyworker.reporting.tracker import Clock, Kind
from pyworker.reporting.wire import Identity, ModelFigures, Outcome, StatusReport
from pyworker.sessions.callbacks import Callbacks
from pyworker.sessions.store import Session, Sessions, Terms
from tests.support.model_calls import client_of
from tests.support.scripted import Act, ScriptedServer

AUTH = AuthData("c2lnbmF0dXJl", "http://203.0.113.7:40123", "echo", 7, 3, 42)
OTHER = dataclasses.replace(AUTH, request_idx=43)
IDENTITY = Identity(1, "token", AUTH.url)


class Setting:
    """Sessions, their ledger, and time that passes when the test says so."""

    def __init__(self, limit: int = 10) -> None:
        self.now = 1000.0
        self.wall = 1_700_000_000.0
        self.journal = Journal()
        self.ledger = Ledger(self.journal.append, Clock(lambda: self.now, lambda: self.wall))
        self.closed: list[Session] = []
        self.sessions = Sessions(self.ledger, limit, on_close=self.closed.append)

    def create(self, auth: AuthData = AUTH, lifetime: float = 60.0) -> Session:
        return self.sessions.create(auth, dataclasses.asdict(auth), Terms(lifetime))

    def report(self) -> StatusReport:
        return self.ledger.snapshot(IDENTITY, ModelFigures(1.0, ""), 1.0).report

    def records(self) -> list[tuple[int, str]]:
        return [(record.request_idx, record.status) for record in self.journal.oldest(100)]


@pytest.fixture
def setting() -> Setting:
    return Setting()


def test_an_open_session_is_one_request_in_hand_with_its_cost(setting: Setting) -> None:
    session = setting.create()

    report = setting.report()
    assert (report.num_requests_working, report.num_requests_recieved) == (1, 1)
    assert (report.cur_load, report.new_load, report.working_request_idxs) == (7, 7, [42])
    assert setting.records() == []

    setting.sessions.end(session.id, AUTH)
    report = setting.report()
    assert (report.num_requests_working, report.cur_load, report.cur_perf) == (0, 0, 7)
    assert setting.records() == [(42, "Success")]
    [record] = setting.journal.oldest(9)
    assert record.entered_queue_at == record.work_started_at == setting.wall


def test_requests_in_a_session_are_reported_as_load_only(setting: Setting) -> None:
    setting.create()
    tracker = setting.ledger.admit(AUTH, 100.0, Limits(), Kind.IN_SESSION)

    report = setting.report()
    assert (report.num_requests_working, report.working_request_idxs) == (1, [42])
    assert (report.cur_load, report.new_load, report.num_requests_recieved) == (107, 107, 1)
    tracker.end(Outcome.SUCCESS)
    report = setting.report()
    assert (report.cur_load, report.cur_perf) == (7, 100)
    assert setting.records() == [], "the index of a session is done with the session"
    assert setting.ledger.counts == Counts(received=2, served=1, in_hand=1)


def test_nobody_waits_for_an_idle_session(setting: Setting) -> None:
    setting.create()

    setting.ledger.admit(OTHER, 5.0, Limits(1, 0.0))
    with pytest.raises(LimitReached) as caught:
        setting.ledger.admit(OTHER, 5.0, Limits(1))

    assert (caught.value.load, caught.value.entries) == (5.0, 1)


def test_a_session_expires_one_lifetime_after_its_last_request(setting: Setting) -> None:
    session = setting.create(lifetime=10.0)
    assert setting.sessions.expiration(session) == setting.wall + 10
    for _ in range(3):
        setting.now += 9.0
        assert setting.sessions.extend(session.id, AUTH) is session.exchanges
        assert setting.sessions.extend(session.id, AUTH) is session.exchanges
        assert setting.sessions.expiration(session) == setting.wall + 10, "extensions add up"
    setting.now += 9.999
    assert setting.sessions.get(session.id, AUTH) is session
    setting.now += 0.001

    # At once, before any thread has looked.
    assert setting.sessions.extend(session.id, AUTH) is None
    with pytest.raises(UnknownSession):
        setting.sessions.get(session.id, AUTH)
    with pytest.raises(SessionClosed):
        setting.sessions.end(session.id, AUTH)
    assert setting.sessions.expire_once() is None
    assert setting.records() == [(42, "Success")]
    assert setting.closed == [session]


def test_asking_for_a_session_does_not_extend_it(setting: Setting) -> None:
    session = setting.create(lifetime=10.0)
    setting.now += 5.0
    setting.sessions.get(session.id, AUTH)
    assert setting.sessions.expire_once() == 5.0


def test_the_wall_clock_may_jump(setting: Setting) -> None:
    session = setting.create(lifetime=10.0)
    for jump in (3600.0, -7200.0):
        setting.wall += jump
        assert setting.sessions.get(session.id, AUTH) is session
        assert setting.sessions.expiration(session) == setting.wall + 10
    assert setting.sessions.expire_once() == 10.0


def test_the_next_expiry_is_the_earliest(setting: Setting) -> None:
    assert setting.sessions.expire_once() is None
    setting.create(lifetime=30.0)
    short = setting.create(OTHER, lifetime=5.0)
    assert setting.sessions.expire_once() == 5.0
    setting.now += 6.0
    assert setting.sessions.expire_once() == 24.0
    assert setting.closed == [short]


def test_only_its_own_auth_data_opens_a_session(setting: Setting) -> None:
    session = setting.create()
    wrong = [
        OTHER,
        dataclasses.replace(AUTH, signature="ä"),
        dataclasses.replace(AUTH, cost=8),
        dataclasses.replace(AUTH, url="http://203.0.113.7:1"),
    ]
    for auth in wrong:
        assert setting.sessions.extend(session.id, auth) is None
        with pytest.raises(Unauthorized):
            setting.sessions.get(session.id, auth)
        with pytest.raises(Unauthorized):
            setting.sessions.end(session.id, auth)
    with pytest.raises(Unauthorized):
        setting.sessions.end(session.id, None)
    # 7 and 7.0 are one number in JSON.
    assert setting.sessions.get(session.id, dataclasses.replace(AUTH, cost=7.0)) is session


def test_an_ended_session_is_told_from_one_that_never_was(setting: Setting) -> None:
    session = setting.create()
    setting.sessions.end(session.id, AUTH)

    with pytest.raises(SessionClosed):
        setting.sessions.end(session.id, AUTH)
    with pytest.raises(Unauthorized):
        setting.sessions.end(session.id, OTHER)
    with pytest.raises(UnknownSession):
        setting.sessions.end("never", AUTH)


def test_ended_sessions_are_not_remembered_without_bound(setting: Setting) -> None:
    first = setting.create()
    setting.sessions.end(first.id, AUTH)
    for _ in range(1000):
        setting.sessions.end(setting.create().id, AUTH)
    with pytest.raises(UnknownSession):
        setting.sessions.end(first.id, AUTH)


def test_as_many_sessions_as_there_may_be() -> None:
    setting = Setting(limit=2)
    session = setting.create()
    setting.create()
    with pytest.raises(TooManySessions) as caught:
        setting.create(OTHER)
    assert caught.value.body() == {"error": "too busy: 2 sessions are open already", "open_sessions": 2}
    assert setting.records() == [(43, "Rejected")]
    assert setting.report().rej_load == 7
    setting.sessions.end(session.id, AUTH)
    setting.create(OTHER)


def test_a_burst_cannot_slip_past_the_limit_together() -> None:
    setting = Setting(limit=5)

    def attempt(_: int) -> bool:
        try:
            setting.create()
        except TooManySessions:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(attempt, range(64))) == 5


def test_of_two_ends_at_once_one_wins(setting: Setting) -> None:
    for _ in range(50):
        session = setting.create()

        def end(_: int, session_id: str = session.id) -> bool:
            try:
                setting.sessions.end(session_id, AUTH)
            except SessionClosed:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(end, range(4))) == 1
    assert len(setting.closed) == 50


def test_the_end_of_the_worker_ends_every_session(setting: Setting) -> None:
    setting.create()
    setting.create(OTHER)
    setting.sessions.close_all()
    assert setting.records() == [(42, "Error"), (43, "Error")]
    assert len(setting.closed) == 2
    assert repr(setting.sessions) == "<Sessions [0 of 10 open]>"


def test_callbacks_that_are_left_without_time_are_given_up(
    setting: Setting, scripted_model: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    scripted_model.script("/own", Act.HANG)
    with client_of(scripted_model) as client, ScriptedServer() as other:
        other.script("/other", Act.HANG)
        callbacks = Callbacks(client, on_add=lambda: None)
        for route in (f"{other.url}/other", "/own"):
            session = setting.sessions.create(AUTH, {}, Terms(on_close_route=route))
            callbacks.add(session)
        callbacks.flush(seconds=0)
        callbacks.close()
    assert caplog.text.count("session callback: no response within") == 2


def test_ids_cannot_be_guessed_and_secrets_are_not_shown(setting: Setting) -> None:
    sessions = [setting.create() for _ in range(10)]
    assert len({session.id for session in sessions}) == 10
    assert all(len(session.id) >= 22 for session in sessions)
    shown = repr(sessions[0])
    assert sessions[0].id not in shown
    assert AUTH.signature not in shown


def test_a_session_of_the_first_form_opens_once_and_goes_on() -> None:
    # Its requests repeat one message, which the replay window would refuse: the session vouches for them.
    setting = Setting()
    first_form = dataclasses.replace(AUTH, request_idx=None)
    session = setting.create(first_form)
    for _ in range(3):
        assert setting.sessions.extend(session.id, first_form) is session.exchanges
