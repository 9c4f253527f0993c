"""Texts that would break a page that does not escape them, and what a page is made of."""

from __future__ import annotations

import re
from html.parser import HTMLParser

HARMLESS = "xq"  # in every place where the others are
HOSTILE = {
    "markup": "</p></text></svg><script>alert(1)</script><img src=x onerror=alert(1)>"
    "\" onmouseover=\"alert(1)\" x='' onclick='alert(1)'"
    "</style></title></pre></code>--><!--]]><![CDATA[<textarea>",
    "escaped": "&lt;b&gt;&#60;i&#62;&quot; {{ 7 * 7 }} {% raw %}"
    " $\\frac{$ $x^2$ \\N{DEGREE SIGN} %s {0}",
    "markdown": "|a|b| `code` [x](javascript:alert(1)) ![y](//evil.example/z)\n\n# <u>"
    "\x1b[31m\u202e\x07\x00<b>",
}
STYLE = re.compile(
    r"(background: (#[0-9a-f]{6}|transparent)|--min-width: \d+px; --max-width: \d+px"
    r"|--share: \d+\.\d%)"
)


class Skeleton(HTMLParser):
    """The elements of a page with the names of their attributes, and the values that act."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[tuple[str, ...]] = []  # outside of figures, in their order
        self.figure_elements: set[tuple[str, ...]] = set()  # ticks depend on the room for names
        self.styles: set[str] = set()
        self.addresses: set[str] = set()
        self.declarations: list[str] = []
        self.in_figure = 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = (tag, *(name for name, _ in attrs))
        self.in_figure += tag == "svg"
        if self.in_figure:
            self.figure_elements.add(element)
        else:
            self.elements.append(element)
        for name, value in attrs:
            if name == "style" and not self.in_figure:
                self.styles.add(value or "")
            if name in ("src", "href", "action", "xlink:href"):
                self.addresses.add(value or "")

    def handle_endtag(self, tag: str) -> None:
        if not self.in_figure:
            self.elements.append(("/" + tag,))
        self.in_figure -= tag == "svg"

    def handle_comment(self, data: str) -> None:
        self.declarations.append(data)

    def unknown_decl(self, data: str) -> None:
        self.declarations.append(data)
