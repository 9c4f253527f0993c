"""A real Slurm cluster on this machine.

Each node is a slurmd in a network namespace and a process namespace: it has its own address, sees
no process of another node, and all that it started ends with it. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers.ports import wait_until
from tests.helpers.services import find_program, require_service, succeeds

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
NAMESPACES = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
CPUS = 2  # of each node
MEMORY_MB = 4000

# No cgroups: a container rarely may write them. Processes are followed by their parents instead.
# cred_expire: seconds until a requeued job starts again. MinJobAge: how long `scontrol show job`
# knows a job that has ended. FirstJobId: job ids name folders in /tmp.
CONF = """
ClusterName=test
FirstJobId={first_job_id}
SlurmctldHost={host}({controller})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
ReturnToService=2
KillWait=5
MinJobAge=600
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeAddr={address} CPUs={cpus} RealMemory={memory} State=UNKNOWN\n"


@dataclass
class Slurm:
    """A started cluster.

    Attributes:
        folder: configuration, state and logs of its daemons.
        nodes: node name -> address.
        env: the environment of its commands.
    """

    folder: Path
    nodes: dict[str, str]
    env: dict[str, str]
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        """Start all daemons and wait until every node takes jobs."""
        first = next(iter(self.nodes))
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        files = {"socket": "socket", "key-file": "key", "log-file": "log", "pid-file": "pid"}
        options = [f"--{name}={self.folder}/munge.{end}" for name, end in files.items()]
        # --force: the folder is in one that others may write.
        self._start(
            ["munged", "--foreground", "--force", f"--seed-file={self.folder}/munge.seed", *options]
        )
        wait_until(lambda: (self.folder / "munge.socket").exists(), 30)
        conf = str(self.folder / "slurm.conf")
        in_network = ["ip", "netns", "exec"]
        self._start([*in_network, network(first), "slurmctld", "-D", "-f", conf])
        for name in self.nodes:
            slurmd = f"slurmd -D -N {name} -f {conf} & wait"  # process 1, which reaps, is a shell
            self._start([*in_network, network(name), *NAMESPACES, "bash", "-c", slurmd])
        wait_until(self._all_idle, 60)

    def _start(self, command: list[str]) -> None:
        log = (self.folder / "daemons.log").open("ab")
        self.daemons.append(
            subprocess.Popen(command, env=self.env, stdout=log, stderr=log, start_new_session=True)
        )

    def _all_idle(self) -> bool:
        for daemon in self.daemons:
            assert daemon.poll() is None, f"{daemon.args!r} has ended:\n{self.logs()}"
        states = re.findall(r"State=(\S+)", self.run("scontrol", "-o", "show", "node", check=False))
        return states == ["IDLE"] * len(self.nodes)

    def stop(self) -> None:
        """Kill the daemons; a node's processes go with its slurmd."""
        for daemon in reversed(self.daemons):
            daemon.kill()
            daemon.wait()

    def run(self, *command: str, check: bool = True, cwd: Path | None = None) -> str:
        """What a command prints on the first node."""
        first = next(iter(self.nodes))
        done = subprocess.run(
            ["ip", "netns", "exec", network(first), *command],
            env=self.env,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr + self.logs()
        return done.stdout

    def submit(self, *words: str, cwd: Path) -> str:
        """`sbatch WORDS`; the job's id."""
        return self.run("sbatch", "--parsable", *words, cwd=cwd).strip()

    def job(self, job_id: str) -> dict[str, str]:
        """The fields of a job, such as JobState, ExitCode ("0:0") and Restarts."""
        text = self.run("scontrol", "-o", "show", "job", job_id)
        return dict(re.findall(r"(\S+?)=(\S*)", text))

    def wait_for_end(self, job_id: str, timeout_s: float) -> dict[str, str]:
        """The fields of a job that has ended."""
        ended = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "OUT_OF_MEMORY")
        wait_until(lambda: self.job(job_id)["JobState"] in ended, timeout_s)
        return self.job(job_id)

    def processes(self, name: str) -> list[str]:
        """Command lines of the processes of a node, its own daemon left out."""
        pids = self.run("ip", "netns", "pids", network(name)).split()
        lines = []
        for pid in pids:
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                if "slurm" not in line and "ip netns" not in line:
                    lines.append(line)
        return lines

    def logs(self) -> str:
        """The end of every daemon's log."""
        return "\n".join(
            f"{path.name}: {path.read_text(errors='replace')[-2000:]}"
            for path in sorted(self.folder.glob("*.log"))
        )


def network(node: str) -> str:
    """The name of a node's network namespace; one per test process."""
    return f"{node}-{os.getpid()}"


@contextlib.contextmanager
def slurm_cluster(n_nodes: int) -> Iterator[Slurm]:
    """A cluster with idle nodes `n1`, `n2` ..., stopped at the end of the block.

    The test is skipped where Slurm or the right to make namespaces is absent.

    Args:
        n_nodes: nodes of CPUS CPUs each; they share this machine's.
    """
    require_service("slurm", all(find_program(program) for program in PROGRAMS))
    require_service("network namespace", os.geteuid() == 0 and succeeds("ip", "netns"))
    require_service("pid namespace", succeeds(*NAMESPACES, "true"))
    nodes = {f"n{i + 1}": f"10.79.0.{i + 1}" for i in range(n_nodes)}
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    conf = CONF.format(
        host=socket.gethostname(),
        controller=nodes["n1"],
        folder=folder,
        first_job_id=os.getpid(),
    )
    lines = [
        NODE.format(name=name, address=address, cpus=CPUS, memory=MEMORY_MB)
        for name, address in nodes.items()
    ]
    (folder / "slurm.conf").write_text("".join([*lines, conf]))
    # Of the plugins only this one starts without a file system of cgroups; nothing uses it.
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    (folder / "state").mkdir()
    env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    slurm = Slurm(folder, nodes, env)
    with networks(nodes):
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.stop()
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def networks(nodes: dict[str, str]) -> Iterator[None]:
    """A network namespace for each node, joined by a bridge in one of their own."""
    switch = f"switch-{os.getpid()}"
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for name, address in nodes.items():
            host = network(name)
            _ip("netns", "add", host)
            peer = ("peer", "name", name, "netns", switch)
            _ip("link", "add", "eth0", "netns", host, "type", "veth", *peer)
            _ip("-n", switch, "link", "set", name, "master", "bridge", "up")
            _ip("-n", host, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", host, "link", "set", device, "up")
        yield
    finally:
        for name in (*map(network, nodes), switch):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
