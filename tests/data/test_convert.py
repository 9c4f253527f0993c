"""Law: an importer reads every byte before a table is made, and says in words what is wrong, where, and what to do.

Every sentence of the audit, on real files; then the real sets, against the numbers their own README states.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cid_ray import prepare
from cid_ray.config import Data, InputError
from cid_ray.data import audit
from cid_ray.data.batches import Plan, Reader, local_batches
from cid_ray.data.splits import make_split
from cid_ray.data.table import Table, default_colors
from tests.data.made import (
    SIZE,
    ids,
    picture,
    prepare_folder,
    refusal,
    write_folders,
    write_pool,
)
from tests.support import real_data

MASKS = [ids(i) for i in range(5)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five images with masks of three classes; the fifth becomes val."""
    return write_folders(tmp_path / "set", MASKS)


def colored(mask: np.ndarray, colors: list[list[int]]) -> np.ndarray:
    return np.array(colors, np.uint8)[mask]


def test_plain_folders_become_a_table_with_every_fifth_image_held_out(root: Path) -> None:
    table = prepare_folder(root)
    assert table.classes == ["a", "b", "c"] and len(table) == 5
    assert len(table.rows("train")) == 4 and len(table.rows("val")) == 1
    paths = table.index["image_path"].to_pylist()
    for index, path in enumerate(paths):
        image, mask = table.read(index, mask=True)
        number = int(Path(path).stem)
        np.testing.assert_array_equal(mask, MASKS[number])
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(root / path)))


def test_val_and_test_folders_are_their_splits(root: Path, tmp_path: Path) -> None:
    held = write_folders(tmp_path / "held", [ids(9)] * 2, seed=1)
    given = ("--val-images", held / "images", "--val-masks", held / "masks")
    table = prepare_folder(root, *given)
    assert len(table.rows("train")) == 5 and len(table.rows("val")) == 2


def test_val_images_without_val_masks_are_refused(root: Path) -> None:
    assert "--val-masks" in refusal(root, "--val-images", root / "images")


def test_ids_outside_the_classes_are_named_with_their_files_and_the_way_out(root: Path) -> None:
    odd = MASKS[2].copy()
    odd[0, 0], odd[0, 1] = 7, 9
    Image.fromarray(odd).save(root / "masks" / "02.png")
    said = refusal(root)
    assert "outside the 3 classes (0..2)" in said
    assert "7 (in 1 files" in said and "9 (in 1 files" in said and str(root / "masks" / "02.png") in said
    assert "--map 7=255 --map 9=255" in said
    assert "outside" in refusal(root, "--skip-bad"), "a bad set is not a bad file"
    table = prepare_folder(root, "--map", "7=255", "--map", "9=255")
    mask = table.mask(table.index["image_path"].to_pylist().index("images/02.jpg"))
    assert mask[0, 0] == mask[0, 1] == 255


def test_a_mask_of_another_size_than_its_image_is_named(root: Path) -> None:
    Image.fromarray(ids(0, size=(10, 12))).save(root / "masks" / "03.png")
    said = refusal(root)
    assert f"{root / 'masks' / '03.png'}: the mask is 12 x 10, its image {SIZE[1]} x {SIZE[0]} pixels" in said


def test_masks_of_0_and_255_are_refused_and_the_remedy_trains_ids_0_and_1(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "set", [ids(i, 2) * 255 for i in range(10)])
    said = refusal(root, classes=None)
    assert "nothing would be learned" in said and "`--map 255=1`" in said
    table = prepare_folder(root, "--map", "255=1", classes=None)
    assert table.num_classes == 2 and (table.class_pixels.sum(0) > 0).all()
    data = Data(ratio="1/2", crop_size=SIZE, scale=(1, 1), batch_size=4, batch_size_u=1, threads=1)
    plan = Plan.of(data, make_split(table, data), 0, feed_pool=False)
    seen = {
        int(v) for batch in local_batches(Reader(table, None, 8), plan, data, 0, 3) for v in np.unique(batch["mask_x"])
    }
    assert seen == {0, 1}


