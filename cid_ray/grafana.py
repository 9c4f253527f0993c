"""`python -m cid_ray.grafana`: put the dashboard of a running search where the Grafana of this machine's Ray finds it.

Ray writes Grafana's settings anew whenever a head starts, into its session's folder, so this comes after `ray start`.
Which folder Grafana reads dashboards from is taken from those settings.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import yaml

from cid_ray import cli
from cid_ray.config import InputError

DASHBOARD = "cid_ray.json"
PROVIDERS = "grafana/provisioning/dashboards/default.yml"  # below the session's metrics/
EXAMPLES = """
  python -m cid_ray.grafana
  python -m cid_ray.grafana --temp-dir /scratch/ray
  python -m cid_ray.grafana --to /var/lib/grafana/dashboards
"""


def main(argv: list[str]) -> int:
    options = cli.parser("grafana", __doc__ or "", EXAMPLES)
    options.add_argument("--temp-dir", metavar="DIR", help="the --temp-dir of `ray start` (default /tmp/ray)")
    options.add_argument("--to", metavar="DIR", help="a folder that a Grafana of your own reads dashboards from")
    args = options.parse_args(argv)
    source = cli.shipped(DASHBOARD, "cluster/grafana", "copy it from the project's repository")
    target = Path(args.to) if args.to else dashboards_of(session(args.temp_dir))
    if not target.is_dir():
        raise InputError(f"{target} is not a folder; --to DIR names the one that Grafana reads dashboards from")
    try:
        shutil.copyfile(source, target / DASHBOARD)
    except OSError as error:
        raise InputError(f"{target / DASHBOARD} cannot be written ({error.strerror})") from None
    print(f"wrote {target / DASHBOARD}; Grafana shows it as Ray / cid_ray within seconds")
    return 0


def session(temp_dir: str | None) -> Path:
    """The folder of the Ray session that runs on this machine."""
    system = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    base = Path(temp_dir) if temp_dir else Path(system, "ray")
    found = base / "session_latest"
    if not any((found / "sockets").glob("raylet*")):
        raise InputError(
            f"no Ray session runs below {base}; begin one with `ray start --head` on this machine, name the --temp-dir "
            "it was begun with, or name Grafana's own folder with --to DIR"
        )
    return found.resolve()


def dashboards_of(session: Path) -> Path:
    """Where the session's Grafana settings say that dashboards lie."""
    settings = Path(os.environ.get("RAY_METRICS_OUTPUT_ROOT") or session / "metrics", PROVIDERS)
    try:
        return Path(yaml.safe_load(settings.read_text())["providers"][0]["options"]["path"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, IndexError):
        raise InputError(
            f"{settings} does not say where Grafana reads dashboards from: this is the folder of a node without a "
            "dashboard; run this on the head node, or name the folder with --to DIR"
        ) from None


if __name__ == "__main__":
    cli.run(main)
