"""The event loop on which a program's coroutines run, and the loopback port through which the worker calls
them as if they were a model server.

A response generator gets aiohttp's own request and response: the bridge sends the payload to the model server
with aiohttp's client, and serves what the generator returns with aiohttp's server. So the worker's path of a
request (signature, queue, figures, hang-up, drain) is the same for these routes as for all others.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
import inspect
import logging
import secrets
import socket
import ssl
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
from aiohttp import web

from pyworker.config import Settings
from pyworker.lifecycle import parallel
from pyworker.lifecycle.state import Cause, ModelLifecycle
from pyworker.runtime.services import Loop
from pyworker.sdk.routes import ResponseGenerator, Route

logger = logging.getLogger(__name__)

_THREAD = "pyworker-sdk"
# Seconds for handlers of requests that were aborted.
_CLOSE_SECONDS = 1.0
_CONNECT_SECONDS = 10.0
_EXIT_SECONDS = 5.0
# Remote functions of parallel routes at the same time.
_MOST_THREADS = 256


class Bridge:
    """Listens from the beginning; answers once its loop runs. `close` may be called from any thread.

    url, key: for the worker, which alone knows the key. The model server is at `model_url`.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        model_url: str,
        settings: Settings,
        lifecycle: AbstractAsyncContextManager[Any] | None,
    ) -> None:
        self._routes = [route for route in routes if route.is_bridged]
        self._model_url = model_url.rstrip("/")
        self._settings = settings
        self._lifecycle = lifecycle
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.close = weakref.finalize(self, self._socket.close)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.key = secrets.token_urlsafe(32)
        # Set by the loop's thread: what ends it.
        self._end: Callable[[], object] | None = None
        self._is_ended = False

    @property
    def paths(self) -> Sequence[str]:
        """The routes that it answers."""
        return [route.path for route in self._routes]

    def loop(self, model: ModelLifecycle) -> Loop:
        """The thread of the event loop. model: is told that the program's lifecycle was entered."""
        return Loop(_THREAD, lambda: asyncio.run(self._serve(model)), on_stop=self._stop, on_end=self.close)

    def _stop(self) -> None:
        self._is_ended = True
        if self._end is not None:
            with contextlib.suppress(RuntimeError):  # the event loop has ended
                self._end()

    # -- on the event loop -------------------------------------------------------------------------------

    async def _serve(self, model: ModelLifecycle) -> None:
        ended = asyncio.Event()
        self._end = functools.partial(asyncio.get_running_loop().call_soon_threadsafe, ended.set)
        if self._is_ended:
            return
        tls = ssl.create_default_context(cafile=str(file)) if (file := self._settings.model_ca_file) else True
        key = self._settings.model_api_key
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=_CONNECT_SECONDS, sock_read=self._settings.model_timeout
            ),
            # A request is never sent twice, so it never meets a connection that was closed meanwhile.
            connector=aiohttp.TCPConnector(limit=0, force_close=True, ssl=tls),
            headers={"Authorization": f"Bearer {key}"} if key else None,
        ) as session:
            calls = _Calls(self._model_url, session, self.key)
            app = web.Application(client_max_size=0)
            for route in self._routes:
                app.router.add_post(route.path, calls.handler(route))
            app.router.add_get("/healthcheck", calls.health)
            runner = web.AppRunner(
                app, handler_cancellation=True, access_log=None, shutdown_timeout=_CLOSE_SECONDS
            )
            await runner.setup()
            try:
                # A copy, since the site closes it, and the loop may have to start again.
                await web.SockSite(runner, self._socket.dup()).start()
                await self._live(model, calls, ended)
            finally:
                await runner.cleanup()

    async def _live(self, model: ModelLifecycle, calls: _Calls, ended: asyncio.Event) -> None:
        """Between start and end: within the program's lifecycle."""
        if self._lifecycle is None:
            calls.opened.set()
            await ended.wait()
            return
        entering = asyncio.ensure_future(self._lifecycle.__aenter__())
        ending = asyncio.ensure_future(ended.wait())
        await asyncio.wait([entering, ending], return_when=asyncio.FIRST_COMPLETED)
        if not entering.done():
            entering.cancel()
            await asyncio.wait([entering], timeout=_EXIT_SECONDS)
            return
        error = entering.exception()
        if error is not None:
            logger.error("the lifecycle could not be entered", exc_info=error)
            model.failed(Cause.LOG, f"the lifecycle could not be entered: {type(error).__name__}: {error}")
            await ending
            return
        calls.opened.set()
        model.loaded()
        await ending
        try:
            await asyncio.wait_for(self._lifecycle.__aexit__(None, None, None), _EXIT_SECONDS)
        except Exception:
            logger.exception("the lifecycle could not be left")

    def __repr__(self) -> str:
        return f"<Bridge {self.url} [{len(self._routes)} routes]>"


