"""Signatures: both forms, this worker's URL, replays, and keys that change."""

from __future__ import annotations

import base64
import json
import string
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest
from Crypto.Hash import SHA1, SHA256
from Crypto.PublicKey import RSA
from Crypto.Signature import pkcs1_15, pss
from hypothesis import given, settings
from hypothesis import strategies as st

from pyworker.data_types import AuthData
from pyworker.errors import NotReady, Unauthorized
from pyworker.proxy.auth import (
    REPLAY_WINDOW,
    ReplayWindow,
    SignatureVerifier,
    current_message,
    first_message,
)
from pyworker.runtime.urls import origin

URL = "http://203.0.113.7:40123"
DEADLINE = 20  # seconds; only a failing test waits so long
NOT_MINE = "another worker"
USED = "used before, or its reqnum is too old"
WRONG = "does not verify"


@dataclass(frozen=True)
class Key:
    """One key pair of the autoscaler."""

    private: RSA.RsaKey

    @property
    def pem(self) -> str:
        return self.private.public_key().export_key().decode()

    def sign(self, message: str) -> str:
        return base64.b64encode(pkcs1_15.new(self.private).sign(SHA256.new(message.encode()))).decode()


@pytest.fixture(scope="module")
def key() -> Key:
    return Key(RSA.generate(1024))


@pytest.fixture(scope="module")
def other_key() -> Key:
    return Key(RSA.generate(1024))


class Bench:
    """A verifier whose clock and calls for a fresh key the test sees."""

    def __init__(self, key: Key | None, own_url: str | None = URL, *, unsecured: bool = False) -> None:
        self.time = 1000.0
        self.asked: list[float] = []
        self.verifier = SignatureVerifier(
            own_url,
            now=lambda: self.time,
            on_stale_key=lambda: self.asked.append(self.time),
            unsecured=unsecured,
        )
        if key is not None:
            self.verifier.set_public_key(key.pem)

    def refusal(self, auth_data: AuthData) -> str:
        """Empty if the request was let in."""
        try:
            self.verifier.verify(auth_data)
        except Unauthorized as error:
            return error.message
        return ""


def unsigned(**changes: object) -> AuthData:
    fields: dict[str, object] = {
        "signature": "",
        "url": URL,
        "endpoint": "my-endpoint",
        "cost": 100,
        "reqnum": 1,
        "request_idx": None,
        **changes,
    }
    return AuthData.from_json_msg(fields)


def first(key: Key, **changes: object) -> AuthData:
    """Signed as the autoscaler did at first, spelled out here and not by the code under test."""
    auth_data = unsigned(**changes)
    message = (
        "{\n"
        f'    "cost": {json.dumps(auth_data.cost)},\n'
        f'    "endpoint": {json.dumps(auth_data.endpoint)},\n'
        f'    "reqnum": {auth_data.reqnum},\n'
        f'    "url": {json.dumps(auth_data.url)}\n'
        "}"
    )
    return replace(auth_data, signature=key.sign(message))


def current(key: Key, **changes: object) -> AuthData:
    """Signed as the autoscaler does today."""
    auth_data = unsigned(**{"request_idx": 5, **changes})
    return replace(auth_data, signature=key.sign('{\n    "url": ' + json.dumps(auth_data.url) + "\n}"))


def test_the_signed_texts() -> None:
    auth_data = unsigned(cost=7, endpoint="größe", reqnum=3, url="http://a:1")

    assert current_message("http://a:1") == '{\n    "url": "http://a:1"\n}'
    assert first_message(auth_data) == (
        '{\n    "cost": 7,\n    "endpoint": "gr\\u00f6\\u00dfe",\n    "reqnum": 3,\n    "url": "http://a:1"\n}'
    )


def test_the_current_form_opens_the_worker_any_number_of_times(key: Key) -> None:
    bench = Bench(key)
    auth_data = current(key)

    for _ in range(3):
        assert bench.refusal(auth_data) == ""
    # Only the URL is signed: another request of the same session differs in everything else.
    assert bench.refusal(replace(auth_data, reqnum=9, cost=1.5, request_idx=8, endpoint="x")) == ""
    assert bench.refusal(replace(auth_data, request_idx=None)) == ""
    assert bench.asked == []


