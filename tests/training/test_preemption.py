"""Law: before a node is taken its run ends, and no finished step is lost.

References: the number of the step at which the notice came, and the same training undisturbed.
The last tests use nodes of a real Ray cluster: `ray start` ends one at SIGTERM, as on Kubernetes,
and benchmarks/harness/preemption.py drains another.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cid_ray.config import Config, build_config
from cid_ray.resources import _ray_compat
from cid_ray.training import checkpoint, preemption
from cid_ray.training.loop import train
from cid_ray.training.mailbox import MAX_RESTARTS, Mailbox
from cid_ray.training.preemption import Notice, Preempted, PreemptionWatch, own_node
from cid_ray.training.run_spec import RunSpec
from cid_ray.training.trainer import Trainer
from tests.helpers.ports import wait_until
from tests.helpers.tiny_run import TINY

NODE = "2f14789e8e44"
DEADLINE_MS = 1_800_000_000_000


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preemption, "POLL_INTERVAL_S", 0.01)


@pytest.fixture
def draining(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What Ray says of draining nodes."""
    nodes: dict[str, int] = {}
    monkeypatch.setattr(_ray_compat, "draining_nodes", lambda: dict(nodes))
    return nodes


@pytest.fixture
def config(small_demo: Path) -> Config:
    changes = {"data.table": str(small_demo), "train.rungs": [1.0], "train.num_sample_images": 0}
    return build_config(TINY, changes)


def spec_of(config: Config, folder: Path, *nodes: str) -> RunSpec:
    return RunSpec(config, folder, score_test=False, nodes=frozenset(nodes))


# ---- the watch ----


def test_watch_tells_of_its_own_nodes_alone(draining: dict[str, int]) -> None:
    with PreemptionWatch([NODE]) as watch:
        draining["another"] = 0
        assert watch.notice is None
        draining[NODE] = DEADLINE_MS
        wait_until(lambda: watch.notice, 10)
        assert watch.notice == Notice(NODE, DEADLINE_MS)


def test_watch_survives_a_control_store_that_does_not_answer() -> None:
    answers: Iterator[Any] = iter([RuntimeError("unavailable"), {}, {NODE: 0}])

    def draining_nodes() -> dict[str, int]:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        found: dict[str, int] = answer
        return found

    with PreemptionWatch([NODE], draining_nodes) as watch:
        wait_until(lambda: watch.notice, 10)


