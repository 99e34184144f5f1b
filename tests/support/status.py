"""A status report as a ready worker would send it."""

from __future__ import annotations


def status_report(url: str, **changes: object) -> dict[str, object]:
    """The body of `/worker_status/`, with these fields changed."""
    fields: dict[str, object] = {
        "id": 1,
        "mtoken": "",
        "version": "1.1.0",
        "loadtime": 3.0,
        "new_load": 0.0,
        "cur_load": 0.0,
        "rej_load": 0.0,
        "cur_perf": 0.0,
        "max_perf": 50.0,
        "error_msg": "",
        "num_requests_working": 0,
        "num_requests_recieved": 0,
        "working_request_idxs": [],
        "disk_usage": 1.0,
        "additional_disk_usage": 0.0,
        "cur_capacity": 0,
        "max_capacity": 0,
        "url": url,
    }
    return fields | changes
