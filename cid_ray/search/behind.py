"""A listener in a thread of its own: whatever it waits for, it holds up neither the search nor, for long, its end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from cid_ray.results.record import Row
from cid_ray.search.arms import Assignment
from cid_ray.search.watch import Listener

BACKLOG = 1000  # pieces of news; more progress than that is left out
CLOSE_SECONDS = 60.0  # for the rest of the news, at the end


class Behind:
    """Hands news on in their order. What the listener raises is raised here at the next news."""

    def __init__(self, name: str, make: Callable[[], Listener]):
        self.name = name
        self.news: queue.Queue[tuple[str, tuple[Any, ...]]] = queue.Queue()
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self.work, args=(make,), daemon=True, name=f"listener-{name}")
        self.thread.start()

    def work(self, make: Callable[[], Listener]) -> None:
        what = ""
        try:
            listener = make()
            while what != "close":
                what, news = self.news.get()
                getattr(listener, what)(*news)
                self.news.task_done()
        except Exception as error:
            self.error = error

    def tell(self, what: str, *news: Any) -> None:
        if self.error:
            raise self.error
        self.news.put((what, news))

    def begun(self, assignment: Assignment, resumed: bool) -> None:
        self.tell("begun", assignment, resumed)

    def row(self, row: Row) -> None:
        if row["event"] != "progress" or self.news.qsize() < BACKLOG:
            self.tell("row", row)

    def retried(self, name: str, reason: str, again: int) -> None:
        self.tell("retried", name, reason, again)

    def ended(self, name: str, how: str, reason: str) -> None:
        self.tell("ended", name, how, reason)

    def looked(self) -> None:
        self.tell("looked")

    def close(self) -> None:
        self.tell("close")
        self.thread.join(CLOSE_SECONDS)
        if self.error:
            raise self.error
        if self.thread.is_alive():
            raise TimeoutError(f"it did not answer for {CLOSE_SECONDS:g} s; a resume tells it what it lacks")
