// Swaps what has changed on the page when the server says that rows have arrived. What was scrolled, opened or focused stays so.
"use strict";

const SETTLE_MS = 300;
const status = document.getElementById("status");
const link = document.getElementById("link");
const slug = document.body.dataset.slug; // "" on the page of all runs
let shown = new Map([...document.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part.outerHTML]));
let busy = false;
let again = false;

function places(part) {
  return [...part.querySelectorAll("a, summary, [tabindex]")];
}

function swap(old, fresh) {
  const focused = places(old).indexOf(document.activeElement);
  const scrolled = [...old.querySelectorAll(".scroll, .chart, pre")].map((box) => box.scrollLeft);
  const open = [...old.querySelectorAll("details")].map((box) => box.open);
  old.replaceWith(fresh);
  fresh.querySelectorAll(".scroll, .chart, pre").forEach((box, place) => (box.scrollLeft = scrolled[place] ?? 0));
  fresh.querySelectorAll("details").forEach((box, place) => (box.open = open[place] ?? box.open));
  places(fresh)[focused]?.focus({ preventScroll: true });
}

async function refresh() {
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  try {
    const answer = await fetch(location.pathname, { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.status);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = new Map([...page.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part]));
    const here = new Map([...document.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part]));
    if ([...fresh.keys()].join() !== [...here.keys()].join()) {
      document.querySelector("main").replaceWith(page.querySelector("main"));
      document.querySelector("header [data-part]").replaceWith(page.querySelector("header [data-part]"));
    } else {
      for (const [name, part] of fresh) if (shown.get(name) !== part.outerHTML) swap(here.get(name), part.cloneNode(true));
    }
    shown = new Map([...fresh].map(([name, part]) => [name, part.outerHTML]));
    document.title = page.title;
    const told = page.getElementById("status").textContent;
    if (status.textContent !== told) status.textContent = told;
  } catch {
    link.textContent = "The dashboard does not answer: this is the last state it sent.";
  } finally {
    busy = false;
    if (again) {
      again = false;
      setTimeout(refresh, SETTLE_MS);
    }
  }
}

const news = new EventSource("/news");
news.addEventListener("changed", (event) => {
  if (!slug || event.data === slug) refresh();
});
news.addEventListener("open", () => {
  if (link.textContent) refresh();
  link.textContent = "";
});
news.addEventListener("error", () => (link.textContent = "The dashboard has ended or cannot be reached: this is the last state it sent."));
