"""The notice that a node will be taken, as a cloud gives for a spot machine.

Ray marks such a node as draining: it places nothing new there, and ends nothing either. A run whose
node drains writes a checkpoint after its current step and ends with `Preempted`. So no finished
step is lost, and the run is placed elsewhere while the node may still live. An autoscaler gets the
request for a new node before the old one is gone.

A thread asks Ray's control store every second, which takes less than a millisecond. Of several
workers only rank 0 asks, for the nodes of all: it writes the checkpoint, and a worker that ends
takes its group with it, so the workers need not agree on a step. `ray.train.get_preemption_info`
reads the same state, but is a barrier of all workers.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self

from cid_ray.resources import _ray_compat

POLL_INTERVAL_S = 1.0


@dataclass(frozen=True)
class Notice:
    """A node that will be taken.

    Attributes:
        node: Ray's id of it.
        deadline_ms: when, in Unix time; 0: not said.
    """

    node: str
    deadline_ms: int

    def __str__(self) -> str:
        if not self.deadline_ms:
            return f"node {self.node[:8]} will be taken"
        when = datetime.fromtimestamp(self.deadline_ms / 1000)
        return f"node {self.node[:8]} will be taken at {when:%H:%M:%S}"


class Preempted(Exception):
    """A run ended because a node of it will be taken.

    Args:
        notice: which node, and when.
        step: the step of the checkpoint that was written then; None: the run had not started.
    """

    def __init__(self, notice: Notice, step: int | None = None):
        super().__init__(notice, step)  # what pickle makes it from
        self.notice = notice
        self.step = step

    def __str__(self) -> str:
        saved = "" if self.step is None else f"; step {self.step} is in the checkpoint"
        return f"{self.notice}{saved}"


class PreemptionWatch:
    """Asks whether one of some nodes will be taken, from `with` to its end.

    Args:
        nodes: Ray's ids of them; none: nothing is asked, and Ray is not needed.
        draining_nodes: id -> deadline of each node that will be taken; None: asks Ray.
    """

    def __init__(
        self,
        nodes: Collection[str],
        draining_nodes: Callable[[], Mapping[str, int]] | None = None,
    ):
        self.nodes = nodes
        self.notice: Notice | None = None
        self._draining_nodes = draining_nodes or _ray_compat.draining_nodes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="preemption-watch", daemon=True)

    def __enter__(self) -> Self:
        if self.nodes:
            self._look()
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(POLL_INTERVAL_S)

    def _poll(self) -> None:
        while self.notice is None and not self._stop.wait(POLL_INTERVAL_S):
            self._look()

    def _look(self) -> None:
        try:
            draining = self._draining_nodes()
        except Exception:  # of any type, from a control store that restarts: asked again
            return
        for node in self.nodes:
            if node in draining:
                self.notice = Notice(node, draining[node])
                return


def own_node() -> frozenset[str]:
    """Ray's id of the node of this process; none where the process is not one of Ray's."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return frozenset()
    return frozenset([ray.get_runtime_context().get_node_id()])