class _Calls:
    """The requests. Belongs to the event loop. key: what the worker sends as a bearer token."""

    def __init__(self, model_url: str, session: aiohttp.ClientSession, key: str) -> None:
        self._model_url = model_url
        self._session = session
        self._authorization = f"Bearer {key}".encode()
        #: Set once the program's lifecycle was entered.
        self.opened = asyncio.Event()
        # Of the remote functions that run on threads, which nothing can end.
        self._serial, self._parallel = asyncio.Semaphore(1), asyncio.Semaphore(_MOST_THREADS)

    def handler(self, route: Route) -> Callable[[web.Request], Any]:
        """The view of a route."""
        if route.generator is not None:
            answer = functools.partial(self._generated, route, route.generator)
        else:
            assert route.remote is not None
            answer = functools.partial(self._computed, route, route.remote)

        async def view(request: web.Request) -> web.StreamResponse:
            given = request.headers.get("Authorization", "").encode("utf-8", "replace")
            if not hmac.compare_digest(given, self._authorization):
                return _error(403, "this port is the worker's own")
            await self.opened.wait()
            try:
                return await answer(request)
            except aiohttp.ServerTimeoutError as error:
                return self._failed(request, route, error, 504, "the model server did not respond in time")
            except aiohttp.ClientConnectionError as error:
                return self._failed(request, route, error, 502, "the model server cannot be reached")
            except web.HTTPException:
                raise  # a response of the program's
            except Exception as error:
                logger.exception("%s failed", route.path)
                what = "response_generator" if route.generator is not None else "remote_function"
                return self._failed(request, route, error, 500, f"{what} raised {type(error).__name__}")

        return view

    async def health(self, _request: web.Request) -> web.Response:
        """Of functions that have no model server."""
        return web.json_response({"ok": self.opened.is_set()}, status=200 if self.opened.is_set() else 503)

    def _failed(
        self, request: web.Request, route: Route, error: Exception, status: int, reason: str
    ) -> web.StreamResponse:
        """The response for an error. Raises it if a response has begun, which cuts that visibly."""
        if request.writer.output_size:
            raise error
        return _error(status, f"{route.path}: {reason}")

    async def _generated(
        self, route: Route, generator: ResponseGenerator, request: web.Request
    ) -> web.StreamResponse:
        message = await request.json()
        url = self._model_url + route.model_path
        async with self._session.post(url, json=message["model"]) as model_response:
            made = await generator(request, model_response)
        if not isinstance(made, web.StreamResponse):
            raise TypeError(f"response_generator returned {type(made).__name__}, not a response of aiohttp")
        return made

    async def _computed(
        self, route: Route, function: Callable[..., Any], request: web.Request
    ) -> web.Response:
        message = await request.json()
        call = functools.partial(function, **message["model"])
        if inspect.iscoroutinefunction(function):
            result = await call()
        else:
            result = await self._on_a_thread(call, is_serial=not route.is_parallel)
            if inspect.isawaitable(result):
                result = await result
        return web.json_response({"result": result})

    async def _on_a_thread(self, call: Callable[[], Any], *, is_serial: bool) -> Any:
        """A call that a hang-up does not end: until it has ended, it keeps its place from others."""
        places = self._serial if is_serial else self._parallel
        await places.acquire()
        try:
            running = asyncio.wrap_future(parallel.start(call, f"{_THREAD}-call")[0])
        except RuntimeError:  # the system gives no more threads
            places.release()
            raise

        def ended(running: asyncio.Future[Any]) -> None:
            places.release()
            running.exception()  # told to whoever waits for it, if anybody still does

        running.add_done_callback(ended)
        return await asyncio.shield(running)


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)
