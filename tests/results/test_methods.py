"""Law: every method has a name, a type in records, a distinct color in figures and on pages."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from cid_ray import results
from cid_ray.config import Method
from cid_ray.config.search_schema import Baseline
from cid_ray.results import score_types
from cid_ray.results.summary import COLORS, METHOD_NAMES
from cid_ray.search.space import UNUSED_BY_METHOD

METHODS = get_args(Method)


def test_every_method_is_known_wherever_methods_are_listed() -> None:
    for known in (METHOD_NAMES, COLORS, UNUSED_BY_METHOD):
        assert tuple(known) == METHODS
    assert (*METHODS, "") == get_args(score_types.Method)
    assert (*get_args(Baseline), "cid") == METHODS


def test_every_method_has_its_color_in_figures_and_in_both_schemes_of_pages() -> None:
    assert len(set(COLORS.values())) == len(METHODS)
    style = (Path(results.__file__).parent / "style.css").read_text()
    light, dark = style.split("prefers-color-scheme: dark")
    for method, color in COLORS.items():
        assert f"--{method}: {color};" in light
        assert f"--{method}: #" in dark and f".{method} {{ background: var(--{method}); }}" in dark
