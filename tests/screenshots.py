"""The two pictures in README, of real runs: `make screenshots`.

A search of the embedded set is started with its dashboard and photographed at work, then stopped; the final page is
that of the kept CamVid run. Needs chromium; takes about two minutes on two cores.
"""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from cid_ray.config import load
from cid_ray.results.live import Now, look
from cid_ray.results.page import write_page
from cid_ray.results.pulse import read_pulse
from cid_ray.results.record import read_rows
from tests.browser import browser
from tests.test_dashboard import KEPT, free_port

OUT = KEPT.parent / "screenshots"
WIDTH, COLORS = 1180, 128
SEARCH = ("--trials", "6", "--set", "train.steps=160", "--set", "train.rungs=[0.25,0.5,0.75,1]")


def main() -> None:
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, browser() as chrome:
        at_work(chrome, Path(folder) / "demo")
        page = write_page(KEPT, Path(folder) / "report", read_rows(KEPT), load(KEPT / "config.yaml"))
        shoot(chrome, page.as_uri(), OUT / "report.png", "light", 1270)


def at_work(chrome: Any, run: Path) -> None:
    port = free_port()
    search = subprocess.Popen(
        [sys.executable, "-m", "cid_ray.tune", "--out", str(run), "--dashboard", str(port), *SEARCH]
    )
    try:
        while not worth_seeing(run):
            assert search.poll() is None, "the search ended too early"
            time.sleep(0.5)
        shoot(chrome, f"http://127.0.0.1:{port}/", OUT / "live.png", "dark", 1500)
    finally:
        search.send_signal(signal.SIGINT)
        search.wait()


def worth_seeing(run: Path) -> bool:
    """Some trials have ended, and two run that have something to show."""
    if not (run / "config.yaml").is_file():
        return False
    now: Now = look(read_rows(run), load(run / "config.yaml"), read_pulse(run), time.time())
    return now.done >= 9 and len(now.running) == 2 and all(t.losses and t.value for t in now.running)


def shoot(chrome: Any, address: str, out: Path, scheme: str, height: int) -> None:
    """The upper part of a page, as a PNG of few colours."""
    page = chrome.new_page(color_scheme=scheme, viewport={"width": WIDTH, "height": height})
    page.goto(address)
    page.wait_for_load_state("load")
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
    picture.save(out, optimize=True)
    page.close()
    print(f"{out} {out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
