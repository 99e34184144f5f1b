"""Runs a `worker.py` that was written for the public SDK: only its import line changes.

from pyworker.sdk import Worker, WorkerConfig, HandlerConfig, BenchmarkConfig, LogActionConfig

config       what a program says: the configuration classes, by the names and defaults that it knows
routes       checks a configuration, and makes a handler of each route
payload      payload classes made of parsers, workload functions and examples
bridge       the event loop on which the program's coroutines run
backend      the model server of such a program
serving      gunicorn in this process
worker       `Worker`, which a program makes and runs
"""

from __future__ import annotations

from pyworker.errors import JsonDataException as JsonDataException
from pyworker.sdk.config import BenchmarkConfig as BenchmarkConfig
from pyworker.sdk.config import HandlerConfig as HandlerConfig
from pyworker.sdk.config import LogActionConfig as LogActionConfig
from pyworker.sdk.config import WorkerConfig as WorkerConfig
from pyworker.sdk.worker import Worker as Worker
