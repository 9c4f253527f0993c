"""Law: an importer reads every byte before it writes a table, and names path, rule and remedy.

First every message of the audit, on files that the tests write. Then real data sets, against the
numbers in their own README.
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
from cid_ray.config import DataConfig, InputError
from cid_ray.data.cache import CachedReader
from cid_ray.data.image_codec import default_colors
from cid_ray.data.ingest import image_reader
from cid_ray.data.ingest.class_file import read_classes
from cid_ray.data.ingest.classes import parse_mapping
from cid_ray.data.loader import local_batches
from cid_ray.data.sampling import SamplingPlan
from cid_ray.data.splits import make_split
from cid_ray.data.table import Table
from tests.helpers.image_tables import (
    SIZE,
    import_error,
    prepare_folder,
    random_image,
    random_mask,
    write_folders,
    write_unlabeled,
)
from tests.helpers.tiny_run import real_data

MASKS = [random_mask(i) for i in range(5)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five images with masks of three classes; the fifth becomes val."""
    return write_folders(tmp_path / "set", MASKS)


def row_of(table: Table, image_path: str) -> int:
    return table.index["image_path"].to_pylist().index(image_path)


def colored(mask: np.ndarray, colors: list[list[int]]) -> np.ndarray:
    return np.array(colors, np.uint8)[mask]


def test_folders_without_val_hold_out_every_fifth_image(root: Path) -> None:
    table = prepare_folder(root)
    assert table.classes == ["a", "b", "c"]
    assert len(table) == 5
    assert len(table.rows("train")) == 4
    assert len(table.rows("val")) == 1
    paths = table.index["image_path"].to_pylist()
    for index, path in enumerate(paths):
        image, mask = table.read(index, mask=True)
        number = int(Path(path).stem)
        np.testing.assert_array_equal(mask, MASKS[number])
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(root / path)))


def test_folders_with_val_become_val_split(root: Path, tmp_path: Path) -> None:
    val = write_folders(tmp_path / "val", [random_mask(9)] * 2, seed=1)
    options = ("--val-images", val / "images", "--val-masks", val / "masks")
    table = prepare_folder(root, *options)
    assert len(table.rows("train")) == 5
    assert len(table.rows("val")) == 2


def test_val_images_without_val_masks_are_rejected(root: Path) -> None:
    assert "--val-masks" in import_error(root, "--val-images", root / "images")


def test_unknown_mask_ids_are_named_with_files_and_remedy(root: Path) -> None:
    mask = MASKS[2].copy()
    mask[0, 0] = 7
    mask[0, 1] = 9
    file = root / "masks" / "02.png"
    Image.fromarray(mask).save(file)
    message = import_error(root)
    assert "outside the 3 classes (0..2)" in message
    assert f"7 (in 1 files, first {file})" in message
    assert f"9 (in 1 files, first {file})" in message
    assert "--map 7=255 --map 9=255" in message
    assert "outside" in import_error(root, "--skip-bad"), "a bad set is not a bad file"
    table = prepare_folder(root, "--map", "7=255", "--map", "9=255")
    mask = table.mask(row_of(table, "images/02.jpg"))
    assert mask[0, 0] == mask[0, 1] == 255


def test_mask_of_other_size_is_named(root: Path) -> None:
    file = root / "masks" / "03.png"
    Image.fromarray(random_mask(0, size=(10, 12))).save(file)
    sizes = f"the mask is 12 x 10, its image {SIZE[1]} x {SIZE[0]} pixels"
    assert f"{file}: {sizes}" in import_error(root)


def test_masks_of_0_and_255_are_rejected_and_remedy_gives_ids_0_and_1(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "set", [random_mask(i, 2) * 255 for i in range(10)])
    message = import_error(root, classes=None)
    assert "nothing would be learned" in message
    assert "`--map 255=1`" in message
    table = prepare_folder(root, "--map", "255=1", classes=None)
    assert table.num_classes == 2
    assert (table.class_pixels.sum(0) > 0).all()
    data = DataConfig(
        ratio="1/2",
        crop_size=SIZE,
        scale_range=(1, 1),
        batch_size=4,
        batch_size_u=1,
        threads=1,
    )
    plan = SamplingPlan.create(data, make_split(table, data), 0, feed_pool=False)
    batches = local_batches(CachedReader(table, None, 8), plan, data, 0, 3)
    values = np.concatenate([batch["mask_x"].ravel() for batch in batches])
    assert set(np.unique(values).tolist()) == {0, 1}