def test_the_first_form_opens_the_worker_once(key: Key) -> None:
    bench = Bench(key)
    auth_data = first(key)

    assert bench.refusal(auth_data) == ""
    assert USED in bench.refusal(auth_data)
    assert bench.asked == [], "a replay says nothing against the key"


def test_a_refusal_is_a_401(key: Key, other_key: Key) -> None:
    with pytest.raises(Unauthorized) as caught:
        Bench(key).verifier.verify(current(other_key))

    assert caught.value.status == 401
    assert caught.value.body() == {"error": "the signature does not verify"}


def test_the_first_form_may_come_with_a_request_idx_and_is_used_once_all_the_same(key: Key) -> None:
    bench = Bench(key)
    auth_data = replace(first(key), request_idx=1)

    assert bench.refusal(auth_data) == ""
    assert USED in bench.refusal(auth_data)
    assert USED in bench.refusal(replace(auth_data, request_idx=2))


@pytest.mark.parametrize("text", ["256.0", "007", "1e3"])
def test_a_cost_written_as_text_is_signed_as_that_text(key: Key, text: str) -> None:
    auth_data = unsigned(cost=text)
    fields = {"cost": text, "endpoint": "my-endpoint", "reqnum": 1, "url": URL}
    signed = replace(auth_data, signature=key.sign(json.dumps(fields, indent=4)))

    assert Bench(key).refusal(signed) == ""
    assert WRONG in Bench(key).refusal(replace(signed, cost=float(text)))


@pytest.mark.parametrize("field", ["cost", "endpoint", "reqnum"])
def test_every_field_of_the_first_form_is_signed(key: Key, field: str) -> None:
    changes: dict[str, AuthData] = {
        "cost": replace(first(key), cost=101),
        "endpoint": replace(first(key), endpoint="other"),
        "reqnum": replace(first(key), reqnum=2),
    }

    assert WRONG in Bench(key).refusal(changes[field])


@pytest.mark.parametrize(
    "names", [("url", "reqnum", "endpoint", "cost"), ("endpoint", "cost", "reqnum", "url")]
)
def test_another_order_of_the_keys_does_not_verify(key: Key, names: tuple[str, ...]) -> None:
    auth_data = unsigned()
    message = json.dumps({name: getattr(auth_data, name) for name in names}, indent=4)

    assert WRONG in Bench(key).refusal(replace(auth_data, signature=key.sign(message)))


@pytest.mark.parametrize("cost", [7, 7.0, 0, 0.0, 0.1, 1e15, 123456789012345, 1e-7])
def test_the_cost_is_signed_as_it_was_written(key: Key, cost: float) -> None:
    auth_data = first(key, cost=cost)

    assert type(auth_data.cost) is type(cost)
    assert Bench(key).refusal(auth_data) == ""
    as_other_type = float(cost) if isinstance(cost, int) else int(cost)
    assert WRONG in Bench(key).refusal(replace(auth_data, cost=as_other_type))


@pytest.mark.parametrize(
    ("own", "signed"),
    [
        (URL, URL),
        (URL, URL + "/"),
        (URL, URL + "/generate?x=1"),
        ("http://Worker.Example:80", "http://worker.EXAMPLE"),
        ("http://worker.example", "http://worker.example:80/"),
        ("https://worker.example", "https://worker.example:443"),
        ("https://worker.example:443", "HTTPS://worker.example."),
        ("http://[2001:DB8::7]:1", "http://[2001:db8::7]:1"),
    ],
)
def test_urls_of_this_worker(key: Key, own: str, signed: str) -> None:
    assert Bench(key, own).refusal(current(key, url=signed)) == ""
    assert Bench(key, own).refusal(first(key, url=signed)) == ""


