"""Law: the Slurm script runs a search on all nodes of a job; a requeue loses and repeats nothing.

Reference: the states of a real Slurm cluster's job, the studies, and the lines of the records.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cid_ray.results.records import Record
from tests.helpers.ports import wait_until
from tests.helpers.slurm import Slurm, slurm_cluster
from tests.helpers.small_search import space_file, states

pytestmark = [
    pytest.mark.process,
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
]
ROOT = Path(__file__).parents[1]
JOB_S = 400.0
N_TRIALS = 8  # two ratios, a baseline and three CID trials at each


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with slurm_cluster(2) as cluster:
        yield cluster


@pytest.fixture
def clone(tmp_path: Path, slurm: Slurm) -> Path:
    """What the script needs: this repository with its environment in .venv, and a home folder."""
    clone = tmp_path / "clone"
    (clone / ".venv" / "bin").mkdir(parents=True)
    activate = f"export PATH={Path(sys.executable).parent}:$PATH\n"
    (clone / ".venv" / "bin" / "activate").write_text(activate)
    for name in ("cid_ray", "cluster", "search_spaces"):
        (clone / name).symlink_to(ROOT / name)
    slurm.env |= {"PYTHONPATH": str(clone), "HOME": str(tmp_path)}
    slurm.env.pop("RAY_ADDRESS", None)
    return clone


def submit(slurm: Slurm, clone: Path, space: Path, n_nodes: int, *more: str) -> str:
    """Submit the script for a machine without GPUs; the job's id. Its log is `clone/log`."""
    options = [f"--nodes={n_nodes}", "--cpus-per-task=2", "--gpus-per-node=0", "--mem=0"]
    script = ["cluster/slurm.sbatch", str(space), "run"]
    return slurm.submit(*options, "--output=log", *more, *script, cwd=clone)


def lines_of(out: Path, event: str) -> list[Record]:
    """The records of one event as they are in the file, repeated ones too."""
    path = out / "records.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [record for record in map(json.loads, lines) if record["event"] == event]


def assert_nothing_is_left(slurm: Slurm, clone: Path, job: str) -> None:
    """Neither processes, nor Ray's files, nor the job's token."""
    assert not [line for name in slurm.nodes for line in slurm.processes(name)]
    assert not Path(f"/tmp/cid-{job}").exists()
    assert not list((clone.parent / ".ray").iterdir())


def test_requeued_search_ends_once(slurm: Slurm, clone: Path, small_demo: Path) -> None:
    out = clone / "run"
    space = space_file(clone, small_demo, baselines=["supervised"])
    job = submit(slurm, clone, space, n_nodes=2)
    wait_until(lambda: lines_of(out, "trial"), JOB_S)
    slurm.run("scontrol", "requeue", job)
    ended = slurm.wait_for_end(job, JOB_S)

    log = (clone / "log").read_text()
    assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), log
    assert ended["Restarts"] == "1"
    assert ended["NumNodes"] == "2" and "up to 4 concurrent trials" in log
    finished = Counter(record["run"] for record in lines_of(out, "trial"))
    assert len(finished) == N_TRIALS and set(finished.values()) == {1}
    for counts in states(out).values():
        assert set(counts) <= {"COMPLETE", "PRUNED"}
    assert sum(counts.total() for counts in states(out).values()) == N_TRIALS
    assert not lines_of(out, "retry"), "the requeue took a retry of a trial"
    assert log.count("interrupted ones resume") == 1
    assert log.count("wrote run/report/index.html") == 1
    assert len(lines_of(out, "search")) == 4  # one per ratio and method: analysed once
    assert_nothing_is_left(slurm, clone, job)


def test_job_has_the_exit_code_of_tune(slurm: Slurm, clone: Path) -> None:
    space = clone / "space.yaml"
    space.write_text("search: {trials: none}\n")
    job = submit(slurm, clone, space, n_nodes=1)
    ended = slurm.wait_for_end(job, JOB_S)
    log = (clone / "log").read_text()
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "2:0"), log
    assert "search.trials" in log and "Traceback" not in log
    assert_nothing_is_left(slurm, clone, job)


def test_address_of_another_node_is_refused(slurm: Slurm, clone: Path) -> None:
    job = submit(slurm, clone, clone / "space.yaml", 1, "--export=ALL,CID_HEAD_IP=10.79.0.9")
    ended = slurm.wait_for_end(job, JOB_S)
    log = (clone / "log").read_text()
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "2:0"), log
    assert "error: CID_HEAD_IP is 10.79.0.9, must be one of" in log and slurm.nodes["n1"] in log
    assert not (clone.parent / ".ray").exists()
