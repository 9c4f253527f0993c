"""One whole search on a cluster, event by event, in simulated seconds (simpy).

A slot is room for one trial on a node. It takes the next trial, works until a rung, waits for the
driver, and so on to the trial's end. The autoscaler orders nodes for trials that wait. A node that
has been idle for long is given back, and a spot node may be taken away: its trials continue
elsewhere from their last checkpoints.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from math import inf
from random import Random
from typing import Any

import simpy

from cid_ray.planning.fleet import Fleet, NodeGroup
from cid_ray.planning.outcome import Outcome, critical_path
from cid_ray.planning.simulated_search import SimulatedSearch, SimulatedTrial

Process = Generator[simpy.Event, Any, Any]


@dataclass(frozen=True)
class Overheads:
    """What is not training, in seconds. docs/scaling.md says where the defaults come from."""

    search_start_s: float = 15.0  # from the command to the first trial: imports, checks, Ray
    process_start_s: float = 9.5  # a trial in a new process: imports
    trial_start_s: float = 0.2  # a trial in a process that has run one
    driver_s: float = 0.01  # of the one driver process: a start, a rung, an end
    checkpoint_s: float = 0.0  # of every rung, on top of what it took in the recorded run
    checkpoint_every_s: float = inf  # between checkpoints, besides those at rungs
    report_s: float = 7.0  # from the last test to the command's exit
    autoscaler_s: float = 5.0  # from a trial that waits to the order of a node
    node_start_s: float = 180.0  # from the order to the node's first trial; it is paid
    idle_timeout_s: float = 300.0  # then a node without trials is given back
    node_loss_s: float = 13.0  # from a node's loss to its trials' return to the queue
    preemptions_per_hour: float = 0.0  # of one spot node
    deaths_per_hour: float = 0.0  # of one trial's process


class Node:
    """A node from its order to its end; it has slots once it runs."""

    def __init__(self, group: NodeGroup, always_on: bool):
        self.group = group
        self.always_on = always_on
        self.slots: list[Slot] = []
        self.paid_from: float | None = None  # None: the autoscaler has not ordered it yet
        self.idle_since = 0.0
        self.has_ended = False

    def is_idle(self) -> bool:
        return all(slot.trial is None for slot in self.slots)


class Slot:
    """Room for one trial on a node."""

    def __init__(self, node: Node, wake: simpy.Event):
        self.node = node
        self.wake = wake  # succeeds when there may be a trial for it
        self.process: simpy.Process | None = None
        self.trial: SimulatedTrial | None = None  # that runs now
        self.last: SimulatedTrial | None = None  # that ran before, in the same process
        self.idle_since = node.paid_from or 0.0


class Simulation:
    """One search on one cluster, to be run once."""

    def __init__(self, search: SimulatedSearch, fleet: Fleet, times: Overheads):
        self.search = search
        self.fleet = fleet
        self.times = times
        self.rng = Random(search.seed)
        self.env = simpy.Environment()
        self.driver_free_at = 0.0
        self.done = self.env.event()
        self.nodes: list[Node] = []
        self.n_running = 0
        self.result = Outcome()

    def run(self) -> Outcome:
        """Simulate the search to the end of its report."""
        for group in self.fleet.groups:
            for _ in range(group.always_on):
                self.nodes.append(Node(group, always_on=True))
                self.nodes[-1].paid_from = 0.0
        self.env.process(self.start_search())
        last = self.env.run(until=self.done)
        self.result.makespan_s = self.env.now + self.times.report_s
        for node in [node for node in self.nodes if not node.has_ended]:
            idle_until = max(node.idle_since, self.env.now) + self.times.idle_timeout_s
            self.end_node(node, self.result.makespan_s if node.always_on else idle_until)
        self.result.failed = self.search.n_lost
        times = self.times
        self.result.chain = critical_path(last, times.search_start_s, times.report_s)
        return self.result

    def start_search(self) -> Process:
        yield self.env.timeout(self.times.search_start_s)
        for node in self.nodes:
            self.open_slots(node)
        self.scale_up()

    # ---- trials ----

    def use_slot(self, slot: Slot) -> Process:
        """Run trial after trial; ends when the node is lost."""
        while True:
            trial = self.search.next_trial() if self.n_free() > 0 else None
            if trial is None:
                slot.wake = self.env.event()
                yield slot.wake
                if slot.node.has_ended:
                    return
                continue
            self.take(slot, trial)
            is_new = slot.last is None or trial.key is None  # tests run in processes of their own
            try:
                survived = yield from self.work(trial, is_new)
            except simpy.Interrupt:
                self.release(slot, trial)
                self.env.process(self.requeue(trial, self.times.node_loss_s))
                return
            self.release(slot, trial)
            slot.last = trial if survived else None
            if survived:
                self.finish(trial)
            else:
                self.env.process(self.requeue(trial, 0.0))

    def work(self, trial: SimulatedTrial, is_new: bool) -> Process:
        """A trial from its last checkpoint to its end; False when its process died before."""
        times = self.times
        left = inf
        if times.deaths_per_hour:
            left = self.rng.expovariate(times.deaths_per_hour / 3600)
        position = trial.saved
        work_started = self.env.now
        try:
            yield self.ask_driver()
            yield self.env.timeout(times.process_start_s if is_new else times.trial_start_s)
            for end in trial.ends:
                if end <= trial.saved:
                    continue
                work_started = self.env.now
                seconds = end + times.checkpoint_s - position
                if left < seconds:
                    yield self.env.timeout(left)
                    self.lose_work(trial, position + left)
                    return False
                yield self.env.timeout(seconds)
                left -= seconds
                position = trial.saved = end
                work_started = self.env.now
                yield self.ask_driver()
        except simpy.Interrupt:
            self.lose_work(trial, position + self.env.now - work_started)
            raise
        return True

    def lose_work(self, trial: SimulatedTrial, position: float) -> None:
        """The trial's process is gone at `position`: keep what its last checkpoint holds."""
        every = self.times.checkpoint_every_s
        if every < inf:
            trial.saved = max(trial.saved, position // every * every)
        self.result.lost_s += max(0.0, position - trial.saved)

    def ask_driver(self) -> simpy.Timeout:
        """One process writes records, tells studies and suggests, one event after the other."""
        self.driver_free_at = max(self.driver_free_at, self.env.now) + self.times.driver_s
        return self.env.timeout(self.driver_free_at - self.env.now)

    def n_free(self) -> float:
        """How many more may run: `search.max_concurrent_trials` is no limit for tests."""
        return inf if self.search.is_testing else self.fleet.max_concurrent - self.n_running

    def take(self, slot: Slot, trial: SimulatedTrial) -> None:
        now = self.env.now
        self.n_running += 1
        self.result.idle_s += now - slot.idle_since
        slot.trial = trial
        trial.started_s = now
        waited_for_slot = slot.last is not None and slot.last.ended_s >= trial.ready_s
        trial.started_after = slot.last if waited_for_slot else trial.ready_after

    def release(self, slot: Slot, trial: SimulatedTrial) -> None:
        now = self.env.now
        self.n_running -= 1
        self.result.busy_s += now - trial.started_s
        slot.trial = None
        slot.idle_since = slot.node.idle_since = now
        if slot.node.is_idle() and not slot.node.always_on:
            self.env.process(self.give_back(slot.node))

    def finish(self, trial: SimulatedTrial) -> None:
        if self.search.finish(trial, self.env.now):
            self.scale_up()
        if self.search.is_done():
            self.done.succeed(trial)

    def requeue(self, trial: SimulatedTrial, delay_s: float) -> Process:
        """A trial whose process or node was lost comes first, once its loss is noticed."""
        yield self.env.timeout(delay_s)
        if not self.search.retry(trial, self.env.now):
            self.finish(trial)
        self.scale_up()

    # ---- nodes ----

    def scale_up(self) -> None:
        """Wake idle slots for the trials that wait, and start nodes for those that find none."""
        waiting = min(self.search.n_ready(), self.n_free())
        alive = [node for node in self.nodes if not node.has_ended]
        for slot in [slot for node in alive for slot in node.slots if slot.trial is None]:
            if waiting > 0 and not slot.wake.triggered:
                slot.wake.succeed()
            waiting -= 1
        workers = self.fleet.workers
        own = [node for node in alive if node.group is workers]
        waiting -= sum(workers.slots for node in own if not node.slots)
        for _ in range(workers.max_nodes - len(own)):
            if waiting <= 0:
                break
            waiting -= workers.slots
            self.env.process(self.start_node(workers))

    def start_node(self, group: NodeGroup) -> Process:
        node = Node(group, always_on=False)
        self.nodes.append(node)
        yield self.env.timeout(self.times.autoscaler_s)
        node.paid_from = self.env.now
        yield self.env.timeout(self.times.node_start_s)
        node.idle_since = self.env.now
        self.open_slots(node)
        self.env.process(self.give_back(node))

    def open_slots(self, node: Node) -> None:
        for _ in range(node.group.slots):
            slot = Slot(node, self.env.event())
            node.slots.append(slot)
            slot.process = self.env.process(self.use_slot(slot))
        if node.group.spot and self.times.preemptions_per_hour:
            self.env.process(self.preempt(node))

    def give_back(self, node: Node) -> Process:
        """End a node that stays idle from now on until its timeout."""
        since = node.idle_since
        yield self.env.timeout(self.times.idle_timeout_s)
        if not node.has_ended and node.is_idle() and node.idle_since == since:
            self.end_node(node, self.env.now)

    def preemption_delay(self, node: Node) -> float:
        """Seconds until a spot node that has just started is taken away."""
        return self.rng.expovariate(self.times.preemptions_per_hour / 3600)

    def preempt(self, node: Node) -> Process:
        yield self.env.timeout(self.preemption_delay(node))
        if node.has_ended:
            return
        self.result.preemptions += 1
        for slot in node.slots:
            if slot.trial is not None and slot.process is not None:
                slot.process.interrupt()
        self.end_node(node, self.env.now)

    def end_node(self, node: Node, second: float) -> None:
        """The node is paid until `second`."""
        node.has_ended = True
        if node.paid_from is None:
            return
        paid_s = second - node.paid_from
        self.result.node_s[node.group] = self.result.node_s.get(node.group, 0.0) + paid_s
        idle = [slot.idle_since for slot in node.slots if slot.trial is None]
        if not node.slots:  # it never got as far as that
            idle = [node.paid_from] * node.group.slots
        self.result.idle_s += sum(second - since for since in idle)
