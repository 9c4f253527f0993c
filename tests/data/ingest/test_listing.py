"""Law: of a folder, images are listed once each, and everything else is counted and named."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cid_ray.config import InputError
from cid_ray.data.ingest.file_kinds import IMAGE_SUFFIXES, is_image_name, why_left_out
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.listing import FileIdentities, list_images
from cid_ray.data.ingest.names import image_name, is_changed, safe_name


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def listed(folder: Path, **options: object) -> tuple[list[str], dict[str, tuple[int, str]]]:
    """The relative names, and reason -> (count, first example) of what was left out."""
    findings = Findings()
    names = [
        path.relative_to(folder).as_posix()
        for path in list_images(folder, findings, **options)  # type: ignore[arg-type]
    ]
    return names, {one.reason: (one.count, one.examples[0]) for one in findings}


def test_images_are_listed_in_order_with_folders_below(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a/c.JPG", "a/b.tiff", "A.WebP")
    assert listed(tmp_path) == (["A.WebP", "a/b.tiff", "a/c.JPG", "b.png"], {})


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "ppm", "pgm", "pbm", "pnm", "JPEG"])
def test_uncommon_suffixes_of_known_formats_are_images(suffix: str) -> None:
    assert is_image_name(f"a.{suffix}")


LEFT_OUT = {
    "._a.png": "macOS resource files",
    ".a.png": "hidden files",
    ".DS_Store": "hidden files",
    "Thumbs.db": "files of the operating system",
    "desktop.ini": "files of the operating system",
    "a.heic": "pictures in formats that are not read (convert them to PNG)",
    "a.HEIF": "pictures in formats that are not read (convert them to PNG)",
    "a.avif": "pictures in formats that are not read (convert them to PNG)",
    "a.dcm": "pictures in formats that are not read (convert them to PNG)",
    "a.gif": "pictures in formats that are not read (convert them to PNG)",
    "a.svg": "pictures in formats that are not read (convert them to PNG)",
    "a.CR2": "pictures in formats that are not read (convert them to PNG)",
    "a.dng": "pictures in formats that are not read (convert them to PNG)",
    "a.npy": "arrays (save them as PNG or TIFF)",
    "a.mat": "arrays (save them as PNG or TIFF)",
    "a.mp4": "videos (extract their frames as PNG)",
    "a.tar.gz": "archives (extract them)",
    "a.txt": "files that are no pictures",
    "a.json": "files that are no pictures",
    "a.csv": "files that are no pictures",
    "a.xml": "files that are no pictures",
    "README.md": "files that are no pictures",
    "README": "files that are no pictures",
    "a.unheard_of": "files that are no pictures",
}


@pytest.mark.parametrize(("name", "reason"), LEFT_OUT.items())
def test_other_file_is_left_out_by_its_kind(tmp_path: Path, name: str, reason: str) -> None:
    touch(tmp_path, "image.png", name)
    assert listed(tmp_path) == (["image.png"], {reason: (1, str(tmp_path / name))})


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        (".ipynb_checkpoints", "hidden folders"),
        (".thumbs", "hidden folders"),
        ("@eaDir", "folders of the operating system"),
        ("__MACOSX", "folders of the operating system"),
        ("$RECYCLE.BIN", "folders of the operating system"),
    ],
)
def test_system_folder_is_not_entered(tmp_path: Path, folder: str, reason: str) -> None:
    touch(tmp_path, "image.png", f"{folder}/image.png", f"{folder}/deeper/b.png")
    assert listed(tmp_path) == (["image.png"], {reason: (1, str(tmp_path / folder))})


def test_given_folder_may_be_hidden_itself(tmp_path: Path) -> None:
    touch(tmp_path, ".data/image.png")
    assert listed(tmp_path / ".data") == (["image.png"], {})


def test_empty_result_names_what_was_there(tmp_path: Path) -> None:
    touch(tmp_path, "a.heic", "b.heic", "notes.txt", ".hidden.png")
    with pytest.raises(InputError) as caught:
        list_images(tmp_path, Findings())
    message = str(caught.value)
    assert message.startswith(f"{tmp_path} holds no image (.jpg, ")
    formats = "2 pictures in formats that are not read (convert them to PNG) (e.g. a.heic, b.heic)"
    assert formats in message
    assert "1 files that are no pictures (e.g. notes.txt)" in message
    assert "1 hidden files (e.g. .hidden.png)" in message


def test_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that rglob would pass over in silence."""
    touch(tmp_path, "image.png", "closed/b.png")
    real_scandir = os.scandir

    def scandir(folder: str) -> object:
        if folder.endswith("closed"):
            raise PermissionError(13, "Permission denied", folder)
        return real_scandir(folder)

    monkeypatch.setattr(os, "scandir", scandir)  # root may list everything
    with pytest.raises(InputError, match=r"closed cannot be listed \(Permission denied\)"):
        list_images(tmp_path, Findings())


