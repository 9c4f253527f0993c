"""Laws of files that ship with cid_ray: a user's own copy wins, and a missing one is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from cid_ray.config import InputError
from cid_ray.storage import packaged
from cid_ray.storage.packaged import named_file, packaged_file, packaged_names


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


def test_bare_name_is_a_packaged_file_in_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = packaged.PACKAGE.parent
    assert named_file("demo", "search_spaces") == root / "search_spaces" / "demo.yaml"
    assert named_file("aws", "cluster") == root / "cluster" / "aws.yaml"
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces" / "mine.yaml").touch()
    assert named_file("mine", "search_spaces") == Path("search_spaces", "mine.yaml")
    assert packaged_names("search_spaces") == ["camvid", "cityscapes", "demo", "mine", "voc"]


@pytest.mark.parametrize("name", ["a.yaml", "./demo", "x/demo", "/demo", "demo/", "../demo.yml"])
def test_name_with_suffix_or_separator_is_a_path(name: str) -> None:
    assert named_file(name, "search_spaces") == Path(name)


@pytest.mark.parametrize(
    ("name", "folder", "message"),
    [
        (
            "dem",
            "search_spaces",
            r"no search_spaces/dem.yaml; did you mean demo\?; .*camvid, cityscapes, demo, voc",
        ),
        (
            "prices",
            "cluster",
            r"no cluster/prices.yaml; those that come with cid_ray are aws, gcp, ",
        ),
        ("mine", "search_spaces", r"for the file mine write \./mine"),
        ("there/demo.yaml", "search_spaces", r"there/demo.yaml does not exist .*write `demo`"),
    ],
)
def test_unknown_name_lists_the_known_ones(
    name: str, folder: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").touch()
    with pytest.raises(InputError, match=message):
        named_file(name, folder)
