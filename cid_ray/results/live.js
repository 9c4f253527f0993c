// Replaces the parts of the page that have changed when the server sends an event.
// What the reader has scrolled, opened or focused stays as it is.
"use strict";

const SETTLE_MS = 300; // several records often arrive together
const SCROLLABLE = ".scroll, .chart, pre";
const FOCUSABLE = "a, summary, [tabindex]";
const status = document.getElementById("status");
const connection = document.getElementById("connection");
const slug = document.body.dataset.slug; // "" on the page of all runs
let shown = htmlOf(partsOf(document));
let busy = false;
let again = false;

function partsOf(page) {
  return new Map([...page.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part]));
}

// The HTML as the server sent it: the page's own differs once a reader has opened something.
function htmlOf(parts) {
  return new Map([...parts].map(([name, part]) => [name, part.outerHTML]));
}

function focusable(part) {
  return [...part.querySelectorAll(FOCUSABLE)];
}

function swap(old, fresh) {
  const focused = focusable(old).indexOf(document.activeElement);
  const scrolled = [...old.querySelectorAll(SCROLLABLE)].map((box) => box.scrollLeft);
  const open = [...old.querySelectorAll("details")].map((box) => box.open);
  old.replaceWith(fresh);
  fresh.querySelectorAll(SCROLLABLE).forEach((box, index) => (box.scrollLeft = scrolled[index] ?? 0));
  fresh.querySelectorAll("details").forEach((box, index) => (box.open = open[index] ?? box.open));
  focusable(fresh)[focused]?.focus({ preventScroll: true });
}

function update(page) {
  const fresh = partsOf(page);
  const current = partsOf(document);
  if ([...fresh.keys()].join() !== [...current.keys()].join()) {
    // a new ratio or run: the parts no longer correspond
    document.querySelector("main").replaceWith(page.querySelector("main"));
    document.querySelector("header [data-part]").replaceWith(page.querySelector("header [data-part]"));
  } else {
    for (const [name, part] of fresh) {
      if (shown.get(name) !== part.outerHTML) swap(current.get(name), part.cloneNode(true));
    }
  }
  shown = htmlOf(fresh);
  document.title = page.title;
  // a screen reader announces every assignment, so only a new text is assigned
  const text = page.getElementById("status").textContent;
  if (status.textContent !== text) status.textContent = text;
}

async function refresh() {
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  try {
    const response = await fetch(location.pathname, { cache: "no-store" });
    if (!response.ok) throw new Error(response.status);
    update(new DOMParser().parseFromString(await response.text(), "text/html"));
  } catch {
    connection.textContent = "The dashboard does not answer: this is the last state it sent.";
  } finally {
    busy = false;
    if (again) {
      again = false;
      setTimeout(refresh, SETTLE_MS);
    }
  }
}

const events = new EventSource("/events");
events.addEventListener("changed", (event) => {
  if (!slug || event.data === slug) refresh();
});
events.addEventListener("open", () => {
  if (connection.textContent) refresh();
  connection.textContent = "";
});
events.addEventListener("error", () => {
  connection.textContent = "The dashboard has ended or cannot be reached: this is the last state it sent.";
});
