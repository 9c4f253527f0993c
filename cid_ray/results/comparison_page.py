"""The files of a comparison: `index.html`, self-contained in one file, `comparison.md` and
`comparison.json`, which has every number of the others with all its digits.

Everything that comes from data is escaped by the template, and hidden characters are written out.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from cid_ray.results.audit_page import page_templates
from cid_ray.results.comparison_text import comparison_markdown, sections, title
from cid_ray.results.run_comparison import RunComparison
from cid_ray.storage import paths
from cid_ray.storage.paths import PathOrUri

PAGE_FILE, MARKDOWN_FILE, JSON_FILE = "index.html", "comparison.md", "comparison.json"


def write_comparison(comparison: RunComparison, out: PathOrUri) -> None:
    """Write the files of a comparison.

    Args:
        comparison: what `compare_runs` returned.
        out: the folder; it is created if absent.

    Raises:
        OSError: it cannot be written.

    Example:
        >>> write_comparison(compare_runs(["runs/before", "runs/after"]), "pages/change")
    """
    page = (
        page_templates()
        .get_template("comparison.html.j2")
        .render(
            title=title(comparison),
            comparison=comparison,
            sections=sections(comparison),
            json_file=JSON_FILE,
        )
    )
    values = json.dumps(asdict(comparison), indent=2, allow_nan=False) + "\n"
    paths.write_text(paths.join(out, JSON_FILE), values)
    paths.write_text(paths.join(out, MARKDOWN_FILE), comparison_markdown(comparison))
    paths.write_text(paths.join(out, PAGE_FILE), page)
