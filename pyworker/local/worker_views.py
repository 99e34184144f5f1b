"""A worker of the local autoscaler as JSON: for people, and for the client library."""

from __future__ import annotations

import time
from dataclasses import asdict

from pyworker.local.fleet import WorkerView


def overview(view: WorkerView, now: float) -> dict[str, object]:
    report = asdict(view.report)
    del report["mtoken"]
    return {
        "state": view.state,
        "seconds_since_report": round(now - view.last_seen, 1),
        "routed_since_report": view.routed_load,
        **report,
        "loadtime": view.loadtime,
    }


def sdk_view(view: WorkerView, now: float) -> dict[str, object]:
    """A worker with the field names of the client library; its times are epoch seconds."""
    report = view.report
    started = time.time() - (now - view.first_seen)
    return {
        "id": report.id,
        "status": view.state,
        "cur_load": report.cur_load,
        "new_load": report.new_load,
        "cur_load_rolling_avg": report.cur_load,
        "cur_perf": report.cur_perf,
        "perf": report.max_perf,
        "measured_perf": report.max_perf,
        "dlperf": 0.0,
        "reliability": 1.0,
        "reqs_working": report.num_requests_working,
        "disk_usage": report.disk_usage,
        "loaded_at": min(started + view.loadtime, time.time()) if view.loadtime else 0.0,
        "started_at": started,
    }