def test_process_without_ray_asks_nothing() -> None:
    code = (
        "import sys; from cid_ray.training.preemption import PreemptionWatch, own_node\n"
        "with PreemptionWatch(own_node()) as watch: assert not watch.nodes and not watch.notice\n"
        "import threading; print(threading.active_count(), 'ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]


def test_preempted_keeps_node_and_step_when_pickled() -> None:
    error = pickle.loads(pickle.dumps(Preempted(Notice(NODE, 0), 7)))
    assert (error.notice.node, error.step) == (NODE, 7)
    assert str(error) == "node 2f14789e will be taken; step 7 is in the checkpoint"


# ---- the loop ----


def test_run_ends_after_its_step_with_a_checkpoint_and_resumes_to_equal_weights(
    config: Config, tmp_path: Path, draining: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    original = Trainer.train_step

    def train_step(self: Trainer, batch: Any) -> Any:
        if self.step == 4:  # the notice comes within the fifth step
            draining[NODE] = DEADLINE_MS
            wait_until(lambda: not any_watch_polls(), 10)
        terms = original(self, batch)
        steps.append(self.step)
        return terms

    monkeypatch.setattr(Trainer, "train_step", train_step)
    with pytest.raises(Preempted) as end:
        list(train(spec_of(config, tmp_path / "struck", NODE)))
    assert (end.value.step, end.value.notice.deadline_ms) == (5, DEADLINE_MS)
    draining.clear()
    resumed = list(train(spec_of(config, tmp_path / "struck", NODE)))
    assert steps == list(range(1, config.train.steps + 1)), "no step is done twice"
    whole = list(train(spec_of(config, tmp_path / "whole")))
    assert resumed[-1]["val/miou_teacher"] == whole[-1]["val/miou_teacher"]
    paths = [tmp_path / name / "checkpoints" / "train" / "last.pt" for name in ("whole", "struck")]
    one, other = (checkpoint.load_checkpoint(path)["student"] for path in paths)
    assert all(torch.equal(one[key], other[key]) for key in one)


def any_watch_polls() -> bool:
    """A watch stops asking once it has its notice."""
    return any(thread.name == "preemption-watch" for thread in threading.enumerate())


def test_run_on_a_node_that_drains_ends_before_its_first_step(
    config: Config, tmp_path: Path, draining: dict[str, int]
) -> None:
    draining[NODE] = 0
    with pytest.raises(Preempted) as end:
        next(train(spec_of(config, tmp_path, NODE)))
    assert end.value.step is None
    assert not any_watch_polls()


# ---- several workers ----


def test_preempted_groups_are_no_attempts_of_their_job() -> None:
    mailbox = Mailbox()
    number = mailbox.submit({"name": "a"})
    for _ in range(3 * MAX_RESTARTS):
        assert mailbox.next_job() == {"name": "a", "number": number}
        mailbox.report_preempted(number, Preempted(Notice(NODE, 0), 3), ends_job=False)
    assert mailbox.next_record() is None


def test_job_ends_when_the_node_of_its_consumer_will_be_taken() -> None:
    mailbox = Mailbox()
    number = mailbox.submit({"name": "a"})
    mailbox.next_job()
    mailbox.report_preempted(number, Preempted(Notice(NODE, 0), 3), ends_job=True)
    assert isinstance(mailbox.next_record(), Preempted)
    assert mailbox.next_job() is None


# ---- Ray's own notice ----


@pytest.mark.ray
def test_sigterm_to_a_node_ends_its_run_with_a_checkpoint(
    ray_cluster: str, config: Config, tmp_path: Path
) -> None:
    """`ray start --block` drains its node at SIGTERM, as it gets from Kubernetes."""
    import ray

    assert own_node() == {ray.get_runtime_context().get_node_id()}
    ray_command = str(Path(sys.executable).with_name("ray"))
    command = [ray_command, "start", "--address", ray_cluster, "--num-cpus=0", "--block"]
    command += ["--resources", json.dumps({"spot": 1}), "--disable-usage-stats"]
    node = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        long_config = build_config(config.model_dump(mode="json"), {"train.steps": 100_000})
        options = {"num_cpus": 0, "resources": {"spot": 1}}
        step = ray.remote(**options)(train_until_it_ends).remote(long_config, str(tmp_path))
        last = tmp_path / "checkpoints" / "train"
        wait_until(lambda: (tmp_path / "started").exists(), 60)
        assert not last.exists()
        os.kill(node.pid, signal.SIGTERM)
        ended_at = ray.get(step, timeout=60)
        content = checkpoint.load_checkpoint(last / "last.pt")
        assert content["extra"]["step"] == ended_at > 0
        node.wait(60)
    finally:
        node.kill()


def train_until_it_ends(config: Config, folder: str) -> int:
    """In a worker of the node: the step at which the run ended."""
    from cid_ray.training.launch import train

    try:
        for record in train(config, folder, score_test=False, cpus=0.5, reuse_process=True):
            if record["event"] == "progress":
                (Path(folder) / "started").touch()
    except Preempted as end:
        return end.step or 0
    return 0


def preempted_search(folder: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.harness.preemption", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["exit_code"] == 0 and result["trials"] == ["complete"]
    assert result["nodes"] >= 2
    return result


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_trial_of_a_drained_node_loses_less_than_two_steps(tmp_path: Path) -> None:
    result = preempted_search(tmp_path)
    assert result["steps_lost"] < 2 and result["equal"]
    [[attempt, reason]] = result["retries"]
    assert attempt == 1 and reason.startswith("preempted: node ")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_trial_of_two_workers_loses_less_than_two_steps(tmp_path: Path) -> None:
    result = preempted_search(tmp_path, "--workers", "2", "--deadline", "12")
    assert result["steps_lost"] < 2
    assert not result["retries"], "the group moves, the trial continues"
