"""The live pages over HTTP, with aiohttp: pages, pictures, and an event for every run that has changed.

Everything comes from run folders. A loop looks at them every POLL_SECONDS; pages are drawn by one thread of their own,
once for each change, and never by the event loop. Nothing can be changed from here: only GET and HEAD are answered, a
page may load nothing from elsewhere, and while the server listens on loopback only requests that name it so are
answered (else a foreign page could have its own name resolve to 127.0.0.1 and read along).
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

from cid_ray.results.live_page import Shown, run_page, runs_page

POLL_SECONDS = 2.0  # at most so often is a figure drawn
TICK_SECONDS = 30.0  # after which a page is made anew though nothing has changed: times go on
QUIET_SECONDS = 15.0  # between signs of life on an event stream
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),  # styles stand in every figure's SVG; scripts come from live.js alone
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Site:
    """`names`: what the Host header of a request may say; none: anything."""

    def __init__(self, runs: list[Shown], names: tuple[str, ...]):
        self.runs, self.names = {run.slug: run for run in runs}, names
        self.pages: dict[str, tuple[tuple[int, int], str]] = {}  # path -> what it was made from, and the page
        self.listeners: set[asyncio.Queue[str | None]] = set()
        self.drawer = ThreadPoolExecutor(1, "drawer")

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.guard])
        app.add_routes(
            [
                web.get("/", self.front),
                web.get("/run/{slug}", self.run),
                web.get("/run/{slug}/report", self.report),
                web.get("/run/{slug}/picture/{path:.+}", self.picture),
                web.get("/news", self.news, allow_head=False),
                web.get("/style.css", self.static("style.css", "text/css")),
                web.get("/live.js", self.static("live.js", "text/javascript")),
                web.get("/favicon.ico", self.no_icon),  # asked for by reports of before
            ]
        )
        app.cleanup_ctx.append(self.watching)
        app.on_shutdown.append(self.farewell)
        return app

    # ---- what all requests pass ----

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.headers.get("Host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if self.names and name.lower() not in self.names:
            raise web.HTTPForbidden(text=f"this dashboard answers to {', '.join(self.names)} only\n", headers=HEADERS)
        try:
            response = await handler(request)
        except web.HTTPException as refusal:
            refusal.headers.update(HEADERS)
            raise
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    def asked(self, request: web.Request) -> Shown:
        try:
            return self.runs[request.match_info["slug"]]
        except KeyError:
            raise web.HTTPNotFound(text="no such run\n") from None

    # ---- pages ----

    async def front(self, request: web.Request) -> web.Response:
        everything = list(self.runs.values())
        if len(everything) == 1:
            return await self.page(request.path, lambda: run_page(everything[0], everything), everything)
        return await self.page(request.path, lambda: runs_page(everything), everything)

    async def run(self, request: web.Request) -> web.Response:
        run, everything = self.asked(request), list(self.runs.values())
        return await self.page(request.path, lambda: run_page(run, everything), [run])

    async def page(self, path: str, make: Callable[[], str], of: list[Shown]) -> web.Response:
        """A page as it was made last, unless its runs have changed since."""
        return web.Response(text=await self.in_thread(self.made, path, make, of), content_type="text/html")

    def made(self, path: str, make: Callable[[], str], of: list[Shown]) -> str:
        version = (sum(run.version for run in of), int(time.monotonic() / TICK_SECONDS))
        if self.pages.get(path, (None,))[0] != version:
            self.pages[path] = (version, make())
        return self.pages[path][1]

    async def in_thread(self, work: Callable[..., Any], *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.drawer, work, *given)

    async def report(self, request: web.Request) -> web.StreamResponse:
        run = self.asked(request)
        if not run.report:
            raise web.HTTPNotFound(text="the report is written when the search ends\n")
        return web.FileResponse(run.folder / "report" / "index.html")

    async def picture(self, request: web.Request) -> web.StreamResponse:
        """Only what the rows name, and what lies in the run's folder."""
        run, path = self.asked(request), request.match_info["path"]
        found = (run.folder / path).resolve()
        if path not in run.files or not found.is_relative_to(run.folder.resolve()) or not found.is_file():
            raise web.HTTPNotFound(text="no such picture\n")
        return web.FileResponse(found, headers={"Content-Type": "image/png"})

    async def no_icon(self, _: web.Request) -> web.Response:
        return web.Response(status=204)

    def static(self, name: str, kind: str) -> Handler:
        text = files("cid_ray.results").joinpath(name).read_text()

        async def answer(_: web.Request) -> web.Response:
            return web.Response(text=text, content_type=kind)

        return answer

    # ---- news ----

    async def news(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: `changed`, with the run's name."""
        stream = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        self.listeners.add(queue)
        try:
            await stream.prepare(request)
            await stream.write(b"retry: 2000\n\n")
            while True:
                try:
                    slug = await asyncio.wait_for(queue.get(), QUIET_SECONDS)
                except TimeoutError:
                    await stream.write(b": still here\n\n")
                    continue
                if slug is None:
                    break
                await stream.write(f"event: changed\ndata: {slug}\n\n".encode())
        except ConnectionError:
            pass
        finally:
            self.listeners.discard(queue)
        return stream

    def announce(self, slug: str | None) -> None:
        for queue in self.listeners:
            queue.put_nowait(slug)

    async def watching(self, _: web.Application) -> AsyncIterator[None]:
        await self.in_thread(lambda: [run.poll() for run in self.runs.values()])
        task = asyncio.create_task(self.watch())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        self.drawer.shutdown(wait=False, cancel_futures=True)

    async def watch(self) -> None:
        ticked = time.monotonic()
        while True:
            await asyncio.sleep(POLL_SECONDS)
            due = time.monotonic() - ticked > TICK_SECONDS
            ticked = time.monotonic() if due else ticked
            for run in self.runs.values():
                if await self.in_thread(run.poll):
                    run.version += 1
                    self.announce(run.slug)
                elif due:
                    self.announce(run.slug)

    async def farewell(self, _: web.Application) -> None:
        self.announce(None)


def serve(site: Site, listener: socket.socket) -> None:
    """Answer until Ctrl-C or SIGTERM."""
    web.run_app(site.app(), sock=listener, print=None, shutdown_timeout=1.0, access_log=None)
