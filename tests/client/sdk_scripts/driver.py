"""Runs under a Python that has the public SDK, and drives it as told: `driver.py URL API_KEY ENDPOINT`.

Orders are JSON lines on stdin, `{"id": n, "do": name, …}`; each is carried out on its own task, and what it
brings is said in JSON lines with the same `id` on stdout. Nothing of the SDK is changed or replaced. It has a
folder of its own, since a script's folder is where its imports are looked for first.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from typing import Any


class Driver:
    """One SDK client and the sessions that it has opened."""

    def __init__(self, client: Any, endpoint: Any) -> None:
        self._client = client
        self._endpoint = endpoint
        self._sessions: dict[str, Any] = {}

    async def carry_out(self, order: dict[str, Any]) -> None:
        """Say what the order brings; an exception of the SDK too."""
        number = order.pop("id")
        try:
            result = await getattr(self, "do_" + order.pop("do"))(number, **order)
        except Exception as error:  # noqa: BLE001
            result = {"raised": type(error).__name__, "message": str(error)}
        say(number, **result)

    async def do_request(self, number: int, route: str, payload: Any, **options: Any) -> dict[str, Any]:
        found = await self._endpoint.request(route, payload, **options)
        return await self._told(number, found)

    async def do_workers(self, _number: int) -> dict[str, Any]:
        return {"workers": [vars(worker) for worker in await self._endpoint.get_workers()]}

    async def do_refresh(self, _number: int) -> dict[str, Any]:
        await self._endpoint.refresh(block=True)
        return {"name": self._endpoint.name, "endpoint_id": self._endpoint.id}

    async def do_open_session(self, _number: int, **options: Any) -> dict[str, Any]:
        return self._keep(await self._endpoint.session(**options))

    async def do_get_session(self, _number: int, session: str, auth_data: Any = None) -> dict[str, Any]:
        auth_data = auth_data or self._sessions[session].auth_data
        return self._keep(await self._endpoint.get_session(session, auth_data))

    async def do_session_request(
        self, number: int, session: str, route: str, payload: Any, **options: Any
    ) -> dict[str, Any]:
        found = await self._sessions[session].request(route, payload, **options)
        return await self._told(number, found)

    async def do_is_open(self, _number: int, session: str) -> dict[str, Any]:
        return {"open": await self._sessions[session].is_open()}

    async def do_end_session(self, _number: int, session: str) -> dict[str, Any]:
        await self._endpoint.close_session(self._sessions[session])
        return {"ended": session}

    def _keep(self, session: Any) -> dict[str, Any]:
        self._sessions[session.session_id] = session
        names = ("session_id", "lifetime", "expiration", "url", "auth_data")
        return {name: getattr(session, name) for name in names}

    async def _told(self, number: int, found: dict[str, Any]) -> dict[str, Any]:
        if hasattr(found["response"], "__aiter__"):
            async for item in found["response"]:
                say(number, item=item)
            found["response"] = None
        return found


def say(number: int, **result: Any) -> None:
    """One line for the test."""
    sys.stdout.write(json.dumps({"id": number, **result}) + "\n")
    sys.stdout.flush()


async def main(url: str, api_key: str, endpoint_name: str) -> None:
    """Carry out orders until stdin ends."""
    serverless = importlib.import_module("vastai").Serverless
    serverless.SSL_CERT_URL = f"{url}/static/jvastai_root.cer"
    async with serverless(api_key=api_key, autoscaler_url=url, webserver_url=url) as client:
        try:
            endpoint = await client.get_endpoint(endpoint_name)
        except Exception as error:  # noqa: BLE001
            say(0, raised=type(error).__name__, message=str(error))
        else:
            say(0, ready=True)
            await obey(Driver(client, endpoint))


async def obey(driver: Driver) -> None:
    """Each order on a task of its own; those that still run in the end are given up."""
    lines = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(lines)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    tasks: set[asyncio.Task[None]] = set()
    while line := await lines.readline():
        task = asyncio.create_task(driver.carry_out(json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
