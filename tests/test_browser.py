"""The pages in headless Chromium: nothing amiss in the console, figures drawn, no sideways scroll, all in reach of Tab,
and no serious finding of axe-core; the live pages and the final report, dark and light, on a desk and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cid_ray.config import load
from cid_ray.results.page import write_page
from cid_ray.results.record import read_rows
from tests.browser import SIZES, browser, chromium
from tests.searching import search_until, tiny_search
from tests.test_dashboard import KEPT, dashboard_of, part_of

playwright = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
)
pytestmark = pytest.mark.skipif(chromium() is None, reason="no chromium here: apt-get install chromium")

FOCUSABLE = 'a[href], summary, button, input, [tabindex="0"]'
FIGURES = """() => [...document.querySelectorAll('figure svg')].map(svg => [
    svg.querySelectorAll('path, use').length, svg.getBoundingClientRect().width, svg.getBoundingClientRect().height])"""
PICTURES = "() => [...document.images].map(image => [image.complete, image.naturalWidth, image.alt])"
CUT_OFF = """() => [...document.querySelectorAll('body *')].filter(
    box => box.scrollWidth > box.clientWidth + 1 && ['auto', 'scroll'].includes(getComputedStyle(box).overflowX)
    && box.tabIndex < 0).map(box => box.outerHTML.slice(0, 120))"""
AT = f"""() => [[...document.querySelectorAll('{FOCUSABLE}')].indexOf(document.activeElement),
    getComputedStyle(document.activeElement).outlineStyle]"""


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def addresses(small_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A search at work with a finished one beside it, and the final report as a file."""
    folder = tmp_path_factory.mktemp("pages")
    at_work = folder / "at-work"
    search_until(at_work, tiny_search(small_demo), rungs=7)
    report = write_page(KEPT, folder / "report", read_rows(KEPT), load(KEPT / "config.yaml"))
    with dashboard_of(at_work, KEPT) as port:
        here = f"http://127.0.0.1:{port}"
        yield {
            "at work": f"{here}/run/at-work",
            "finished": f"{here}/run/camvid-cpu",
            "side by side": f"{here}/",
            "report": report.as_uri(),
            "report, handed out": f"{here}/run/camvid-cpu/report",
        }


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["at work", "finished", "side by side", "report"])
def test_a_page_works_for_everybody(chrome: Any, addresses: dict[str, str], name: str, scheme: str, size: str) -> None:
    wide, high = SIZES[size]
    page = chrome.new_page(color_scheme=scheme, viewport={"width": wide, "height": high})
    amiss: list[str] = []
    watch(page, amiss, addresses[name])
    page.goto(addresses[name])
    page.wait_for_load_state("load")
    assert (page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)") == (
        scheme == "light"
    )
    figures = page.evaluate(FIGURES)
    assert (len(figures) >= 2) == (name != "side by side")
    assert all(marks > 20 and width > 200 and height > 100 for marks, width, height in figures), figures
    pictures = page.evaluate(PICTURES)
    assert len(pictures) == (16 if name == "at work" else 0)
    assert all(complete and natural > 0 and alt for complete, natural, alt in pictures), pictures
    assert page.evaluate("document.documentElement.scrollWidth") <= wide
    page.evaluate("document.querySelectorAll('details').forEach(box => (box.open = true))")
    assert not page.evaluate(CUT_OFF)
    in_reach_of_tab(page)
    findings = playwright.Axe().run(page).response["violations"]
    assert not [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in findings if v["impact"] in ("serious", "critical")]
    assert not amiss
    page.close()


def watch(page: Any, amiss: list[str], address: str) -> None:
    """Collect what the console says, and requests to anywhere else."""
    own = address.split("/run")[0].rstrip("/") if address.startswith("http") else "file:"
    page.on("console", lambda told: amiss.append(told.text) if told.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: amiss.append(str(error)))
    page.on("requestfailed", lambda asked: amiss.append(f"failed: {asked.url}"))
    page.on("request", lambda asked: None if asked.url.startswith((own, "data:")) else amiss.append(asked.url))


def in_reach_of_tab(page: Any) -> None:
    wanted = set(range(page.locator(FOCUSABLE).count()))
    for _ in range(len(wanted) + 2):
        page.keyboard.press("Tab")
        place, outline = page.evaluate(AT)
        assert place < 0 or outline not in ("none", "hidden")
        wanted.discard(place)
    assert not wanted


def test_the_report_that_is_handed_out_obeys_the_same_policy(chrome: Any, addresses: dict[str, str]) -> None:
    page, amiss = chrome.new_page(), list[str]()
    watch(page, amiss, addresses["report, handed out"])
    page.goto(addresses["report, handed out"])
    assert page.locator("figure svg").count() == 3 and not amiss
    page.close()


def test_new_rows_move_nothing_that_a_reader_holds(chrome: Any, tmp_path: Path) -> None:
    run = part_of(KEPT, tmp_path / "growing", 40)
    lines = (KEPT / "rows.jsonl").read_text().splitlines(keepends=True)
    page = chrome.new_page(viewport={"width": 360, "height": 500})
    with dashboard_of(run) as port:
        page.goto(f"http://127.0.0.1:{port}/")
        before = page.locator("#status").text_content()
        summary = page.locator("details summary")
        summary.click()
        best = page.locator("[data-part=best] .scroll")
        best.evaluate("box => box.scrollLeft = 60")
        best.focus()
        page.evaluate("scrollTo(0, 240)")
        place = best.bounding_box()["y"]
        with (run / "rows.jsonl").open("a") as file:
            file.write("".join(lines[40:]))
        page.wait_for_function("old => document.getElementById('status').textContent !== old", arg=before)
        page.wait_for_function("document.body.textContent.includes('finished')")
        assert abs(best.bounding_box()["y"] - place) < 3
        assert page.locator("details").evaluate("box => box.open")
        assert best.evaluate("box => box.scrollLeft > 0 && box === document.activeElement")
    page.wait_for_function("document.getElementById('link').textContent.includes('ended')")
    page.close()
