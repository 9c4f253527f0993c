"""Laws of files that ship with cid_ray: a user's own copy wins, and a missing one is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from cid_ray.config import InputError
from cid_ray.storage import packaged
from cid_ray.storage.packaged import packaged_file


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("demo.yaml", "search_spaces"),
        ("prices.yaml", "cluster"),
        ("cid_ray.json", "cluster/grafana"),
    ],
)
def test_packaged_file_working_folder_wins_over_source_tree(
    name: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert packaged_file(name, folder) == packaged.PACKAGE.parent / folder / name
    own = tmp_path / folder / name
    own.parent.mkdir(parents=True)
    own.touch()
    assert packaged_file(name, folder).resolve() == own


def test_packaged_file_without_source_tree_is_found_in_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "cid_ray"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(packaged, "PACKAGE", package)
    with pytest.raises(InputError, match=r"search_spaces/demo.yaml is neither in"):
        packaged_file("demo.yaml", "search_spaces")
    inside = package / "packaged" / "search_spaces" / "demo.yaml"
    inside.parent.mkdir(parents=True)
    inside.touch()
    assert packaged_file("demo.yaml", "search_spaces") == inside
