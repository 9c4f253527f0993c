"""Laws of the wheel: installed without a checkout, every command finds the files that it needs.

The wheel is built from this checkout and installed into an empty folder. The commands run in
another empty folder, so nothing comes from the source tree.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import cid_ray
from cid_ray.results.records import of_event, read_records
from tests.helpers.dashboard_client import KEPT_RUN

pytestmark = pytest.mark.process
ROOT = Path(cid_ray.__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
SHORT_SEARCH = (
    "--set=search.trials=1",
    "--set=search.ratios=[1/8]",
    "--set=search.baselines=[supervised]",
    "--set=search.supervised_ratios=[]",
    "--set=search.repeats.n=0",
    "--set=train.steps=2",
    "--set=train.num_sample_images=1",
)


@dataclass
class Installed:
    """A wheel in a folder of its own, and the empty folder in which its commands run."""

    wheel: Path
    site: Path
    folder: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        # PYTHONPATH comes before the site-packages, where this checkout may be installed too.
        env = {**os.environ, "PYTHONPATH": str(self.site), "RAY_ADDRESS": "local"}
        return subprocess.run(
            command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=280
        )

    def python(self, *args: str) -> str:
        """The output of `python ARGS`, which must succeed."""
        done = self.run(sys.executable, *args)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def packaged(self, name: str) -> str:
        return str(self.site / "cid_ray" / "packaged" / name)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    base = tmp_path_factory.mktemp("wheel")
    build = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(base)]
    subprocess.run([*build, str(ROOT)], check=True)
    (wheel,) = base.glob("*.whl")
    site = base / "site"
    subprocess.run([*PIP, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    folder = base / "empty"
    folder.mkdir()
    return Installed(wheel, site, folder)


def test_wheel_holds_package_and_data_and_nothing_else(installed: Installed) -> None:
    names = set(zipfile.ZipFile(installed.wheel).namelist())
    for name in ("py.typed", "results/style.css", "results/published.yaml"):
        assert f"cid_ray/{name}" in names
    for folder in ("search_spaces", "cluster"):
        files = [file for file in (ROOT / folder).rglob("*") if file.is_file()]
        assert {f"cid_ray/packaged/{file.relative_to(ROOT)}" for file in files} <= names
    templates = {f"cid_ray/results/{file.name}" for file in ROOT.glob("cid_ray/results/*.j2")}
    assert templates and templates <= names
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"cid_ray", f"cid_ray-{cid_ray.__version__}.dist-info"}


def test_wheel_package_is_imported_from_its_folder(installed: Installed) -> None:
    output = installed.python("-c", "import cid_ray; print(cid_ray.__file__)")
    assert Path(output.strip()).is_relative_to(installed.site)


def test_wheel_entry_point_runs_commands(installed: Installed) -> None:
    script = str(installed.site / "bin" / "cid-ray")
    listing = installed.run(script)
    assert listing.returncode == 0 and "python -m cid_ray.tune " in listing.stdout
    assert installed.run(script, "--version").stdout == f"cid_ray {cid_ray.__version__}\n"
    help_text = installed.run(script, "prepare", "--help")
    assert help_text.returncode == 0 and "python -m cid_ray.prepare" in help_text.stdout


def test_wheel_cluster_check_uses_packaged_prices(installed: Installed) -> None:
    own_cluster = installed.folder / "aws.yaml"
    own_cluster.write_text(Path(installed.packaged("cluster/aws.yaml")).read_text())
    space = ("--space", installed.packaged("search_spaces/demo.yaml"))
    check = ("-m", "cid_ray.cluster", "check", *space, "--cluster", str(own_cluster))
    assert re.search(r"\$\d+\.\d\d per hour", installed.python(*check))
    own_cluster.unlink()


def test_wheel_names_of_packaged_files_work_in_every_folder(installed: Installed) -> None:
    check = ("-m", "cid_ray.cluster", "check", "--space", "camvid", "--cluster", "aws")
    assert installed.python(*check).startswith(installed.packaged("cluster/aws.yaml"))
    unknown = installed.run(sys.executable, *check[:3], "--space", "demoo", "--cluster", "aws")
    assert unknown.returncode == 2
    assert unknown.stderr.endswith(
        "; those that come with cid_ray are camvid, cityscapes, demo, voc\n"
    )


def test_wheel_grafana_copies_packaged_dashboard(installed: Installed) -> None:
    target = installed.folder / "dashboards"
    target.mkdir()
    installed.python("-m", "cid_ray.grafana", "--to", str(target))
    expected = ROOT / "cluster" / "grafana" / "cid_ray.json"
    assert (target / "cid_ray.json").read_text() == expected.read_text()


def test_wheel_report_renders_packaged_templates(installed: Installed) -> None:
    page = installed.folder / "page"
    installed.python("-m", "cid_ray.report", str(KEPT_RUN), "--out", str(page))
    assert (page / "index.html").stat().st_size > 10_000


@pytest.mark.ray
@pytest.mark.slow
def test_wheel_tune_in_empty_folder_runs_packaged_demo(installed: Installed) -> None:
    script = str(installed.site / "bin" / "cid-ray")
    done = installed.run(script, "tune", "--config", "demo", *SHORT_SEARCH)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"config {installed.packaged('search_spaces/demo.yaml')}\n")
    (run,) = (installed.folder / "runs").glob("demo-*")
    assert (run / "report" / "index.html").is_file()
    finals = of_event(read_records(run), "final")
    assert {record["method"] for record in finals} == {"supervised", "cid"}
