"""Law: val is about a fifth of the labeled images, and no group is on both sides."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cid_ray.config import InputError
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.items import ImportItem
from cid_ray.data.ingest.val_split import choose_groups, hold_out_val, without_val_groups


def item(name: str, group: str | None = None, labeled: bool = True) -> ImportItem:
    mask = Path(f"masks/{name}.png") if labeled else None
    return ImportItem(f"train/{name}", "train", Path(f"images/{name}.png"), mask, group, Path())


def test_every_fifth_labeled_image_is_val() -> None:
    items = [item(f"{index:02d}", labeled=index != 2) for index in range(12)]
    findings = Findings()
    held_out = hold_out_val(items, findings, "--val")
    val = [one.image_id for one in held_out if one.split == "val"]
    assert val == ["train/05", "train/10"], "the unlabeled one does not count"
    assert [one.image_id for one in held_out] == [one.image_id for one in items]
    (finding,) = findings
    assert finding.describe() == (
        "guessed: 2 val images (no --val: every fifth labeled image) "
        "(e.g. images/05.png, images/10.png)"
    )


def test_val_is_whole_groups_and_they_are_named() -> None:
    sizes = {"north": 5, "south": 4, "east": 6, "west": 5}
    items = [item(f"{name}_{i}", name) for name, size in sizes.items() for i in range(size)]
    findings = Findings()
    held_out = hold_out_val(items, findings, by_group=True)
    counts = Counter(one.group for one in held_out if one.split == "val")
    assert counts and all(sizes[name or ""] == count for name, count in counts.items())
    assert 4 <= counts.total() <= 6
    (finding,) = findings
    groups = ", ".join(sorted(name or "" for name in counts))
    assert finding.describe().startswith(
        f"guessed: {counts.total()} val images (no --val-images: {len(counts)} of 4 groups, whole)"
    )
    assert finding.examples == [groups]


def test_one_group_only_is_refused_with_remedy() -> None:
    with pytest.raises(InputError, match=r"all 3 labeled images into one group, 'a'.*--val-images"):
        hold_out_val([item(str(i), "a") for i in range(3)], Findings(), by_group=True)


def test_image_without_a_group_is_a_group_of_its_own() -> None:
    items = [item(str(index)) for index in range(10)]
    held_out = hold_out_val(items, Findings(), by_group=True)
    assert sum(one.split == "val" for one in held_out) == 2


def test_unlabeled_images_of_val_groups_are_left_out() -> None:
    labeled = [item(f"{name}_{i}", name) for name in "abcde" for i in range(4)]
    held_out = hold_out_val(labeled, Findings(), by_group=True)
    (val_group,) = {one.group for one in held_out if one.split == "val"}
    pool = [item(f"pool_{name}", name, labeled=False) for name in "abcdef"]
    findings = Findings()
    kept = without_val_groups(pool, held_out, findings)
    assert {one.group for one in kept} == set("abcdef") - {val_group}
    assert [one.count for one in findings] == [1]
    mixed = hold_out_val([*labeled, *pool], Findings(), by_group=True)
    assert {one.group for one in mixed if one.mask is None} == set("abcdef") - {val_group}


@given(st.dictionaries(st.text(max_size=4), st.integers(1, 100), min_size=2, max_size=30))
def test_chosen_groups_are_near_a_fifth_and_never_all(sizes: dict[str, int]) -> None:
    chosen = choose_groups(sizes)
    assert 0 < len(chosen) < len(sizes)
    total = sum(sizes.values())
    count = sum(sizes[name] for name in chosen)
    # No group could be added or exchanged for nothing to come closer by more than its size.
    assert abs(count - total / 5) <= max(sizes.values())
    assert choose_groups(dict(reversed(sizes.items()))) == chosen
