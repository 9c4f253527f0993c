"""Laws of the pages in headless Chromium, on a desktop and on a phone, light and dark.

The console stays empty, figures are drawn, nothing scrolls sideways, Tab reaches everything, and
axe-core finds nothing serious. The pages are those of a real search left half-way, of the kept
CamVid run, of a made-up search with many trials, and of the demo table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.browser import browser, chromium
from cid_ray import evaluate, prepare
from cid_ray.config import load_config
from cid_ray.data.table import Table
from cid_ray.results.records import read_records
from cid_ray.results.report_page import write_page
from tests.helpers.dashboard_client import KEPT_RUN, dashboard_of, first_records
from tests.helpers.local_search import search_until, tiny_search
from tests.helpers.records import checked_pool
from tests.helpers.searches import searched
from tests.helpers.services import require_package, require_service
from tests.helpers.untrained import save_untrained

axe = require_package("axe_playwright_python.sync_playwright")
require_service("chromium", chromium())
pytestmark = pytest.mark.process

SIZES = {"desktop": (1180, 900), "phone": (360, 740)}  # pixels
FOCUSABLE = 'a[href], summary, button, input, [tabindex="0"]'
FIGURES = """() => [...document.querySelectorAll('figure svg')].map(svg => [
    svg.querySelectorAll('path, use').length,
    svg.getBoundingClientRect().width,
    svg.getBoundingClientRect().height])"""
IMAGES = "() => [...document.images].map(image => [image.complete, image.naturalWidth, image.alt])"
# boxes that scroll sideways and that the keyboard cannot reach
UNREACHABLE_SCROLL = """() => [...document.querySelectorAll('body *')].filter(
    box => box.scrollWidth > box.clientWidth + 1
    && ['auto', 'scroll'].includes(getComputedStyle(box).overflowX)
    && box.tabIndex < 0).map(box => box.outerHTML.slice(0, 120))"""
FOCUS = f"""() => [
    [...document.querySelectorAll('{FOCUSABLE}')].indexOf(document.activeElement),
    getComputedStyle(document.activeElement).outlineStyle]"""
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
WHITE = "rgb(255, 255, 255)"
# Pixels of each text on the screen: of the page, and of figures, which are scaled.
TEXT_SIZES = """() => [...document.querySelectorAll('body *')].filter(
    box => [...box.childNodes].some(node => node.nodeType === 3 && node.data.trim())
    && box.getClientRects().length && !box.closest('style, script')).map(box => {
        const svg = box.ownerSVGElement
        const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1
        return [parseFloat(getComputedStyle(box).fontSize) * scale, box.textContent.slice(0, 30)]
    })"""
MIN_TEXT_PIXELS = 11
# Two of each of the 20 images that an audit shows, three of each of 6 that an evaluation does.
NUM_IMAGES = {"running": 16, "audit": 40, "evaluation": 18}


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def addresses(
    small_demo: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Live pages of a running and of a finished search, and the report as a file."""
    folder = tmp_path_factory.mktemp("pages")
    running = folder / "at-work"
    search_until(running, tiny_search(small_demo), rungs=7)
    config = load_config(KEPT_RUN / "config.yaml")
    records = [*read_records(KEPT_RUN), checked_pool()]
    report = write_page(KEPT_RUN, folder / "report", records, config)
    many = write_page(folder, folder / "many-trials", searched(40), config)
    audit = folder / "audit.html"
    prepare.write_audit(Table(small_demo), str(audit))
    save_untrained(folder / "last.pt", Table(small_demo).model_data)
    evaluated = ["--table", str(small_demo), "--out", str(folder / "evaluation"), "-q"]
    assert evaluate.main([str(folder / "last.pt"), *evaluated]) == 0
    with dashboard_of(running, KEPT_RUN) as port:
        site = f"http://127.0.0.1:{port}"
        yield {
            "running": f"{site}/run/at-work",
            "finished": f"{site}/run/camvid-cpu",
            "all runs": f"{site}/",
            "report": report.as_uri(),
            "many trials": many.as_uri(),
            "audit": audit.as_uri(),
            "evaluation": (folder / "evaluation" / "evaluation.html").as_uri(),
            "served report": f"{site}/run/camvid-cpu/report",
        }


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "name", ["running", "finished", "all runs", "report", "many trials", "audit", "evaluation"]
)
def test_page_in_browser_is_complete_and_accessible(
    chrome: Any, addresses: dict[str, str], name: str, scheme: str, size: str
) -> None:
    width, height = SIZES[size]
    page = chrome.new_page(color_scheme=scheme, viewport={"width": width, "height": height})
    problems: list[str] = []
    collect_problems(page, problems, addresses[name])
    page.goto(addresses[name])
    page.wait_for_load_state("load")
    assert (page.evaluate(BACKGROUND) == WHITE) == (scheme == "light")
    figures = page.evaluate(FIGURES)
    assert (len(figures) >= 2) == (name not in ("all runs", "audit", "evaluation"))
    assert all(marks > 20 and w > 200 and h > 100 for marks, w, h in figures), figures
    images = page.evaluate(IMAGES)
    assert len(images) == NUM_IMAGES.get(name, 0)
    assert all(complete and natural > 0 and alt for complete, natural, alt in images), images
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    small = [(size, text) for size, text in page.evaluate(TEXT_SIZES) if size < MIN_TEXT_PIXELS]
    assert not small, small[:5]
    page.evaluate("document.querySelectorAll('details').forEach(box => (box.open = true))")
    assert not page.evaluate(UNREACHABLE_SCROLL)
    check_tab_reaches_everything(page)
    check_axe(page)
    assert not problems
    page.close()