def break_image(root: Path, content: Callable[[bytes], bytes]) -> Path:
    file = root / "images" / "01.jpg"
    file.write_bytes(content(file.read_bytes()))
    return file


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """An image of 400 million pixels in a few kilobytes."""
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
def test_unreadable_image_is_named(root: Path, kind: str) -> None:
    file = break_image(root, UNREADABLE[kind])
    message = import_error(root)
    assert f"{file}: unreadable or truncated image" in message
    assert "--skip-bad" in message


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize("classes", ["a\nb\nc\n", None], ids=["classes", "no classes"])
def test_unreadable_mask_is_named(root: Path, kind: str, classes: str | None) -> None:
    file = root / "masks" / "01.png"
    file.write_bytes(UNREADABLE[kind](file.read_bytes()))
    message = import_error(root, classes=classes)
    assert f"{file}: unreadable mask" in message
    assert "--skip-bad" in message


@pytest.mark.parametrize("part", ["images/01.jpg", "masks/01.png"])
def test_decompression_bomb_is_named(root: Path, bomb: bytes, part: str) -> None:
    (root / part).write_bytes(bomb)
    assert str(root / part) in import_error(root)


def test_image_above_pixel_limit_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_reader, "MAX_PIXELS", SIZE[0] * SIZE[1])
    file = root / "images" / "04.jpg"
    Image.fromarray(random_image(77, (SIZE[0], SIZE[1] + 1))).save(file)
    message = import_error(root)
    assert f"{file}: {SIZE[1] + 1} x {SIZE[0]} pixels" in message
    assert "1 problem" in message