@pytest.mark.parametrize(
    ("own", "signed"),
    [
        (URL, "http://203.0.113.7:40124"),
        (URL, "http://203.0.113.8:40123"),
        (URL, "https://203.0.113.7:40123"),
        (URL, "http://203.0.113.7"),
        (URL, "http://203.0.113.7:40123@evil.example:40123"),
        (URL, "http://203.0.113.7:40123.evil.example"),
        ("http://worker.example", "http://worker.example:0"),
        ("http://worker.example", "https://worker.example:80"),
        ("http://worker.example", "http://sub.worker.example"),
        (URL, ""),
        (URL, "203.0.113.7:40123"),
        (URL, "//203.0.113.7:40123"),
        (URL, "ftp://203.0.113.7:40123"),
        (URL, "http://"),
        (URL, "http://203.0.113.7:notaport"),
        (URL, "http://203.0.113.7:99999"),
        (URL, "http://[203.0.113.7:40123"),
        (URL, "\x00"),
        (URL, "http://203.0.113.7:-1"),
    ],
)
def test_urls_of_other_workers_and_none_at_all(key: Key, own: str, signed: str) -> None:
    bench = Bench(key, own)

    assert NOT_MINE in bench.refusal(current(key, url=signed))
    assert NOT_MINE in bench.refusal(first(key, url=signed))
    assert bench.asked == []


def test_a_worker_that_does_not_know_its_url_takes_any(key: Key) -> None:
    bench = Bench(key, None)

    assert bench.refusal(current(key, url="http://elsewhere:1")) == ""
    assert bench.refusal(current(key, url="")) == ""
    assert WRONG in bench.refusal(replace(current(key), signature=""))


@pytest.mark.parametrize("own", ["", "worker:1", "http://", "ftp://a", "http://a:99999"])
def test_an_own_url_that_compares_with_nothing_is_refused_at_the_start(key: Key, own: str) -> None:
    with pytest.raises(ValueError, match="is not an HTTP or HTTPS URL"):
        Bench(key, own)


@given(st.text() | st.builds("http://{}".format, st.text()))
def test_origin_takes_any_text(url: str) -> None:
    found = origin(url)

    if found is not None:
        scheme, host, port = found
        assert scheme in ("http", "https")
        assert host
        assert 0 <= port <= 65535


# -- replays ---------------------------------------------------------------------------------------------


def test_reqnums_around_the_edge_of_the_window(key: Key) -> None:
    bench = Bench(key)
    assert bench.refusal(first(key, reqnum=1000)) == ""

    assert bench.refusal(first(key, reqnum=900)) == "", "exactly 100 below is inside"
    assert USED in bench.refusal(first(key, reqnum=899))
    assert bench.refusal(first(key, reqnum=2000)) == ""
    assert USED in bench.refusal(first(key, reqnum=1000))
    assert bench.refusal(first(key, reqnum=1900)) == ""


def test_a_refused_reqnum_does_not_move_the_window(key: Key) -> None:
    bench = Bench(key)
    assert bench.refusal(first(key, reqnum=100)) == ""

    forged = replace(first(key, reqnum=100), reqnum=10**9)
    assert WRONG in bench.refusal(forged)
    assert bench.refusal(first(key, reqnum=50)) == ""


def test_messages_may_come_out_of_order_each_once() -> None:
    window = ReplayWindow()
    numbers = [(number * 37) % (REPLAY_WINDOW + 1) for number in range(REPLAY_WINDOW + 1)]

    assert sorted(numbers) == list(range(REPLAY_WINDOW + 1))
    assert [window.accept(number, str(number)) for number in numbers] == [True] * len(numbers)
    assert [window.accept(number, str(number)) for number in numbers] == [False] * len(numbers)
    assert window.accept(numbers[0], "another message with the same number")


def test_numbers_may_be_negative_and_huge() -> None:
    window = ReplayWindow()

    assert window.accept(-(2**63), "a")
    assert window.accept(2**63 - 1, "b")
    assert not window.accept(-(2**63), "c")


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from("ab")), max_size=80))
def test_the_window_follows_its_model(arrivals: list[tuple[int, str]]) -> None:
    window = ReplayWindow(width=5)
    accepted: set[tuple[int, str]] = set()

    for reqnum, message in arrivals:
        highest = max((number for number, _ in accepted), default=reqnum)
        expected = reqnum >= highest - 5 and (reqnum, message) not in accepted
        assert window.accept(reqnum, f"{reqnum}{message}") == expected
        if expected:
            accepted.add((reqnum, message))