def test_number_of_the_report_leads_to_its_record(chrome: Any, addresses: dict[str, str]) -> None:
    """The record is folded: following the link unfolds it."""
    page = chrome.new_page()
    page.goto(addresses["report"])
    link = page.locator("a.record[href^='#final-']").first
    target = page.locator("[id='" + link.get_attribute("href")[1:] + "']")
    assert not target.is_visible()
    link.click()
    target.wait_for(state="visible")
    assert link.inner_text() in {
        f"{value:.2f}"
        for value in json.loads(target.inner_text()).values()
        if isinstance(value, float)
    }
    page.close()


def collect_problems(page: Any, problems: list[str], address: str) -> None:
    """Collect what the console says, and requests to any other site."""
    site = address.split("/run")[0].rstrip("/") if address.startswith("http") else "file:"

    def on_console(message: Any) -> None:
        if message.type in ("error", "warning"):
            problems.append(message.text)

    def on_request(request: Any) -> None:
        if not request.url.startswith((site, "data:")):
            problems.append(request.url)

    page.on("console", on_console)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))
    page.on("request", on_request)


def check_tab_reaches_everything(page: Any) -> None:
    """Tab visits every focusable element, and a visited one has a visible outline."""
    missing = set(range(page.locator(FOCUSABLE).count()))
    for _ in range(len(missing) + 2):
        page.keyboard.press("Tab")
        index, outline = page.evaluate(FOCUS)
        assert index < 0 or outline not in ("none", "hidden")
        missing.discard(index)
    assert not missing


def check_axe(page: Any) -> None:
    violations = axe.Axe().run(page).response["violations"]
    serious = [v for v in violations if v["impact"] in ("serious", "critical")]
    assert not [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in serious]


def test_served_report_obeys_the_content_policy(chrome: Any, addresses: dict[str, str]) -> None:
    page = chrome.new_page()
    problems: list[str] = []
    collect_problems(page, problems, addresses["served report"])
    page.goto(addresses["served report"])
    assert page.locator("figure svg").count() == 3 and not problems
    page.close()


def test_live_page_on_new_records_keeps_scroll_focus_and_open_details(
    chrome: Any, tmp_path: Path
) -> None:
    run = first_records(KEPT_RUN, tmp_path / "growing", 40)
    lines = (KEPT_RUN / "records.jsonl").read_text().splitlines(keepends=True)
    page = chrome.new_page(viewport={"width": 360, "height": 500})
    with dashboard_of(run) as port:
        page.goto(f"http://127.0.0.1:{port}/")
        before = page.locator("#status").text_content()
        page.locator("details summary").click()
        best = page.locator("[data-part=best] .scroll")
        best.evaluate("box => box.scrollLeft = 60")
        best.focus()
        page.evaluate("scrollTo(0, 240)")
        top = best.bounding_box()["y"]
        with (run / "records.jsonl").open("a") as file:
            file.write("".join(lines[40:]))
        changed = "old => document.getElementById('status').textContent !== old"
        page.wait_for_function(changed, arg=before)
        page.wait_for_selector(".state.finished")
        assert abs(best.bounding_box()["y"] - top) < 3
        assert page.locator("details").evaluate("box => box.open")
        assert best.evaluate("box => box.scrollLeft > 0 && box === document.activeElement")
    # the dashboard has ended
    has_ended = "document.getElementById('connection').textContent.includes('ended')"
    page.wait_for_function(has_ended)
    page.close()
