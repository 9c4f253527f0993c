"""The audit page of a table, `audit.html`: what is in it, seen before it is trained on.

Self-contained like the report. It shows what `data/table_summary.py` and `data/contact_sheet.py`
made of a table; `results` and `data` never import each other, so their objects are only read here.
Everything that comes from data is escaped by the template, and hidden characters are written out.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from cid_ray.config.plain_text import printable
from cid_ray.results.formatting import MISSING
from cid_ray.results.report_page import legend_entry, templates
from cid_ray.storage import paths
from cid_ray.storage.paths import PathOrUri

MAX_LISTED = 20  # files that were left out, named one by one
MAX_VALUE_CHARS = 200  # of an option or a note of the import
LOW_FIT = 1.1  # below this median, masks and images do not belong together


def write_audit_page(summary: Any, sheet: Any, out: PathOrUri) -> None:
    """Write the audit page of a table.

    Args:
        summary: what `data.table_summary.summarize_table` returned.
        sheet: what `data.contact_sheet.make_contact_sheet` returned.
        out: the file, usually `TABLE/audit.html`.

    Raises:
        OSError: the file cannot be written. An older page then stays as it is.

    Example:
        >>> table = open_table("tables/mine")
        >>> summary = summarize_table(table)
        >>> sheet = make_contact_sheet(table, summary.notes.near_duplicates)
        >>> write_audit_page(summary, sheet, Path("tables/mine/audit.html"))
    """
    notes = summary.notes
    content = {
        "summary": summary,
        "sheet": sheet,
        "notes": notes,
        "legend": [
            legend_entry(name, color)
            for name, color in zip(summary.classes, summary.colors, strict=True)
        ],
        "alerts": [*notes.warnings, *_alerts(summary, sheet)],
        "import_facts": _import_facts(notes),
        "skipped": notes.skipped[:MAX_LISTED],
        "more_skipped": max(0, len(notes.skipped) - MAX_LISTED),
        "num_pairs": max(notes.near_duplicate_pairs, len(notes.near_duplicates)),
    }
    page = page_templates().get_template("audit.html.j2").render(**content)
    # A name that is not UTF-8 holds surrogates, which no file can.
    paths.write_text(out, page.encode("utf-8", "backslashreplace").decode())


def page_templates() -> Environment:
    """The templates of pages about data: hidden characters are written out, pictures are JPEGs."""
    pages = templates().overlay(finalize=_without_hidden_characters)
    # A copy: an overlay shares the filters of all other pages.
    own = {"jpeg": _data_uri, "percent": format_percent, "size": _format_size}
    pages.filters = {**pages.filters, **own}
    return pages


def _without_hidden_characters(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _format_size(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"


def format_percent(share: float | None) -> str:
    """A fraction in percent: "31.7", "0.04", "<0.01"; a dash for None."""
    if share is None:
        return MISSING
    percent = 100 * share
    if 0 < percent < 0.01:
        return "<0.01"
    return f"{percent:.1f}" if percent >= 1 else f"{percent:.2g}"


def _alerts(summary: Any, sheet: Any) -> list[str]:
    """What the pictures and the counts say is probably wrong."""
    found = [
        f"{one.split}: mask edges fit their images by {one.edge_fit:.2f} in the middle of "
        f"{one.decoded} images. 1 is what a mask gets that has nothing to do with its image: look "
        "whether images and masks belong together"
        for one in sheet.sheets
        if one.edge_fit is not None and one.edge_fit < LOW_FIT
    ]
    for one in sheet.sheets:
        if one.mirrored:
            found.append(f"{one.split}: {one.mirrored} of {one.decoded} masks fit better mirrored")
    for split in summary.splits:
        if split.shared_groups and split.name != "train":
            shared = ", ".join(split.shared_groups)
            found.append(f"{split.name} shares groups with other splits: {shared}")
    if sheet.unreadable:
        count = len(sheet.unreadable)
        found.append(f"{count} images cannot be decoded, first: {sheet.unreadable[0]}")
    return found


def _import_facts(notes: Any) -> list[tuple[str, str]]:
    """Name and value of all that `meta.json` says about how the table was made."""
    own = {"version", "classes", "colors", "ignore_index", "fingerprint", "index_sha256"}
    others = {key: value for key, value in (notes.model_extra or {}).items() if key not in own}
    return [(key, _short(value)) for key, value in {**notes.imported, **others}.items()]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]} ..."