def test_the_window_stays_small() -> None:
    window = ReplayWindow()
    for reqnum in range(1000):
        window.accept(reqnum, f"message {reqnum}")

    before = sys.getallocatedblocks()
    for reqnum in range(1000, 101_000):
        window.accept(reqnum, f"message {reqnum}")

    # An entry is some four blocks of memory: all of them would be 400,000.
    assert sys.getallocatedblocks() - before < 10_000
    assert repr(window) == f"<ReplayWindow highest=100999 [{REPLAY_WINDOW + 1} reqnums]>"


def test_only_one_of_many_threads_uses_a_message() -> None:
    window = ReplayWindow()
    barrier = threading.Barrier(8)

    def race() -> int:
        barrier.wait(DEADLINE)
        return sum(window.accept(reqnum, str(reqnum)) for reqnum in range(100))

    with ThreadPoolExecutor(8) as pool:
        accepted = [future.result(DEADLINE) for future in [pool.submit(race) for _ in range(8)]]

    assert sum(accepted) == 100


# -- keys ------------------------------------------------------------------------------------------------


def test_without_a_key_nothing_can_be_checked(key: Key) -> None:
    bench = Bench(None)

    with pytest.raises(NotReady) as caught:
        bench.verifier.verify(current(key))

    assert (caught.value.status, caught.value.retry_after) == (503, 5.0)
    assert not bench.verifier.has_key
    assert bench.asked == []
    bench.verifier.set_public_key(key.pem)
    assert bench.verifier.has_key
    assert bench.refusal(current(key)) == ""


def test_unsecured_lets_everything_in(key: Key) -> None:
    bench = Bench(None, unsecured=True)

    assert bench.verifier.has_key
    assert bench.refusal(unsigned(url="http://elsewhere:1", signature="nonsense")) == ""
    assert repr(bench.verifier).startswith("<SignatureVerifier unsecured ")


def test_a_bad_signature_asks_for_a_fresh_key_at_most_once_a_minute(key: Key, other_key: Key) -> None:
    bench = Bench(key)
    bad = current(other_key)

    for time in (1000.0, 1000.0, 1030.0, 1059.9, 1060.0, 1100.0, 1120.0, 5000.0):
        bench.time = time
        assert WRONG in bench.refusal(bad)

    assert bench.asked == [1000.0, 1060.0, 1120.0, 5000.0]


def test_the_callback_may_bring_the_key_itself(key: Key, other_key: Key) -> None:
    """It runs outside the lock, so that the key can be put in from there, and the next try is good."""
    verifiers: list[SignatureVerifier] = []
    verifier = SignatureVerifier(
        URL, now=lambda: 0.0, on_stale_key=lambda: put_in_from_another_thread(verifiers[0], other_key)
    )
    verifiers.append(verifier)
    verifier.set_public_key(key.pem)

    with pytest.raises(Unauthorized):
        verifier.verify(current(other_key))
    verifier.verify(current(other_key))


def put_in_from_another_thread(verifier: SignatureVerifier, key: Key) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(verifier.set_public_key, key.pem).result(DEADLINE)


def test_a_new_key_forgets_what_the_old_one_opened(key: Key, other_key: Key) -> None:
    bench = Bench(key)
    auth_data = current(key)
    assert bench.refusal(auth_data) == ""

    assert bench.verifier.set_public_key(key.pem) is False, "the same key again changes nothing"
    assert bench.refusal(auth_data) == ""
    assert bench.verifier.set_public_key(other_key.pem) is True
    assert WRONG in bench.refusal(auth_data)
    assert bench.refusal(current(other_key)) == ""


def test_a_new_key_does_not_forget_which_messages_were_used(key: Key, other_key: Key) -> None:
    bench = Bench(key)
    assert bench.refusal(first(key)) == ""
    bench.verifier.set_public_key(other_key.pem)

    assert USED in bench.refusal(first(other_key))