# ---- links ----


def test_linked_folder_is_followed(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/a.png", "set/b.png")
    (tmp_path / "set" / "more").symlink_to(tmp_path / "elsewhere")
    assert listed(tmp_path / "set") == (["b.png", "more/a.png"], {})


def test_loop_of_links_ends(tmp_path: Path) -> None:
    touch(tmp_path, "set/deep/a.png")
    (tmp_path / "set" / "deep" / "up").symlink_to(tmp_path / "set")
    names, left_out = listed(tmp_path / "set")
    assert names == ["deep/a.png"]
    link = str(tmp_path / "set" / "deep" / "up")
    assert left_out == {"links to folders that are listed already": (1, link)}


def test_real_folder_is_listed_rather_than_a_link_to_it(tmp_path: Path) -> None:
    touch(tmp_path, "z_real/a.png")
    (tmp_path / "a_link").symlink_to(tmp_path / "z_real")
    names, left_out = listed(tmp_path)
    assert names == ["z_real/a.png"]
    assert left_out["links to folders that are listed already"][0] == 1


def test_link_to_a_listed_image_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "set/z.png", "else/b.png")
    (tmp_path / "set" / "a.png").symlink_to(tmp_path / "set" / "z.png")
    (tmp_path / "set" / "b.png").symlink_to(tmp_path / "else" / "b.png")
    (tmp_path / "set" / "c.png").symlink_to(tmp_path / "else" / "b.png")
    folder = tmp_path / "set"
    names, left_out = listed(folder)
    assert names == ["b.png", "z.png"]
    example = f"{folder / 'a.png'} = {folder / 'z.png'}"
    assert left_out == {"links to images that are listed already": (2, example)}
    assert listed(folder, unique=False) == (["a.png", "b.png", "c.png", "z.png"], {})


def test_link_to_itself_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to("b.png")
    names, left_out = listed(tmp_path)
    assert names == ["a.png"]
    assert left_out == {"broken links and special files": (1, str(tmp_path / "b.png"))}


def test_broken_link_and_pipe_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "c.png")
    names, left_out = listed(tmp_path)
    assert names == ["a.png"]
    assert left_out == {"broken links and special files": (2, str(tmp_path / "b.png"))}


def test_folder_that_another_option_names_is_not_entered(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "masks/a.png")
    (tmp_path / "link").symlink_to(tmp_path / "masks")
    names, left_out = listed(tmp_path, without=[tmp_path / "link", tmp_path])
    assert names == ["a.png"]
    assert left_out["folders that another option names"][0] == 2


def test_identity_is_the_same_through_links_of_folders_and_files(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.png", "real/b.png")
    (tmp_path / "folder").symlink_to(tmp_path / "real")
    (tmp_path / "file.png").symlink_to(tmp_path / "folder" / "a.png")
    identities = FileIdentities()
    paths = [tmp_path / "real/a.png", tmp_path / "folder/a.png", tmp_path / "file.png"]
    assert len({identities.of(path) for path in paths}) == 1
    assert identities.of(tmp_path / "folder/b.png") != identities.of(paths[0])


# ---- names ----


def test_name_of_an_image_has_neither_folder_nor_suffix() -> None:
    assert image_name(Path("set/berlin/a.b.JPG"), Path("set")) == "berlin/a.b"


def test_composed_and_decomposed_letters_are_one_name() -> None:
    names = [unicodedata.normalize(form, "straße_é_한") for form in ("NFC", "NFD")]
    assert names[0] != names[1]
    assert len({image_name(Path(f"{name}.png"), Path()) for name in names}) == 1


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("plain", "plain"),
        ("日本語", "日本語"),
        ("Screenshot 9.00\u202fAM", "Screenshot 9.00\u202fAM"),  # as macOS names them
        ("a\nb", "a\\nb"),
        ("a\x1b[31m", "a\\x1b[31m"),
        (os.fsdecode(b"stra\xdfe"), "stra\\xdfe"),
        ("a\u2028b", "a\\u2028b"),
    ],
)
def test_names_are_written_with_escapes_where_they_must(name: str, safe: str) -> None:
    assert safe_name(name) == safe
    assert is_changed(name) == (name != safe)


@given(st.binary(min_size=1, max_size=20).filter(lambda name: b"/" not in name))
def test_any_name_of_a_file_becomes_one_line_of_utf8(name: bytes) -> None:
    text = os.fsdecode(name)
    safe = safe_name(text)
    assert len(f"x{safe}x".splitlines()) == 1
    safe.encode("utf-8")
    assert is_changed(text) == (safe != text)
    assert safe_name(safe) == safe


@given(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=12))
def test_every_name_is_an_image_or_has_a_reason(name: str) -> None:
    reason = why_left_out(name)
    is_image = not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
    assert (reason is None) == is_image == is_image_name(name)
