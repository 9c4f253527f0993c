"""`python -m cid_ray.search.optuna_server JOURNAL PORT`: optuna-dashboard, for reading only.

By itself optuna-dashboard takes requests for any host name, also a DELETE that a foreign page
sends. The studies are the state of a search, so here it only reads, and only for loopback names.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from cid_ray.results.listening import LOOPBACK, allowed_hosts, host_name

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
READING = ("GET", "HEAD")


class QuietHandler(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """No line per request."""


def read_only(app: App) -> App:
    """The same WSGI application, without requests that write or that name a foreign host."""
    hosts = allowed_hosts(LOOPBACK)

    def checked(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        text = [("Content-Type", "text/plain; charset=utf-8")]
        if host_name(environ.get("HTTP_HOST", "")) not in hosts:
            start_response("403 Forbidden", text)
            return [f"this dashboard answers to {', '.join(hosts)} only\n".encode()]
        if environ["REQUEST_METHOD"] not in READING:
            start_response("405 Method Not Allowed", [*text, ("Allow", ", ".join(READING))])
            return [b"the studies of a search can only be read here\n"]
        return app(environ, start_response)

    return checked


def main(journal: str, port: str) -> None:
    import optuna_dashboard
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    app = optuna_dashboard.wsgi(JournalStorage(JournalFileBackend(journal)))
    with make_server(LOOPBACK, int(port), read_only(app), handler_class=QuietHandler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
