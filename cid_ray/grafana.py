"""`python -m cid_ray.grafana`: give the dashboard of searches to the Grafana of this machine's Ray.

Ray writes Grafana's configuration into its session folder whenever a head node starts, so run this
after `ray start`. That configuration names the folder from which Grafana reads dashboards.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cid_ray.cli.parser import make_parser, run_command
from cid_ray.cli.printing import say
from cid_ray.config import InputError
from cid_ray.config.yaml_reader import read_documents
from cid_ray.resources.ray_files import ray_temp_dir
from cid_ray.storage.packaged import packaged_file

DASHBOARD = "cid_ray.json"
PROVIDERS = "grafana/provisioning/dashboards/default.yml"  # in the session's metrics folder
EXAMPLES = """
  python -m cid_ray.grafana
  python -m cid_ray.grafana --temp-dir /scratch/ray
  python -m cid_ray.grafana --to /var/lib/grafana/dashboards
"""


def main(argv: list[str]) -> int:
    parser = make_parser("grafana", __doc__ or "", EXAMPLES)
    parser.add_argument(
        "--temp-dir", metavar="DIR", help="the --temp-dir of `ray start` (default /tmp/ray)"
    )
    parser.add_argument(
        "--to", metavar="DIR", help="the folder from which your own Grafana reads dashboards"
    )
    args = parser.parse_args(argv)
    source = packaged_file(DASHBOARD, "cluster/grafana")
    folder = Path(args.to) if args.to else dashboard_folder(ray_session_folder(args.temp_dir))
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder; --to DIR names the one from which Grafana reads dashboards"
        )
    target = folder / DASHBOARD
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror})") from None
    say(f"wrote {target}; Grafana shows it as Ray / cid_ray within seconds")
    return 0


def ray_session_folder(temp_dir: str | None) -> Path:
    """The folder of the Ray session that runs on this machine."""
    base = Path(temp_dir or ray_temp_dir())
    session = base / "session_latest"
    if not any((session / "sockets").glob("raylet*")):
        raise InputError(
            f"no Ray session runs below {base}; start one with `ray start --head` on this machine, "
            "give its own --temp-dir, or name Grafana's folder with --to DIR"
        )
    return session.resolve()


def dashboard_folder(session: Path) -> Path:
    """The folder from which the session's Grafana reads dashboards."""
    metrics = os.environ.get("RAY_METRICS_OUTPUT_ROOT") or session / "metrics"
    providers = Path(metrics, PROVIDERS)
    try:
        return Path(read_documents(providers)[0]["providers"][0]["options"]["path"])
    except (OSError, InputError, KeyError, TypeError, IndexError):
        raise InputError(
            f"{providers} names no folder of dashboards: this node has no Ray dashboard; "
            "run this on the head node, or name the folder with --to DIR"
        ) from None


if __name__ == "__main__":
    run_command(main)
