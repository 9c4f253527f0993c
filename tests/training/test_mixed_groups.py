"""A label curve of one group's labels has a warning where larger ratios take other groups too."""

from __future__ import annotations

from typing import Any

import pytest

from cid_ray.config import build_config
from cid_ray.training.preflight import check_data


def messages(ratios: list[str], **changes: Any) -> list[str]:
    base = {"data.table": "demo", "data.label_from": "one_group", **changes}
    variants = [build_config({}, {**base, "data.ratio": ratio}) for ratio in ratios]
    return [text for text in check_data(variants[0], variants).messages if "one_group" in text]


def test_ratio_that_leaves_the_group_is_named() -> None:
    """The demo has 48 train images of each of four seasons."""
    (line,) = messages(["12", "1/2", "48"])
    assert "12 labels is drawn from 1 of the table's groups, 1/2 (96) from 2: their" in line


@pytest.mark.parametrize(
    ("ratios", "label_from"),
    [(["6", "48"], "one_group"), (["96"], "one_group"), (["12", "96"], "any")],
)
def test_curve_of_one_domain_is_not_warned_of(ratios: list[str], label_from: str) -> None:
    assert messages(ratios, **{"data.label_from": label_from}) == []
