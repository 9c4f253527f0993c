"""`python -m cid_ray.doctor`: is this machine ready? One line per check: OK, or what to do.

It checks what a search needs: versions, Ray here and on the cluster, folders, memory, the run
folder or object store, GPU and hub. Every check has a time limit. Add the output to a bug report.
"""

from __future__ import annotations

from functools import partial

from cid_ray.cli.parser import DONE, FAILED, make_parser, run_command
from cid_ray.cli.printing import say
from cid_ray.diagnostics import machine, out_folder, ray_checks, runner, software
from cid_ray.diagnostics.runner import Check

EXAMPLES = """
  python -m cid_ray.doctor
  python -m cid_ray.doctor --out s3://bucket/runs
  RAY_ADDRESS=10.0.0.5:6379 python -m cid_ray.doctor --out /shared/runs
"""
NO_STORE = "check AWS_ENDPOINT_URL and the network, or whether the disk is mounted"
NO_RAY = "Ray does not start or answer; see the logs in session_latest/logs of its folder"


def main(argv: list[str]) -> int:
    parser = make_parser("doctor", __doc__ or "", EXAMPLES)
    parser.add_argument(
        "--out",
        default="runs",
        metavar="DIR",
        help="where runs will be written: a folder or s3://bucket/path (default runs)",
    )
    args = parser.parse_args(argv)
    counts = {runner.OK: 0, runner.WARNING: 0, runner.FAILED: 0}
    for result in runner.run_checks(checks(args.out)):
        say(str(result))
        counts[result.status] += 1
    say(", ".join(f"{count} {status}" for status, count in counts.items()))
    return FAILED if counts[runner.FAILED] else DONE


def checks(out: str) -> list[Check]:
    """All checks, in the order in which they are printed."""
    return [
        Check("versions", software.check_versions, 30),
        Check("home", machine.check_home),
        Check("temporary folder", machine.check_temporary_folder),
        Check("/dev/shm", machine.check_shared_memory),
        Check("CPUs", machine.check_cpus),
        Check("memory", machine.check_memory),
        Check("--out", partial(out_folder.check_out, out), 40, NO_STORE),
        Check("GPU", software.check_gpu, 60, "torch or nvidia-smi hangs; restart the driver"),
        Check("hub", software.check_hub, 15),
        Check("Ray here", ray_checks.check_ray_here, 120, NO_RAY),
        Check("Ray cluster", ray_checks.check_ray_cluster, 120, NO_RAY),
    ]


if __name__ == "__main__":
    run_command(main)