def break_image(root: Path, content: Callable[[bytes], bytes]) -> Path:
    file = root / "images" / "01.jpg"
    file.write_bytes(content(file.read_bytes()))
    return file


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """A picture of 400 million pixels in a few kilobytes."""
    out = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(out, "PNG", compress_level=1)
    return out.getvalue()


UNREADABLE: dict[str, Callable[[bytes], bytes]] = {
    "cut in half": lambda content: content[: len(content) // 2],
    "cut after its header": lambda content: content[:30],
    "zero bytes": lambda content: b"",
    "text": lambda content: b"<html>404</html>",
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_unreadable_image_is_named(root: Path, kind: str) -> None:
    file = break_image(root, UNREADABLE[kind])
    said = refusal(root)
    assert f"{file}: unreadable or truncated image" in said and "--skip-bad" in said


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize("classes", ["a\nb\nc\n", None], ids=["classes", "no classes"])
def test_an_unreadable_mask_is_named(root: Path, kind: str, classes: str | None) -> None:
    file = root / "masks" / "01.png"
    file.write_bytes(UNREADABLE[kind](file.read_bytes()))
    said = refusal(root, classes=classes)
    assert f"{file}: unreadable mask" in said and "--skip-bad" in said


@pytest.mark.parametrize("part", ["images/01.jpg", "masks/01.png"])
def test_a_decompression_bomb_is_refused_by_name(root: Path, bomb: bytes, part: str) -> None:
    (root / part).write_bytes(bomb)
    assert str(root / part) in refusal(root)


def test_an_image_beyond_the_pixel_limit_is_refused_by_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MAX_PIXELS", SIZE[0] * SIZE[1])
    Image.fromarray(picture(77, (SIZE[0], SIZE[1] + 1))).save(root / "images" / "04.jpg")
    said = refusal(root)
    assert f"{root / 'images' / '04.jpg'}: {SIZE[1] + 1} x {SIZE[0]} pixels" in said and "1 problem" in said


def test_skip_bad_leaves_out_names_and_counts(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = break_image(root, UNREADABLE["cut in half"])
    Image.fromarray(ids(0, size=(10, 12))).save(root / "masks" / "03.png")
    table = prepare_folder(root, "--skip-bad")
    out = capsys.readouterr().out
    assert len(table) == 3 and not {"images/01.jpg", "images/03.jpg"} & set(table.index["image_path"].to_pylist())
    assert f"left out: {file}" in out and f"left out: {root / 'masks' / '03.png'}" in out
    kept = json.loads((root / "table" / "meta.json").read_text())["skipped"]
    assert "2 files left out (--skip-bad)" in out and len(kept) == 2


def test_skip_bad_works_without_a_classes_file(root: Path) -> None:
    (root / "masks" / "01.png").write_bytes(b"")
    assert len(prepare_folder(root, "--skip-bad", classes=None)) == 4


def test_skip_bad_does_not_make_a_table_without_a_train_image(root: Path) -> None:
    for file in (root / "images").iterdir():
        file.write_bytes(b"")
    assert "no train image" in refusal(root, "--skip-bad")


def test_ten_problems_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "set", [ids(i) for i in range(14)])
    for file in (root / "images").iterdir():
        file.write_bytes(b"")
    said = refusal(root)
    assert "14 problem(s)" in said and said.count("unreadable") == 10 and "and 4 more" in said


def test_a_class_without_a_pixel_is_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare_folder(root, classes="a\nb\nc\nmoon\n")
    out = capsys.readouterr().out
    assert "no train mask has a pixel of: moon (never learned)" in out
    assert "no val mask has a pixel of: moon (left out of mIoU)" in out


def test_ignored_pixels_count_for_no_class(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = prepare_folder(root, "--ignore-index", 0, classes="void\nb\nc\n")
    assert table.class_pixels[:, 0].sum() == 0 and table.class_pixels[:, 1:].all()
    assert "no train mask has a pixel of: void" in capsys.readouterr().out


@pytest.mark.parametrize("ignored", [-1, 256, 300])
def test_an_ignore_index_that_no_mask_can_hold_is_refused(root: Path, ignored: int) -> None:
    assert "--ignore-index" in refusal(root, f"--ignore-index={ignored}")


def test_a_rare_class_of_two_is_told_with_what_helps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rare = np.zeros(SIZE, np.uint8)
    rare[0, :5] = 1
    prepare_folder(write_folders(tmp_path / "set", [rare] * 5), classes="back\nlesion\n")
    assert "rarer than 5 %" in capsys.readouterr().out


def test_the_same_image_in_two_splits_is_named_twice(root: Path, tmp_path: Path) -> None:
    held = write_folders(tmp_path / "held", [ids(9)] * 2, seed=1)
    (held / "images" / "00.jpg").write_bytes((root / "images" / "02.jpg").read_bytes())
    given = ("--val-images", held / "images", "--val-masks", held / "masks")
    said = refusal(root, *given)
    assert f"{root / 'images' / '02.jpg'} (train) is the same image as {held / 'images' / '00.jpg'} (val)" in said
    table = prepare_folder(root, *given, "--skip-bad")
    assert len(table.rows("val")) == 2 and len(table.rows("train")) == 4, "the held-out copy stays"


def test_a_held_out_image_in_the_pool_is_named(root: Path, tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", 2, seed=5)
    (pool / "01.jpg").write_bytes((root / "images" / "04.jpg").read_bytes())
    assert f"{pool / '01.jpg'} (train) is the same image as" in refusal(root, "--unlabeled", pool)


def test_copies_within_a_split_are_counted(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "images" / "01.jpg").write_bytes((root / "images" / "00.jpg").read_bytes())
    assert len(prepare_folder(root)) == 5
    assert "1 images are copies" in capsys.readouterr().out


def test_a_missing_mask_names_the_image_and_unlabeled(root: Path) -> None:
    (root / "masks" / "02.png").unlink()
    (root / "masks" / "03.png").unlink()
    said = refusal(root)
    assert "2 images have no mask" in said and str(root / "images" / "02.jpg") in said and "--unlabeled" in said


def test_unlabeled_folders_need_no_masks_and_may_be_many(root: Path, tmp_path: Path) -> None:
    north, south = write_pool(tmp_path / "north", 3, seed=2), write_pool(tmp_path / "south", 4, seed=3)
    table = prepare_folder(root, "--unlabeled", north, "--unlabeled", south)
    train = table.rows("train")
    assert len(train) == 4 + 7 and table.labeled[train].sum() == 4
    pool = train[~table.labeled[train]]
    assert sorted(table.groups(pool)) == ["north"] * 3 + ["south"] * 4
    assert len(set(table.ids(np.arange(len(table))))) == len(table)


def test_palette_masks_are_their_ids(tmp_path: Path) -> None:
    masks = []
    for mask in MASKS:
        image = Image.fromarray(mask)
        image.putpalette([value for color in default_colors(256) for value in color])
        masks.append(image)
    table = prepare_folder(write_folders(tmp_path / "set", masks))
    assert Image.open(tmp_path / "set" / "masks" / "00.png").mode == "P"
    np.testing.assert_array_equal(table.mask(table.index["image_path"].to_pylist().index("images/00.jpg")), MASKS[0])


def test_masks_of_one_bit_are_ids_0_and_1(tmp_path: Path) -> None:
    masks = [ids(i, 2) for i in range(5)]
    table = prepare_folder(write_folders(tmp_path / "set", [Image.fromarray(m > 0) for m in masks]), classes="a\nb\n")
    assert Image.open(tmp_path / "set" / "masks" / "00.png").mode == "1"
    np.testing.assert_array_equal(table.mask(table.index["image_path"].to_pylist().index("images/00.jpg")), masks[0])


def test_colour_masks_are_read_through_the_classes_colours(tmp_path: Path) -> None:
    colors = [[0, 0, 0], [200, 10, 20], [30, 40, 250]]
    shown = [colored(mask, colors) for mask in MASKS]
    shown[0][5, 5] = (1, 2, 3)
    root = write_folders(tmp_path / "set", [Image.fromarray(mask) for mask in shown])
    classes = "# ids in this order\nback ground 0 0 0\nred thing 200,10,20\nblue 30 40 250\n"
    table = prepare_folder(root, classes=classes)
    assert table.classes == ["back ground", "red thing", "blue"] and table.colors == colors
    expected = MASKS[0].copy()
    expected[5, 5] = 255
    np.testing.assert_array_equal(table.mask(table.index["image_path"].to_pylist().index("images/00.jpg")), expected)


@pytest.mark.parametrize("classes", ["a\nb\nc\n", None], ids=["other colours", "no classes"])
def test_colour_masks_without_their_colours_name_file_and_remedy(tmp_path: Path, classes: str | None) -> None:
    masks = [colored(mask, [[1, 1, 2], [3, 3, 4], [5, 5, 6]]) for mask in MASKS]
    said = refusal(write_folders(tmp_path / "set", masks), classes=classes)
    assert "masks/00.png" in said and "colour" in said and "`name r g b`" in said


def test_mask_ids_beyond_a_byte_are_named(tmp_path: Path) -> None:
    masks = [Image.fromarray(mask.astype(np.uint16) * 300) for mask in MASKS]
    said = refusal(write_folders(tmp_path / "set", masks))
    assert "masks/00.png: mask ids up to 600, must be below 256" in said


def test_group_is_the_first_group_of_the_regex(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "set", MASKS)
    for kind, suffix in (("images", "jpg"), ("masks", "png")):
        for index in range(5):
            old = root / kind / f"{index:02d}.{suffix}"
            old.rename(root / kind / f"site{index % 2}_{index:02d}.{suffix}")
    table = prepare_folder(root, "--group", r"^(site\d)_")
    stems = [Path(path).stem for path in table.index["image_path"].to_pylist()]
    assert table.groups(np.arange(5)).tolist() == [stem[:5] for stem in stems]


def test_a_malformed_group_regex_is_told(root: Path) -> None:
    assert "--group" in refusal(root, "--group", "(")


@pytest.mark.parametrize("text", ["11", "11=", "=3", "a=b", "256=0", "0=256", "-1=0"])
def test_a_malformed_map_says_how_it_should_look(root: Path, text: str) -> None:
    assert "OLD=NEW" in refusal(root, f"--map={text}")


def test_a_table_is_never_written_over(root: Path) -> None:
    first = prepare_folder(root)
    with pytest.raises(InputError, match="already holds a table"):
        prepare_folder(root)
    assert Table(root / "table").fingerprint == first.fingerprint


@pytest.mark.parametrize("part", ["images", "masks"])
def test_a_folder_that_is_none_is_named(root: Path, part: str) -> None:
    (root / part).rename(root / "away")
    assert str(root / part) in refusal(root)


def test_a_folder_without_images_is_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'} holds no image" in refusal(root, "--unlabeled", tmp_path / "empty")


def test_a_missing_classes_file_is_named(root: Path) -> None:
    assert "nowhere.txt does not exist" in refusal(root, "--classes", root / "nowhere.txt", classes=None)


def test_the_table_does_not_depend_on_where_the_folders_lie(tmp_path: Path) -> None:
    prints = {prepare_folder(write_folders(tmp_path / name, MASKS)).fingerprint for name in ("here", "there")}
    assert len(prints) == 1


def stated_shares() -> dict[str, list[tuple[float, int]]]:
    """Per class of CamVid's README: pixel share in % and images that contain it, for train, val and test."""
    lines = re.findall(r"^ *\d+ (\w+) +(.+\))$", real_data("camvid", "README.md").read_text(), re.MULTILINE)
    cells = {name: re.findall(r"([\d.]+) \((\d+)\)", rest) for name, rest in lines}
    return {name: [(float(share), int(count)) for share, count in found] for name, found in cells.items()}


@pytest.mark.data
def test_camvid_has_the_images_and_drives_that_its_readme_states(camvid: Table) -> None:
    assert [len(camvid.rows(split)) for split in ("train", "val", "test")] == [367, 101, 233]
    assert camvid.num_classes == 11 and camvid.labeled.all()
    drives = {split: camvid.groups(camvid.rows(split)).tolist() for split in ("train", "val", "test")}
    assert set(drives["train"]) == {"0001TP", "0006R0", "0016E5"} and set(drives["val"]) == {"0016E5"}
    assert drives["train"].count("0016E5") == 204
    assert drives["train"].count("0001TP") == drives["test"].count("0001TP") == 62


@pytest.mark.data
@pytest.mark.parametrize(("index", "split"), list(enumerate(("train", "val", "test"))))
def test_camvids_pixel_shares_are_those_of_its_readme(camvid: Table, index: int, split: str) -> None:
    pixels = camvid.class_pixels[camvid.rows(split)]
    stated = stated_shares()
    assert set(camvid.classes) == set(stated) - {"void"}
    for name, share, count in zip(
        camvid.classes, 100 * pixels.sum(0) / (len(pixels) * 480 * 360), (pixels > 0).sum(0), strict=True
    ):
        assert round(float(share), 3) == pytest.approx(stated[name][index][0], abs=1e-3)
        assert count == stated[name][index][1]
    if split == "train":
        assert round(100 * float(pixels.sum(0)[3]) / (367 * 480 * 360), 3) == 31.658


def prepare_real(out: Path, images: Path, masks: Path, *options: object) -> Table:
    given = ("folder", "--images", images, "--masks", masks, "--out", out, *options)
    assert prepare.main([str(option) for option in given]) == 0
    return Table(out)


@pytest.mark.data
def test_pascals_palette_masks_are_read_with_21_classes(tmp_path: Path) -> None:
    root = real_data("voc_mini")
    (tmp_path / "voc.txt").write_text("\n".join(f"voc{i}" for i in range(21)))
    table = prepare_real(
        tmp_path / "t", root / "JPEGImages", root / "SegmentationClass", "--classes", tmp_path / "voc.txt"
    )
    present = {
        path: np.flatnonzero(table.class_pixels[i]).tolist()
        for i, path in enumerate(table.index["image_path"].to_pylist())
    }
    assert present["JPEGImages/2011_000003.jpg"] == [0, 5, 15] and present["JPEGImages/2007_000129.jpg"] == [0, 2, 15]
    assert all(255 in table.mask(i) for i in range(len(table)))


@pytest.mark.data
def test_coco_stuff_is_read_with_182_classes(tmp_path: Path) -> None:
    root = real_data("cocostuff_mini")
    (tmp_path / "coco.txt").write_text("\n".join(f"stuff{i}" for i in range(182)))
    table = prepare_real(
        tmp_path / "t", root / "img" / "train", root / "label" / "train",
        "--val-images", root / "img" / "val", "--val-masks", root / "label" / "val", "--classes", tmp_path / "coco.txt",
    )  # fmt: skip
    assert len(table.rows("train")) == 13 and len(table.rows("val")) == 8 and table.num_classes == 182
    sizes = list(zip(table.index["height"].to_pylist(), table.index["width"].to_pylist(), strict=True))
    for index in range(0, len(table), 5):
        image, mask = table.read(index, mask=True)
        assert mask is not None and mask.shape == sizes[index] == (image.height, image.width)