def test_skip_bad_names_and_counts_skipped_files(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad_image = break_image(root, UNREADABLE["cut in half"])
    bad_mask = root / "masks" / "03.png"
    Image.fromarray(random_mask(0, size=(10, 12))).save(bad_mask)
    table = prepare_folder(root, "--skip-bad")
    out = capsys.readouterr().out
    assert len(table) == 3
    assert not {"images/01.jpg", "images/03.jpg"} & set(table.index["image_path"].to_pylist())
    assert f"left out: {bad_image}" in out
    assert f"left out: {bad_mask}" in out
    assert "2 files left out (--skip-bad)" in out
    skipped = json.loads((root / "table" / "meta.json").read_text())["skipped"]
    assert len(skipped) == 2


def test_skip_bad_without_classes_file_imports_the_rest(root: Path) -> None:
    (root / "masks" / "01.png").write_bytes(b"")
    assert len(prepare_folder(root, "--skip-bad", classes=None)) == 4


def test_skip_bad_without_train_image_is_rejected(root: Path) -> None:
    for file in (root / "images").iterdir():
        file.write_bytes(b"")
    assert "no train image" in import_error(root, "--skip-bad")


def test_error_message_shows_ten_problems_and_counts_the_rest(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "set", [random_mask(i) for i in range(14)])
    for file in (root / "images").iterdir():
        file.write_bytes(b"")
    message = import_error(root)
    assert "14 problem(s)" in message
    assert message.count("unreadable") == 10
    assert "and 4 more" in message


def test_class_without_pixel_is_warned_about(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_folder(root, classes="a\nb\nc\nmoon\n")
    out = capsys.readouterr().out
    assert "no train mask has a pixel of: moon (never learned)" in out
    assert "no val mask has a pixel of: moon (left out of mIoU)" in out


def test_ignored_pixels_count_for_no_class(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = prepare_folder(root, "--ignore-index", 0, classes="void\nb\nc\n")
    assert table.class_pixels[:, 0].sum() == 0
    assert table.class_pixels[:, 1:].all()
    assert "no train mask has a pixel of: void" in capsys.readouterr().out


@pytest.mark.parametrize("ignored", [-1, 256, 300])
def test_ignore_index_outside_0_to_255_is_rejected(root: Path, ignored: int) -> None:
    assert "--ignore-index" in import_error(root, f"--ignore-index={ignored}")


def test_rare_class_of_two_is_warned_about_with_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rare = np.zeros(SIZE, np.uint8)
    rare[0, :5] = 1
    prepare_folder(write_folders(tmp_path / "set", [rare] * 5), classes="back\nlesion\n")
    assert "rarer than 5 %" in capsys.readouterr().out


def test_image_in_two_splits_is_named_with_both_paths(root: Path, tmp_path: Path) -> None:
    val = write_folders(tmp_path / "val", [random_mask(9)] * 2, seed=1)
    original = root / "images" / "02.jpg"
    copy = val / "images" / "00.jpg"
    copy.write_bytes(original.read_bytes())
    options = ("--val-images", val / "images", "--val-masks", val / "masks")
    message = import_error(root, *options)
    assert f"{original} (train) is the same image as {copy} (val)" in message
    table = prepare_folder(root, *options, "--skip-bad")
    assert len(table.rows("val")) == 2, "the held-out copy stays"
    assert len(table.rows("train")) == 4


def test_held_out_image_in_pool_is_left_out_and_named(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = write_unlabeled(tmp_path / "pool", 2, seed=5)
    (pool / "01.jpg").write_bytes((root / "images" / "04.jpg").read_bytes())
    table = prepare_folder(root, "--unlabeled", pool)
    assert table.ids(np.flatnonzero(~table.labeled)) == ["pool0/00"]
    said = f"{pool / '01.jpg'} = {root / 'images' / '04.jpg'}"
    assert f"left out: 1 unlabeled images that are val images too (e.g. {said})" in (
        capsys.readouterr().out
    )
    findings = json.loads((root / "table" / "meta.json").read_text())["findings"]
    assert [one["examples"] for one in findings if one["kind"] == "left out"] == [[said]]


def test_copies_within_a_split_are_counted(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "images" / "01.jpg").write_bytes((root / "images" / "00.jpg").read_bytes())
    assert len(prepare_folder(root)) == 5
    assert "1 images are copies" in capsys.readouterr().out


def test_missing_mask_names_image_and_unlabeled_option(root: Path) -> None:
    (root / "masks" / "02.png").unlink()
    (root / "masks" / "03.png").unlink()
    message = import_error(root)
    assert "2 images have no mask" in message
    assert str(root / "images" / "02.jpg") in message
    assert "--unlabeled" in message


def test_several_unlabeled_folders_join_the_pool(root: Path, tmp_path: Path) -> None:
    north = write_unlabeled(tmp_path / "north", 3, seed=2)
    south = write_unlabeled(tmp_path / "south", 4, seed=3)
    table = prepare_folder(root, "--unlabeled", north, "--unlabeled", south)
    train = table.rows("train")
    assert len(train) == 4 + 7
    assert table.labeled[train].sum() == 4
    pool = train[~table.labeled[train]]
    assert sorted(table.groups(pool)) == ["north"] * 3 + ["south"] * 4
    assert len(set(table.ids(np.arange(len(table))))) == len(table)


def test_palette_masks_are_read_as_ids(tmp_path: Path) -> None:
    masks = []
    for mask in MASKS:
        image = Image.fromarray(mask)
        image.putpalette([value for color in default_colors(256) for value in color])
        masks.append(image)
    table = prepare_folder(write_folders(tmp_path / "set", masks))
    assert Image.open(tmp_path / "set" / "masks" / "00.png").mode == "P"
    np.testing.assert_array_equal(table.mask(row_of(table, "images/00.jpg")), MASKS[0])


def test_one_bit_masks_are_read_as_ids_0_and_1(tmp_path: Path) -> None:
    masks = [random_mask(i, 2) for i in range(5)]
    one_bit = [Image.fromarray(mask > 0) for mask in masks]
    table = prepare_folder(write_folders(tmp_path / "set", one_bit), classes="a\nb\n")
    assert Image.open(tmp_path / "set" / "masks" / "00.png").mode == "1"
    np.testing.assert_array_equal(table.mask(row_of(table, "images/00.jpg")), masks[0])


def test_colour_masks_are_read_by_class_colours(tmp_path: Path) -> None:
    colors = [[0, 0, 0], [200, 10, 20], [30, 40, 250]]
    color_masks = [colored(mask, colors) for mask in MASKS]
    color_masks[0][5, 5] = (1, 2, 3)  # no class has this colour
    root = write_folders(tmp_path / "set", color_masks)
    classes = "# ids in this order\nback ground 0 0 0\nred thing 200,10,20\nblue 30 40 250\n"
    table = prepare_folder(root, classes=classes)
    assert table.classes == ["back ground", "red thing", "blue"]
    assert table.colors == colors
    expected = MASKS[0].copy()
    expected[5, 5] = 255
    np.testing.assert_array_equal(table.mask(row_of(table, "images/00.jpg")), expected)


@pytest.mark.parametrize("classes", ["a\nb\nc\n", None], ids=["other colours", "no classes"])
def test_colour_masks_without_class_colours_name_file_and_remedy(
    tmp_path: Path, classes: str | None
) -> None:
    masks = [colored(mask, [[1, 1, 2], [3, 3, 4], [5, 5, 6]]) for mask in MASKS]
    message = import_error(write_folders(tmp_path / "set", masks), classes=classes)
    assert "masks/00.png" in message
    assert "colour" in message
    assert "`name r g b`" in message


def test_mask_ids_above_255_are_named(tmp_path: Path) -> None:
    masks = [Image.fromarray(mask.astype(np.uint16) * 300) for mask in MASKS]
    message = import_error(write_folders(tmp_path / "set", masks))
    assert "masks/00.png: mask ids up to 600, must be below 256" in message


def test_group_option_takes_first_group_of_regex(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "set", MASKS)
    for kind, suffix in (("images", "jpg"), ("masks", "png")):
        for index in range(5):
            old = root / kind / f"{index:02d}.{suffix}"
            old.rename(root / kind / f"site{index % 2}_{index:02d}.{suffix}")
    table = prepare_folder(root, "--group", r"^(site\d)_")
    stems = [Path(path).stem for path in table.index["image_path"].to_pylist()]
    assert table.groups(np.arange(5)).tolist() == [stem[:5] for stem in stems]


def test_malformed_group_regex_is_rejected(root: Path) -> None:
    assert "--group" in import_error(root, "--group", "(")


@pytest.mark.parametrize("text", ["11", "11=", "=3", "a=b", "256=0", "0=256", "-1=0"])
def test_malformed_map_option_names_the_form(root: Path, text: str) -> None:
    assert "OLD=NEW" in import_error(root, f"--map={text}")


def test_existing_table_is_not_overwritten(root: Path) -> None:
    first = prepare_folder(root)
    with pytest.raises(InputError, match="already holds a table"):
        prepare_folder(root)
    assert Table(root / "table").fingerprint == first.fingerprint


@pytest.mark.parametrize("part", ["images", "masks"])
def test_missing_folder_is_named(root: Path, part: str) -> None:
    (root / part).rename(root / "away")
    assert str(root / part) in import_error(root)


def test_folder_without_images_is_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'} holds no image" in import_error(
        root, "--unlabeled", tmp_path / "empty"
    )


def test_missing_classes_file_is_named(root: Path) -> None:
    assert "nowhere.txt does not exist" in import_error(
        root, "--classes", root / "nowhere.txt", classes=None
    )


def test_fingerprint_does_not_depend_on_location_of_folders(tmp_path: Path) -> None:
    one = prepare_folder(write_folders(tmp_path / "here", MASKS))
    other = prepare_folder(write_folders(tmp_path / "there", MASKS))
    assert one.fingerprint == other.fingerprint


def read_readme_statistics() -> dict[str, list[tuple[float, int]]]:
    """Class -> (percent of pixels, images that contain it) for train, val and test of CamVid."""
    readme = real_data("camvid", "README.md").read_text()
    statistics = {}
    for name, cells in re.findall(r"^ *\d+ (\w+) +(.+\))$", readme, re.MULTILINE):
        found = re.findall(r"([\d.]+) \((\d+)\)", cells)
        statistics[name] = [(float(percent), int(count)) for percent, count in found]
    return statistics


@pytest.mark.data
def test_camvid_images_and_drives_match_its_readme(camvid: Table) -> None:
    assert [len(camvid.rows(split)) for split in ("train", "val", "test")] == [367, 101, 233]
    assert camvid.num_classes == 11
    assert camvid.labeled.all()
    drives = {
        split: camvid.groups(camvid.rows(split)).tolist() for split in ("train", "val", "test")
    }
    assert set(drives["train"]) == {"0001TP", "0006R0", "0016E5"}
    assert set(drives["val"]) == {"0016E5"}
    assert drives["train"].count("0016E5") == 204
    assert drives["train"].count("0001TP") == drives["test"].count("0001TP") == 62


@pytest.mark.data
@pytest.mark.parametrize(("index", "split"), list(enumerate(("train", "val", "test"))))
def test_camvid_pixel_fractions_match_its_readme(camvid: Table, index: int, split: str) -> None:
    pixels = camvid.class_pixels[camvid.rows(split)]
    expected = read_readme_statistics()
    assert set(camvid.classes) == set(expected) - {"void"}
    percents = 100 * pixels.sum(0) / (len(pixels) * 480 * 360)
    counts = (pixels > 0).sum(0)
    for name, percent, count in zip(camvid.classes, percents, counts, strict=True):
        expected_percent, expected_count = expected[name][index]
        assert round(float(percent), 3) == pytest.approx(expected_percent, abs=1e-3)
        assert count == expected_count
    if split == "train":
        assert round(100 * float(pixels.sum(0)[3]) / (367 * 480 * 360), 3) == 31.658


def prepare_real(out: Path, images: Path, masks: Path, *options: object) -> Table:
    folders = ("--images", images, "--masks", masks)
    arguments = ("folder", *folders, "--out", out, *options)
    assert prepare.main([str(argument) for argument in arguments]) == 0
    return Table(out)


@pytest.mark.data
def test_pascal_palette_masks_are_read_with_21_classes(tmp_path: Path) -> None:
    root = real_data("voc_mini")
    classes = tmp_path / "voc.txt"
    classes.write_text("\n".join(f"voc{i}" for i in range(21)))
    images, masks = root / "JPEGImages", root / "SegmentationClass"
    table = prepare_real(tmp_path / "t", images, masks, "--classes", classes)

    def present_classes(name: str) -> list[int]:
        pixels = table.class_pixels[row_of(table, f"JPEGImages/{name}.jpg")]
        return np.flatnonzero(pixels).tolist()

    assert present_classes("2011_000003") == [0, 5, 15]
    assert present_classes("2007_000129") == [0, 2, 15]
    assert all(255 in table.mask(i) for i in range(len(table)))


@pytest.mark.data
def test_coco_stuff_is_read_with_182_classes(tmp_path: Path) -> None:
    root = real_data("cocostuff_mini")
    classes = tmp_path / "coco.txt"
    classes.write_text("\n".join(f"stuff{i}" for i in range(182)))
    images, masks = root / "img", root / "label"
    val_options = ("--val-images", images / "val", "--val-masks", masks / "val")
    table = prepare_real(
        tmp_path / "t",
        images / "train",
        masks / "train",
        *val_options,
        "--classes",
        classes,
    )
    assert len(table.rows("train")) == 13
    assert len(table.rows("val")) == 8
    assert table.num_classes == 182
    sizes = list(
        zip(table.index["height"].to_pylist(), table.index["width"].to_pylist(), strict=True)
    )
    for index in range(0, len(table), 5):
        image, mask = table.read(index, mask=True)
        assert mask is not None
        assert mask.shape == sizes[index] == (image.height, image.width)


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_postscript_named_png_is_not_run(
    root: Path, folder: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Pillow opens EPS by running Ghostscript on it."""
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n(ran) print flush\nshowpage\n"
    next((root / folder).glob("*")).write_bytes(program)
    with pytest.raises(InputError, match=r"unreadable"):
        prepare_folder(root)
    assert "ran" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"sky\n\x81\n", "neither in UTF-8 nor in UTF-16 or Latin-1"),
        (b"sky 0 0 256\n", "'sky 0 0 256' has a colour above 255"),
        (b"sky\x00\n", "has control characters"),
        ("\n".join(map(str, range(256))).encode(), "names 256 classes, at most 255"),
    ],
)
def test_class_file_that_no_mask_can_have_is_refused(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(path)) + ".*" + re.escape(reason)):
        read_classes(path)


def test_class_file_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfsky\n")
    assert read_classes(tmp_path / "classes.txt").names == ["sky"]


@pytest.mark.parametrize("text", ["²=1", "1=256", "1=", "=", "1=2=3", "-1=2", "0001=2"])
def test_mapping_of_anything_but_two_ids_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="must look like OLD=NEW"):
        parse_mapping([text])
