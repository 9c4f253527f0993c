"""The screenshots of README and docs, of real runs: `make screenshots`.

A search of the demo set is started with its dashboard, photographed while it runs, and stopped. The
report page is that of the kept CamVid run, the audit page that of the demo set. Needs chromium;
takes about two minutes on two cores.
"""

from __future__ import annotations

import argparse
import io
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.harness.browser import browser
from cid_ray import prepare
from cid_ray.config import load_config
from cid_ray.data.sources import open_table
from cid_ray.results.listening import LOOPBACK, listen
from cid_ray.results.records import read_records
from cid_ray.results.report_page import write_page
from cid_ray.results.snapshot import snapshot
from cid_ray.results.status import read_status

RESULTS = Path(__file__).parent / "results"
KEPT_RUN = RESULTS / "camvid-cpu"
OUT = RESULTS / "screenshots"
WIDTH = 1180  # pixels
LIVE_HEIGHT = 1500
REPORT_HEIGHT = 1270
AUDIT_HEIGHT = 1500
NUM_COLORS = 128  # of the palette: enough for flat colors, and a small file
POLL_INTERVAL_S = 0.5
SEARCH_OPTIONS = (
    "--trials",
    "6",
    "--set",
    "train.steps=160",
    "--set",
    "train.rungs=[0.25,0.5,0.75,1]",
)
MIN_FINISHED = 9  # trials, so that the curves have something to show


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, browser() as chrome:
        shoot_running_search(chrome, Path(folder) / "demo")
        config = load_config(KEPT_RUN / "config.yaml")
        page = write_page(KEPT_RUN, Path(folder) / "report", read_records(KEPT_RUN), config)
        shoot(chrome, page.as_uri(), OUT / "report.png", "light", REPORT_HEIGHT)
        shoot_audit(chrome, Path(folder) / "audit.html")


def shoot_audit(chrome: Any, page: Path) -> None:
    """The audit page of the generated set: photos of others are not ours to publish."""
    prepare.write_audit(open_table("demo"), str(page))
    shoot(chrome, page.as_uri(), OUT / "audit.png", "light", AUDIT_HEIGHT)


def shoot_running_search(chrome: Any, run: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "cid_ray.tune", "--out", str(run), "--dashboard", str(port)]
    search = subprocess.Popen([*command, *SEARCH_OPTIONS])
    try:
        while not is_worth_showing(run):
            assert search.poll() is None, "the search ended too early"
            time.sleep(POLL_INTERVAL_S)
        shoot(chrome, f"http://127.0.0.1:{port}/", OUT / "live.png", "dark", LIVE_HEIGHT)
    finally:
        search.send_signal(signal.SIGINT)
        search.wait()


def free_port() -> int:
    with listen(LOOPBACK, 0) as listener:
        return int(listener.getsockname()[1])


def is_worth_showing(run: Path) -> bool:
    """Whether enough trials have finished, and the two that run have losses and a score."""
    if not (run / "config.yaml").is_file():
        return False
    config = load_config(run / "config.yaml")
    now = snapshot(read_records(run), config, read_status(run), time.time())
    running_well = all(trial.losses and trial.value for trial in now.running)
    return now.finished >= MIN_FINISHED and len(now.running) == 2 and running_well


def shoot(chrome: Any, address: str, out: Path, color_scheme: str, height: int) -> None:
    """Save the upper part of a page as a PNG with a palette."""
    page = chrome.new_page(color_scheme=color_scheme, viewport={"width": WIDTH, "height": height})
    page.goto(address)
    page.wait_for_load_state("load")
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    # dithering would turn flat areas into noise, which PNG compresses badly
    image.quantize(NUM_COLORS, dither=Image.Dither.NONE).save(out, optimize=True)
    page.close()
    print(f"{out} {out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
