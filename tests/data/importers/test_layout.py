"""Law: the root of a published data set is found from near it, else what is missing is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from cid_ray.config import InputError
from cid_ray.data.importers.layout import NamedFiles, find_root, read_list
from cid_ray.data.ingest.findings import Findings
from tests.helpers.dataset_layouts import write_image, write_list

PARTS = ("images", "lists/train.txt")


def make_root(folder: Path) -> Path:
    (folder / "images").mkdir(parents=True)
    write_list(folder / "lists" / "train.txt", ["a"])
    return folder


def root_of(given: Path, prefer: str | None = None) -> tuple[Path, list[str]]:
    findings = Findings()
    root = find_root(given, "Flowers", PARTS, findings, prefer)
    return root, findings.describe()


def root_error(given: Path) -> str:
    with pytest.raises(InputError) as caught:
        root_of(given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_given_root_is_taken_as_it_is(tmp_path: Path) -> None:
    assert root_of(make_root(tmp_path)) == (tmp_path, [])


@pytest.mark.parametrize("given", [".", "kit", "kit/flowers/images", "kit/flowers/lists"])
def test_root_below_or_above_is_found_and_told(tmp_path: Path, given: str) -> None:
    root = make_root(tmp_path / "kit" / "flowers")
    found, told = root_of(tmp_path / given)
    assert found == root
    assert told == [f"guessed: 1 root folders, below or above the given one (e.g. {root})"]


def test_several_roots_are_refused_unless_one_has_the_usual_name(tmp_path: Path) -> None:
    for name in ("2007", "2012"):
        make_root(tmp_path / name)
    message = root_error(tmp_path)
    assert f"holds more than one Flowers: {tmp_path / '2007'}, {tmp_path / '2012'}" in message
    assert root_of(tmp_path, prefer="2012")[0] == tmp_path / "2012"


def test_missing_part_is_named_with_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "flowers.zip").touch()
    for given in (tmp_path / "set", tmp_path):
        message = root_error(given)
        assert f"{tmp_path / 'set' / 'lists' / 'train.txt'} does not exist" in message
        assert "found flowers.zip, images; extract flowers.zip first" in message


def test_archive_file_and_nothing_are_refused_with_their_remedy(tmp_path: Path) -> None:
    archive = tmp_path / "flowers.tar"
    archive.touch()
    assert f"{archive} is an archive; extract it and give the folder" in root_error(archive)
    text = tmp_path / "flowers.txt"
    text.touch()
    assert f"{text} is a file" in root_error(text)
    assert f"{tmp_path / 'none'} does not exist" in root_error(tmp_path / "none")


def test_repeated_lines_of_a_list_are_counted(tmp_path: Path) -> None:
    findings = Findings()
    write_list(tmp_path / "list.txt", ["b", "a b", "", "b", "b"])
    assert read_list(tmp_path / "list.txt", findings) == ["b", "a b"]
    assert [(one.reason, one.count) for one in findings] == [("repeated lines of image lists", 2)]


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for suffix in ("jpg", "png"):
        write_image(tmp_path / f"a.{suffix}")
    with pytest.raises(InputError, match=r"a\.jpg and .*a\.png have the same name"):
        NamedFiles(tmp_path, Findings())
