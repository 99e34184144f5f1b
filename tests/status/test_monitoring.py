"""Metrics as a real Prometheus gets them, and what pyworker/resources/monitoring makes of them."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import kubernetes_validate  # pyright: ignore[reportMissingTypeStubs]
import pytest
import yaml

from pyworker.config import Settings
from pyworker.errors import ModelTimeout, ModelUnreachable, RequestError
from pyworker.lifecycle.healthcheck import MAX_AGE, SharedHealth
from pyworker.lifecycle.probe import HealthProbe
from pyworker.local.signing import Signer
from pyworker.resources import resource_path
from pyworker.status.engine import engine_metrics
from tests.support.http import Answer, RawClient, ask, request_bytes
from tests.support.prometheus import Prometheus, own_address, promtool
from tests.support.scripted import Act, ScriptedServer, chunk, head, whole
from tests.support.stack import MASTER_TOKEN
from tests.support.waiting import wait_until
from tests.workers.conftest import OpenAIStack, openai_stack

MONITORING = resource_path("monitoring")
KEY = "sk-of-a-client"
CHAT = "/v1/chat/completions"
PAYLOAD = {"messages": [{"role": "user", "content": "a prompt"}], "max_tokens": 9}
TOKEN = {"Authorization": f"Bearer {MASTER_TOKEN}"}
JSON = "Content-Type: application/json"
#: Kubernetes knows containers that run beside the others, and end after them, from this version on.
OLDEST_KUBERNETES = "1.29"


def manifests() -> Mapping[str, Any]:
    """By their kinds."""
    documents = yaml.safe_load_all((MONITORING / "kubernetes.yaml").read_text("utf-8"))
    return {document["kind"]: document for document in documents}


def container(name: str = "worker") -> Mapping[str, Any]:
    spec = manifests()["Deployment"]["spec"]["template"]["spec"]
    [found] = [one for one in [*spec["initContainers"], *spec["containers"]] if one["name"] == name]
    return found


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, signing_key: Signer) -> Iterator[OpenAIStack]:
    """With the variables of the manifest, but for addresses and folders."""
    elsewhere = ("MODEL_SERVER_URL", "REPORT_ADDR", "PYWORKER_STATE_DIR")
    variables = {one["name"]: one["value"] for one in container()["env"] if one["name"] not in elsewhere}
    variables |= {
        "OPENAI_API_KEY_DIGESTS": hashlib.sha256(KEY.encode()).hexdigest(),
        "DOLLARS_PER_HOUR": "3.6",
        "WORKER_HOST": "0.0.0.0",
    }
    with openai_stack(tmp_path_factory.mktemp("monitored"), signing_key, variables, "vllm") as stack:
        yield stack


@pytest.fixture(scope="module")
def prometheus(worker: OpenAIStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    target = f"http://{own_address()}:{worker.worker.port}"
    with Prometheus(folder, target, MASTER_TOKEN, [MONITORING / "alerts.yaml"]) as running:
        yield running


def chat(worker: OpenAIStack, key: str = KEY, **fields: object) -> Answer:
    body = json.dumps({**PAYLOAD, **fields}).encode()
    return ask(
        worker.url, "POST", CHAT, body, {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    )


def stream(worker: OpenAIStack, words: int = 5) -> None:
    """A stream of so many tokens, and 7 of its prompt."""
    events: list[object] = [{"choices": [{"delta": {"content": "w"}}]}] * words
    usage: dict[str, object] = {
        "choices": [],
        "usage": {"prompt_tokens": 7, "completion_tokens": words},
    }
    told = [f"data: {json.dumps(event)}\n\n".encode() for event in [*events, usage]]
    pieces = map(chunk, [*told, b"data: [DONE]\n\n", b""])
    worker.model.once(CHAT, head("Content-Type: text/event-stream", "Transfer-Encoding: chunked"), *pieces)
    assert chat(worker, stream=True).status == 200


def samples(worker: OpenAIStack) -> Mapping[str, float]:
    """Every series of `/metrics` by its name and labels."""
    lines = ask(worker.url, "GET", "/metrics").body.decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[:1] != "#"}


def traffic(worker: OpenAIStack) -> None:
    """One of everything."""
    stream(worker)
    assert chat(worker).status == 200
    worker.model.once(CHAT, Act.RESET)
    assert chat(worker).status == 502
    worker.model.once(CHAT, whole(b"{}", JSON, status="429 Too Many Requests"))
    assert chat(worker).status == 429
    assert chat(worker, key="another").status == 401
    assert chat(worker, max_tokens="many").status == 422


# -- Prometheus ------------------------------------------------------------------------------------------


@pytest.mark.prometheus
def test_promtool_finds_nothing_wrong(worker: OpenAIStack) -> None:
    traffic(worker)
    promtool("check", "metrics", text=ask(worker.url, "GET", "/metrics").body)


@pytest.mark.prometheus
def test_a_prometheus_answers_questions_about_a_worker(worker: OpenAIStack, prometheus: Prometheus) -> None:
    wait_until(lambda: prometheus.value("up") == 1, "a scrape")
    before = samples(worker)

    def grown(series: str) -> float:
        return prometheus.value(series) - before.get(series, 0)

    traffic(worker)
    success = f'pyworker_requests_total{{outcome="Success",route="{CHAT}"}}'
    wait_until(lambda: grown(success) >= 2, "the requests")
    outcomes = {labels["outcome"]: count for labels, count in prometheus.query("pyworker_requests_total")}
    assert set(outcomes) >= {"Success", "Error", "Rejected"}
    assert grown("pyworker_generation_tokens_total") == 5
    assert grown("pyworker_prompt_tokens_total") == 7
    assert grown("pyworker_inter_token_latency_seconds_count") == 4
    for reason in ("unauthorized", "invalid", "model_busy"):
        assert grown(f'pyworker_requests_shed_total{{reason="{reason}"}}') == 1, reason
    assert grown('pyworker_requests_errors_total{reason="model_unreachable"}') == 1
    assert prometheus.value('pyworker_model_state{state="ready"}') == 1
    assert prometheus.value("pyworker_report_failures_total") == 0
    assert prometheus.value("process_resident_memory_bytes") > 2**20

    def quantile(metric: str) -> float:
        stream(worker)
        buckets = f"sum by (le) (rate(pyworker_{metric}_seconds_bucket[1m]))"
        return prometheus.value(f"histogram_quantile(0.5, {buckets})")

    for metric in ("e2e_request_latency", "time_to_first_token", "inter_token_latency"):
        wait_until(lambda metric=metric: math.isfinite(quantile(metric)), f"a quantile of {metric}")


@pytest.mark.prometheus
def test_every_panel_of_the_dashboard_has_something_to_show(
    worker: OpenAIStack, prometheus: Prometheus
) -> None:
    traffic(worker)
    names = {re.split(r"[{ ]", series)[0] for series in samples(worker)}
    wait_until(lambda: prometheus.value("up") == 1, "a scrape")
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            asked = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
            mentioned = set(re.findall(r"\b((?:pyworker|process)_\w+)\{", asked))
            assert mentioned, panel["title"]
            assert mentioned <= names, panel["title"]
            wait_until(lambda asked=asked: prometheus.query(asked), f"{panel['title']}: {asked}")


@pytest.mark.prometheus
def test_the_alerts_are_sound_and_silent(prometheus: Prometheus) -> None:
    promtool("check", "rules", MONITORING / "alerts.yaml")
    promtool("test", "rules", MONITORING / "alerts_test.yaml")
    [group] = prometheus.api("rules")["groups"]
    assert {rule["health"] for rule in group["rules"]} <= {"ok", "unknown"}
    tested = (MONITORING / "alerts_test.yaml").read_text("utf-8")
    for rule in group["rules"]:
        assert re.search(rf"alertname: {rule['name']}\n[^-]*exp_alerts", tested), (
            f"{rule['name']} never fires"
        )


def dashboard() -> Mapping[str, Any]:
    return json.loads((MONITORING / "dashboard.json").read_text("utf-8"))


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    found = dashboard()
    assert found["schemaVersion"] >= 36
    variables = {one["name"]: one for one in found["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    panels = found["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["type"] in ("timeseries", "stat"), panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


# -- what is counted -------------------------------------------------------------------------------------


def test_hostile_paths_make_no_series(worker: OpenAIStack) -> None:
    before = set(samples(worker))
    with RawClient(worker.url) as client:
        for number in range(50):
            for method in ("GET", "POST"):
                path = f"/{'x' * number}%22%7D{number}?key={number}"
                client.send(request_bytes(method, path, b"{}"))
                assert client.answer().status == 404
    assert set(samples(worker)) == before


def test_connections_are_told_by_their_stage(worker: OpenAIStack) -> None:
    with RawClient(worker.url) as idle, RawClient(worker.url) as half:
        idle.send(request_bytes("GET", "/ping", b""))
        assert idle.answer().status == 200
        half.send(b"GET /ping HTTP/1.1\r\n")

        def count(stage: str) -> float:
            return samples(worker)[f'pyworker_connections{{stage="{stage}"}}']

        wait_until(lambda: count("idle") >= 1 and count("head") >= 1, "both connections")
        assert count("working") >= 1, "that of the question itself"


def test_what_it_costs_is_told(worker: OpenAIStack) -> None:
    stream(worker)
    wait_until(lambda: samples(worker)["pyworker_generation_tokens_total"] >= 5, "its tokens")
    status = ask(worker.url, "GET", "/status").object()
    cost = status["cost"]
    assert cost["dollars_per_hour"] == 3.6
    assert cost["since_start"]["dollars"] > 0
    for period in ("last_minute", "since_start"):
        assert cost[period]["dollars_per_million_tokens"] > 0
        assert cost[period]["dollars_per_unit_of_workload"] > 0
        assert 0 < cost["idle_share"][period] <= 1
    found = samples(worker)
    assert found["pyworker_dollars_per_hour"] == 3.6
    # The time goes on between the two.
    told = cost["since_start"]["dollars_per_million_tokens"]
    assert found["pyworker_dollars_per_million_tokens"] == pytest.approx(told, rel=0.2)
    assert found["pyworker_busy_seconds_total"] > 0
    assert status["last_minute"]["generation_tokens_per_second"] > 0


# -- the model server's own ------------------------------------------------------------------------------


def model_metrics(worker: OpenAIStack) -> Answer:
    return ask(worker.url, "GET", "/metrics/model")


def test_the_metrics_of_the_model_server_are_passed_on(worker: OpenAIStack) -> None:
    text = b"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 3.0\n" * 20_000  # over 1 MiB
    openmetrics = "application/openmetrics-text; version=1.0.0"
    worker.model.script("/metrics", whole(text, f"Content-Type: {openmetrics}"))
    wait_until(lambda: model_metrics(worker).body == text, "the metrics")
    assert model_metrics(worker).header("Content-Type") == openmetrics
    worker.model.script("/metrics", whole(b"<script>", "Content-Type: text/html"))
    wait_until(lambda: model_metrics(worker).body == b"<script>", "another body")
    assert (model_metrics(worker).header("Content-Type") or "").startswith("text/plain")


@pytest.mark.parametrize(
    ("steps", "error", "said"),
    [
        ((whole(b"no", status="404 Not Found"),), ModelUnreachable, "answered 404"),
        ((Act.RESET,), ModelUnreachable, "cannot be reached"),
        ((whole(b"x" * 1001),), ModelUnreachable, "too long or incomplete"),
        ((head("Content-Length: 2"), Act.HANG), ModelUnreachable, "too long or incomplete"),
        ((Act.HANG,), ModelTimeout, "did not answer in 0.3 s"),
    ],
)
def test_a_model_server_without_metrics_is_named(
    scripted_model: ScriptedServer, steps: Sequence[Any], error: type[RequestError], said: str
) -> None:
    scripted_model.script("/metrics", *steps)
    shared = SharedHealth(HealthProbe(f"{scripted_model.url}/metrics", timeout=0.3, max_body=1000))
    with pytest.raises(error, match=said):
        engine_metrics(shared)
    shared.close()


def test_a_model_server_that_hangs_takes_no_threads(worker: OpenAIStack) -> None:
    worker.model.script("/metrics", Act.HANG)
    too_old = time.monotonic() + MAX_AGE
    wait_until(lambda: time.monotonic() > too_old, "what another test got to be too old")
    with ExitStack() as closing:
        clients = [closing.enter_context(RawClient(worker.url)) for _ in range(30)]
        for client in clients:
            client.send(request_bytes("GET", "/metrics/model", b""))
        worker.model.request("/metrics")
        assert chat(worker).status == 200
        answers = [client.answer() for client in clients]
    statuses = Counter(answer.status for answer in answers)
    # One that asks, eight that wait for its answer, and the others.
    assert statuses[504] == 9
    assert statuses[503] == 21
    [late] = {answer.object()["error"] for answer in answers if answer.status == 504}
    assert "/metrics did not answer in 5 s" in late


def test_figures_are_for_those_with_the_token(worker: OpenAIStack) -> None:
    address = own_address()
    if address == "127.0.0.1":
        pytest.skip("this machine has no address but that of loopback")
    url = f"http://{address}:{worker.worker.port}"
    for path in ("/metrics", "/metrics/model", "/status"):
        assert ask(url, "GET", path).status == 401
        assert ask(url, "GET", path, headers={"Authorization": f"Bearer {KEY}"}).status == 401
    assert ask(url, "GET", "/metrics", headers=TOKEN).status == 200


# -- Kubernetes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, kubernetes_validate.latest_version()])
def test_the_manifest_is_valid(version: str) -> None:
    for kind, document in manifests().items():
        if kind != "ScaledObject":
            kubernetes_validate.validate(document, version, strict=True)


def test_the_scaled_object_has_the_fields_of_keda() -> None:
    """No package has the schema of its kind: https://keda.sh/docs/2.16/reference/scaledobject-spec/."""
    scaled = manifests()["ScaledObject"]
    spec = scaled["spec"]
    assert scaled["apiVersion"] == "keda.sh/v1alpha1"
    assert spec["scaleTargetRef"] == {"name": manifests()["Deployment"]["metadata"]["name"]}
    known = {"scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval", "cooldownPeriod"}
    assert set(spec) == known | {"advanced", "triggers"}
    assert 0 < spec["minReplicaCount"] <= spec["maxReplicaCount"]
    [trigger] = spec["triggers"]
    assert trigger["type"] == "prometheus"
    assert set(trigger["metadata"]) == {"serverAddress", "query", "threshold"}
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "of-keda"},
        "spec": {
            "behavior": behavior,
            "maxReplicas": 1,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "pyworker"},
        },
    }
    kubernetes_validate.validate(autoscaler, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.prometheus
def test_what_keda_asks_for_is_a_number(worker: OpenAIStack, prometheus: Prometheus) -> None:
    [trigger] = manifests()["ScaledObject"]["spec"]["triggers"]
    wait_until(lambda: prometheus.value("up") == 1, "a scrape")
    assert prometheus.value(trigger["metadata"]["query"]) == 0


def test_the_worker_of_the_manifest_is_one(worker: OpenAIStack) -> None:
    """It runs with the manifest's variables: with a key it serves, without it does not."""
    env = {one["name"]: one["value"] for one in container()["env"]}
    secret = manifests()["Secret"]["stringData"]
    settings = Settings.from_env({**env, **secret, "PYWORKER_STATE_DIR": "/"})
    settings.require_identity()
    assert not settings.unsecured
    assert str(settings.worker_port) == str(container()["ports"][0]["containerPort"])
    assert chat(worker).status == 200
    assert chat(worker, key="another").status == 401
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert ask(worker.url, "GET", container()[probe]["httpGet"]["path"]).status == 200
    autoscaler = container("autoscaler")["command"]
    assert settings.report_addrs == (f"http://127.0.0.1:{autoscaler[autoscaler.index('--port') + 1]}",)


def test_a_pod_has_the_time_that_its_worker_takes() -> None:
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    env = {one["name"]: one["value"] for one in container()["env"]}
    [_, pause] = container()["lifecycle"]["preStop"]["exec"]["command"]
    # As `graceful_timeout` in gunicorn.conf.py.
    assert pod["terminationGracePeriodSeconds"] > float(pause) + float(env["DRAIN_TIMEOUT"]) + 10
    for name in ("model", "autoscaler"):
        assert container(name)["restartPolicy"] == "Always"
    assert container()["ports"][0]["name"] == manifests()["Service"]["spec"]["ports"][0]["targetPort"]


# -- documents -------------------------------------------------------------------------------------------


def test_every_metric_is_in_the_table(worker: OpenAIStack) -> None:
    traffic(worker)
    wait_until(lambda: samples(worker)['pyworker_requests_shed_total{reason="model_busy"}'], "a refusal")
    table = Path(MONITORING / "README.md").read_text("utf-8")
    documented = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    text = ask(worker.url, "GET", "/metrics").body.decode()
    types = cast("list[tuple[str, str]]", re.findall(r"^# TYPE pyworker_(\w+) (\w+)$", text, re.MULTILINE))
    assert {name for name, kind in types if kind == "counter" and not name.endswith("_total")} == set()
    assert {name for name, _ in types} == documented
