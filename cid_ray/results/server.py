"""The live pages over HTTP with aiohttp: pages, images, and an event for every changed run.

Everything comes from run folders, which a loop polls. One thread renders the pages, once per
change, so that the event loop never waits for a figure. The server is read-only: it answers GET and
HEAD only, and its pages may load nothing from elsewhere. While it listens on loopback, it answers
only requests that name it so: else a foreign page could let its own name resolve to 127.0.0.1 and
read along (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any

from aiohttp import web

from cid_ray.results.listening import host_name
from cid_ray.results.live_page import REPORT_FILE, ServedRun, problem_page, run_page, runs_page
from cid_ray.storage import paths

POLL_INTERVAL_S = 2.0  # also the shortest time between two renderings
REFRESH_INTERVAL_S = 30.0  # an unchanged page is rendered again: its times have changed
KEEPALIVE_INTERVAL_S = 15.0  # between comments on an idle event stream
HEADERS = {
    "Cache-Control": "no-store",
    # unsafe-inline: every figure's SVG brings styles of its own. Scripts come from live.js only.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# The report is a file that somebody else may have written: it may not act as a page of this server.
REPORT_POLICY = "sandbox; " + HEADERS["Content-Security-Policy"]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PageVersion = tuple[int, int]  # changes of its runs, refresh interval


class Site:
    """The routes of the live pages.

    Args:
        runs: the runs to show.
        allowed_hosts: what the Host header of a request may name; empty allows any.
    """

    def __init__(self, runs: list[ServedRun], allowed_hosts: tuple[str, ...]):
        self.runs = {run.slug: run for run in runs}
        self.allowed_hosts = allowed_hosts
        self.pages: dict[str, tuple[PageVersion, str]] = {}  # path -> newest rendering
        self.listeners: set[asyncio.Queue[str | None]] = set()  # one per event stream
        self.render_pool = ThreadPoolExecutor(1, "render")

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.check_host])
        app.add_routes(
            [
                web.get("/", self.front),
                web.get("/run/{slug}", self.run),
                web.get("/run/{slug}/report", self.report),
                web.get("/run/{slug}/image/{path:.+}", self.image),
                web.get("/events", self.events, allow_head=False),
                web.get("/style.css", self.static("style.css", "text/css")),
                web.get("/live.js", self.static("live.js", "text/javascript")),
            ]
        )
        app.cleanup_ctx.append(self.polling)
        app.on_shutdown.append(self.on_shutdown)
        return app

    # ---- every request ----

    @web.middleware
    async def check_host(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        name = host_name(request.headers.get("Host", ""))
        if self.allowed_hosts and name not in self.allowed_hosts:
            text = f"this dashboard answers to {', '.join(self.allowed_hosts)} only\n"
            raise web.HTTPForbidden(text=text, headers=HEADERS)
        try:
            response = await handler(request)
        except web.HTTPException as refusal:
            refusal.headers.update(HEADERS)
            raise
        if not response.prepared:  # an event stream has sent its headers already
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
        return response

    def requested_run(self, request: web.Request) -> ServedRun:
        try:
            return self.runs[request.match_info["slug"]]
        except KeyError:
            raise web.HTTPNotFound(text="no such run\n") from None

    # ---- pages ----

    async def front(self, request: web.Request) -> web.Response:
        """The page of the run, or with several runs the page that compares them."""
        runs = list(self.runs.values())
        if len(runs) == 1:
            return await self.page(request.path, lambda: run_page(runs[0], runs), runs)
        return await self.page(request.path, lambda: runs_page(runs), runs)

    async def run(self, request: web.Request) -> web.StreamResponse:
        run = self.requested_run(request)
        if run.ladder:  # its report is its only page
            return await self.report(request)
        runs = list(self.runs.values())
        return await self.page(request.path, lambda: run_page(run, runs), [run])

    async def page(
        self, path: str, render: Callable[[], str], runs: list[ServedRun]
    ) -> web.Response:
        html = await self.in_render_thread(self.rendered, path, render, runs)
        return web.Response(text=html, content_type="text/html")

    def rendered(self, path: str, render: Callable[[], str], runs: list[ServedRun]) -> str:
        """The newest rendering of a page, rendered again if one of its runs has changed since."""
        changes = sum(run.version for run in runs)
        version = (changes, int(time.monotonic() / REFRESH_INTERVAL_S))
        if path not in self.pages or self.pages[path][0] != version:
            try:
                html = render()
            except Exception as error:
                html = problem_page(path, error)
            self.pages[path] = (version, html)
        return self.pages[path][1]

    async def in_render_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.render_pool, function, *args)

    async def report(self, request: web.Request) -> web.StreamResponse:
        run = self.requested_run(request)
        file = paths.inside(run.folder, REPORT_FILE)
        if file is None:
            raise web.HTTPNotFound(text="the report is written at the end\n")
        return web.FileResponse(file, headers={"Content-Security-Policy": REPORT_POLICY})

    async def image(self, request: web.Request) -> web.StreamResponse:
        """An image that the run's records name and that is inside its folder."""
        run = self.requested_run(request)
        path = request.match_info["path"]
        file = paths.inside(run.folder, path)
        if path not in run.image_paths or file is None:
            raise web.HTTPNotFound(text="no such image\n")
        return web.FileResponse(file, headers={"Content-Type": "image/png"})

    def static(self, name: str, content_type: str) -> Handler:
        text = files("cid_ray.results").joinpath(name).read_text(encoding="utf-8")

        async def answer(_: web.Request) -> web.Response:
            return web.Response(text=text, content_type=content_type)

        return answer

    # ---- events ----

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: `changed`, with the slug of the run."""
        stream = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        self.listeners.add(queue)
        # a reader that closes its page ends the stream with a ConnectionError
        with contextlib.suppress(ConnectionError):
            try:
                await stream.prepare(request)
                await stream.write(b"retry: 2000\n\n")
                await _forward(queue, stream)
            finally:
                self.listeners.discard(queue)
        return stream

    def notify(self, slug: str | None) -> None:
        """Send a changed run to every event stream; None ends the streams."""
        for queue in self.listeners:
            queue.put_nowait(slug)

    async def polling(self, _: web.Application) -> AsyncIterator[None]:
        """Poll the run folders while the server runs."""
        await self.in_render_thread(lambda: [run.poll() for run in self.runs.values()])
        task = asyncio.create_task(self.poll())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        self.render_pool.shutdown(wait=False, cancel_futures=True)

    async def poll(self) -> None:
        refreshed = time.monotonic()
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            refresh_is_due = time.monotonic() - refreshed > REFRESH_INTERVAL_S
            if refresh_is_due:
                refreshed = time.monotonic()
            for run in self.runs.values():
                if await self.in_render_thread(run.poll):
                    run.version += 1
                    self.notify(run.slug)
                elif refresh_is_due:
                    self.notify(run.slug)

    async def on_shutdown(self, _: web.Application) -> None:
        self.notify(None)


async def _forward(queue: asyncio.Queue[str | None], stream: web.StreamResponse) -> None:
    """Write every slug of the queue to an event stream, until None."""
    while True:
        try:
            slug = await asyncio.wait_for(queue.get(), KEEPALIVE_INTERVAL_S)
        except TimeoutError:
            await stream.write(b": keep-alive\n\n")
            continue
        if slug is None:
            return
        await stream.write(f"event: changed\ndata: {slug}\n\n".encode())


def serve(site: Site, listener: socket.socket) -> None:
    """Answer requests until Ctrl-C or SIGTERM."""
    web.run_app(site.app(), sock=listener, print=None, shutdown_timeout=1.0, access_log=None)