@pytest.mark.parametrize("pem", ["", "no key", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"])
def test_what_is_no_key_leaves_the_old_one(key: Key, pem: str) -> None:
    bench = Bench(key)

    with pytest.raises((ValueError, IndexError, TypeError)):
        bench.verifier.set_public_key(pem)

    assert bench.refusal(current(key)) == ""


# -- garbage ---------------------------------------------------------------------------------------------


def sha1(key: Key, message: str) -> bytes:
    return pkcs1_15.new(key.private).sign(SHA1.new(message.encode()))


def pss_padded(key: Key, message: str) -> bytes:
    digest: Any = SHA256.new(message.encode())  # the library's types disagree about a parameter's name
    return pss.new(key.private).sign(digest)


@pytest.mark.parametrize("sign", [sha1, pss_padded])
def test_other_schemes_do_not_verify(key: Key, sign: Callable[[Key, str], bytes]) -> None:
    signature = base64.b64encode(sign(key, current_message(URL))).decode()

    assert WRONG in Bench(key).refusal(unsigned(signature=signature))


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "=",
        "A",
        "AAAA",
        "!!!!",
        "ü" * 172,
        "\x00",
        base64.b64encode(b"\x00" * 128).decode(),
        base64.b64encode(b"\xff" * 128).decode(),
        base64.b64encode(b"\x00" * 127).decode(),
        base64.b64encode(b"\x01" * 4096).decode(),
        "A" * 1_000_000,
    ],
)
def test_garbage_does_not_verify(key: Key, signature: str) -> None:
    bench = Bench(key)

    assert WRONG in bench.refusal(unsigned(signature=signature))
    assert WRONG in bench.refusal(unsigned(signature=signature, request_idx=3))


def other_texts(signature: str) -> list[str]:
    """Texts that a lenient decoder reads as the same bytes."""
    last = signature.rstrip("=")[-1]
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    # Of the last character some bits are not used.
    twin = alphabet[alphabet.index(last) ^ 1]
    return [
        signature + "!" * 1_000_000,
        "\n".join([signature[:76], signature[76:]]),
        f" {signature}",
        signature.replace("=", "") + "====",
        signature.rstrip("=")[:-1] + twin + "=" * signature.count("="),
    ]


@pytest.mark.parametrize("number", range(5))
def test_there_is_one_text_for_each_signature(key: Key, number: int) -> None:
    bench = Bench(key)
    good = current(key)
    assert good.signature.endswith("="), "of a key of 1024 bits"
    changed = replace(good, signature=other_texts(good.signature)[number])

    assert base64.b64decode(changed.signature) == base64.b64decode(good.signature)
    assert WRONG in bench.refusal(changed)
    assert bench.refusal(good) == ""
    assert WRONG in bench.refusal(changed)


@settings(deadline=None, max_examples=50)
@given(
    st.text(alphabet=string.printable)
    | st.text()
    | st.binary().map(lambda raw: base64.b64encode(raw).decode())
)
def test_any_text_is_refused_and_nothing_else_happens(key: Key, signature: str) -> None:
    assert WRONG in Bench(key).refusal(unsigned(signature=signature))


def test_a_changed_bit_does_not_verify(key: Key) -> None:
    good = base64.b64decode(current(key).signature)
    for position in range(0, 8 * len(good), 97):
        changed = bytearray(good)
        changed[position // 8] ^= 1 << position % 8
        signature = base64.b64encode(changed).decode()
        assert WRONG in Bench(key).refusal(unsigned(signature=signature))


def test_the_signature_of_another_autoscaler_does_not_verify(key: Key, other_key: Key) -> None:
    assert WRONG in Bench(key).refusal(current(other_key))
    assert WRONG in Bench(key).refusal(first(other_key))


def test_a_signature_good_for_one_url_is_not_remembered_for_another(key: Key) -> None:
    bench = Bench(key, None)
    auth_data = current(key, url="http://a:1")

    assert bench.refusal(auth_data) == ""
    assert WRONG in bench.refusal(replace(auth_data, url="http://b:1"))


def test_repr_shows_the_state(key: Key) -> None:
    assert (
        repr(Bench(None).verifier)
        == "<SignatureVerifier without key <ReplayWindow highest=None [0 reqnums]>>"
    )
    assert repr(Bench(key).verifier) == "<SignatureVerifier with key <ReplayWindow highest=None [0 reqnums]>>"
