"""Law: an import never guesses classes that nobody meant, and each refusal names the option that
imports the set rightly. Every test runs the command.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cid_ray.data.ingest.blur import MIN_RAMPS
from cid_ray.data.ingest.classes import VOC_VOID, voc_palette
from cid_ray.data.table import Table
from tests.helpers.image_tables import (
    SIZE,
    import_error,
    prepare_folder,
    random_mask,
    write_folders,
)

MASKS = [random_mask(i) for i in range(5)]
COLORS = np.array([[0, 0, 0], [200, 10, 20], [30, 40, 250]], np.uint8)
COLOR_CLASSES = "a 0 0 0\nb 200 10 20\nc 30 40 250\n"


def masks_of(table: Table) -> list[np.ndarray]:
    """The stored masks in the order of their files."""
    rows = np.argsort(table.index["image_path"].to_pylist())
    return [table.mask(int(row)) for row in rows]


def findings_of(root: Path) -> list[dict[str, object]]:
    findings: list[dict[str, object]] = json.loads((root / "table" / "meta.json").read_text())[
        "findings"
    ]
    return findings


def disks(ids: list[int], seed: int) -> np.ndarray:
    """u8[4 H, 4 W]: disks of some ids on the first."""
    rng = np.random.default_rng(seed)
    height, width = 4 * SIZE[0], 4 * SIZE[1]
    rows, columns = np.mgrid[:height, :width]
    mask = np.full((height, width), ids[0], np.uint8)
    for number in range(4):
        center = rng.uniform(0, height), rng.uniform(0, width)
        inside = np.hypot(rows - center[0], columns - center[1]) < rng.uniform(20, 40)
        mask[inside] = ids[(number + 1) % len(ids)]
    return mask


def blurred(pixels: np.ndarray) -> Image.Image:
    """An image of SIZE, a quarter as wide and high."""
    return Image.fromarray(pixels).resize(SIZE[::-1], Image.Resampling.BILINEAR)


# ---- ids ----


@pytest.mark.parametrize("classes", ["a\nb\nc\n", None], ids=["class file", "no class file"])
def test_ids_from_1_are_shifted_not_deleted(tmp_path: Path, classes: str | None) -> None:
    root = write_folders(tmp_path / "set", [mask + 1 for mask in MASKS])
    message = import_error(root, classes=classes)
    assert "--first-id 1" in message and "--map 3=255" not in message
    table = prepare_folder(root, "--first-id", 1, classes=classes)
    assert table.num_classes == 3
    np.testing.assert_array_equal(masks_of(table), MASKS)


def test_id_0_that_is_no_label_has_the_shift_as_a_remedy(tmp_path: Path) -> None:
    masks = [random_mask(i, 4) for i in range(5)]
    root = write_folders(tmp_path / "set", masks)
    message = import_error(root)
    assert "import with `--first-id 1`" in message and "--map 3=255" in message
    stored = masks_of(prepare_folder(root, "--first-id", 1))
    np.testing.assert_array_equal(stored, [np.where(m == 0, 255, m - 1) for m in masks])


def test_missing_id_0_is_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_folders(tmp_path / "set", [mask + 1 for mask in MASKS])
    prepare_folder(root, classes="a\nb\nc\nd\n")
    assert "no mask holds id 0; if the first class has id 1" in capsys.readouterr().out


def test_first_id_does_not_shift_colors(tmp_path: Path) -> None:
    colors = np.array([(0, 0, 0), (128, 64, 128), (64, 128, 64)], np.uint8)
    root = write_folders(tmp_path / "set", [Image.fromarray(colors[mask]) for mask in MASKS])
    classes = "a 0 0 0\nb 128 64 128\nc 64 128 64\n"
    message = import_error(root, "--first-id", 1, classes=classes)
    assert "0.png are given by colours; leave out --first-id" in message
    np.testing.assert_array_equal(masks_of(prepare_folder(root, classes=classes)), MASKS)


@pytest.mark.parametrize("first", ["-1", "256"])
def test_first_id_outside_0_to_255_is_refused(tmp_path: Path, first: str) -> None:
    root = write_folders(tmp_path / "set", MASKS)
    assert f"--first-id is {first}" in import_error(root, f"--first-id={first}")


@pytest.mark.parametrize(
    ("ids", "remedy"),
    [
        ([0, 38, 75, 113], "`--map 38=1 --map 75=2 --map 113=3`"),
        ([0, 128], "`--map 128=1`"),
        ([10, 200], "`--map 10=0 --map 200=1`"),
    ],
)
def test_ids_with_gaps_are_refused_without_a_class_file(
    tmp_path: Path, ids: list[int], remedy: str
) -> None:
    masks = [random_mask(i, len(ids)) for i in range(5)]
    root = write_folders(tmp_path / "set", [np.array(ids, np.uint8)[mask] for mask in masks])
    message = import_error(root, classes=None)
    assert ", ".join(map(str, ids)) in message and remedy in message
    options = remedy.strip("`").split()
    np.testing.assert_array_equal(masks_of(prepare_folder(root, *options, classes=None)), masks)


def test_a_rare_missing_id_is_guessed_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = [np.array([0, 1, 3], np.uint8)[mask] for mask in MASKS]
    table = prepare_folder(write_folders(tmp_path / "set", masks), classes=None)
    assert table.classes == ["class_0", "class_1", "class_2", "class_3"]
    assert "class_0 to class_3, of which no mask holds 2" in capsys.readouterr().out


def test_many_unknown_ids_are_shown_in_one_short_line(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "set", [random_mask(i, 200) for i in range(5)])
    message = import_error(root)
    assert "12 (in 5 files" in message and "and 187 more" in message
    assert len(message) < 2000


# ---- colours ----


def test_unmatched_colors_above_a_thousandth_are_an_error(tmp_path: Path) -> None:
    masks = [COLORS[mask] for mask in MASKS]
    masks[1][3, :8] = (1, 2, 3)
    masks[2][4, :2] = (4, 5, 6)
    root = write_folders(tmp_path / "set", masks)
    message = import_error(root, classes=COLOR_CLASSES)
    assert "0.26 % of the pixels of colour masks have a colour of no class" in message
    assert "(1, 2, 3) 0.21 %, (4, 5, 6) 0.052 %" in message
    assert f"first in {root / 'masks' / '01.png'}" in message
    assert "`name r g b`" in message and "`--unmatched ignore`" in message
    stored = masks_of(prepare_folder(root, "--unmatched", "ignore", classes=COLOR_CLASSES))
    expected = [mask.copy() for mask in MASKS]
    expected[1][3, :8] = expected[2][4, :2] = 255
    np.testing.assert_array_equal(stored, expected)
    (finding,) = findings_of(root)[1:]
    assert (finding["kind"], finding["count"]) == ("left out", 10)
    assert finding["reason"] == "pixels whose colour is of no class, 0.26 % of all in colour masks"


def test_few_unmatched_pixels_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = [COLORS[mask] for mask in MASKS]
    masks[1][3, :3] = (1, 2, 3)
    prepare_folder(write_folders(tmp_path / "set", masks), classes=COLOR_CLASSES)
    out = capsys.readouterr().out
    assert "left out: 3 pixels whose colour is of no class, 0.078 % of all in colour masks" in out
    assert "01.png: (1, 2, 3) 0.078 %" in out


def test_blurred_colour_masks_are_named_as_such(tmp_path: Path) -> None:
    masks = [blurred(COLORS[disks([0, 1, 2], seed)]) for seed in range(5)]
    root = write_folders(tmp_path / "set", masks)
    message = import_error(root, classes=COLOR_CLASSES)
    assert "blurred (resized with interpolation, or once stored as JPEG)" in message
    for classes in ("a\nb\nc\n", None):
        message = import_error(root, classes=classes)
        assert "are blurred (resized with interpolation" in message and "`name r g b`" in message


def test_names_and_vocs_palette_make_a_table_with_vocs_colors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    colored = [np.array(voc_palette(3), np.uint8)[mask] for mask in MASKS]
    colored[0][0] = VOC_VOID
    root = write_folders(tmp_path / "set", colored)
    assert "nothing says which class has which colour" in import_error(root)
    table = prepare_folder(root, classes="background\nb\nc\n")
    assert table.colors == voc_palette(3)
    expected = [mask.copy() for mask in MASKS]
    expected[0][0] = 255
    np.testing.assert_array_equal(masks_of(table), expected)
    assert "guessed: 5 colour masks, read by PASCAL VOC's palette" in capsys.readouterr().out


# ---- blurred and lossy masks of ids ----


@pytest.mark.parametrize("classes", ["\n".join("abcdefghij"), None], ids=["class file", "none"])
def test_blurred_ids_are_refused_and_kept_on_demand(tmp_path: Path, classes: str | None) -> None:
    masks = [np.asarray(blurred(disks([0, 9, 4, 6], seed))) for seed in range(5)]
    root = write_folders(tmp_path / "set", masks)
    message = import_error(root, classes=classes)
    assert "the masks are blurred" in message and str(root / "masks") in message
    assert "nearest neighbour" in message and "`--blurred keep`" in message
    table = prepare_folder(root, "--blurred", "keep", classes=classes)
    np.testing.assert_array_equal(masks_of(table), masks)


def test_blurred_binary_masks_are_not_254_classes(tmp_path: Path) -> None:
    masks = [blurred(disks([0, 255], seed)) for seed in range(5)]
    root = write_folders(tmp_path / "set", masks)
    for classes in (None, "back\nfront\n"):
        assert "the masks are blurred" in import_error(root, classes=classes)


@pytest.mark.parametrize("classes", ["a\nb\nc\n", COLOR_CLASSES, None])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_jpeg_masks_are_named_once(tmp_path: Path, suffix: str, classes: str | None) -> None:
    root = write_folders(tmp_path / "set", MASKS)
    for file in sorted((root / "masks").iterdir()):
        image = Image.open(file)
        file.unlink()
        image.save(file.with_suffix(f".{suffix}"), "JPEG", quality=95)
    message = import_error(root, classes=classes)
    first = root / "masks" / f"00.{suffix}"
    assert message.startswith("all 5 masks are JPEG") and f"first {first}" in message
    assert "as PNG" in message


def test_one_jpeg_among_the_masks_is_a_bad_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_folders(tmp_path / "set", MASKS)
    Image.fromarray(MASKS[1]).save(root / "masks" / "01.png", "JPEG")
    assert "01.png: the mask is JPEG" in import_error(root)
    assert len(prepare_folder(root, "--skip-bad")) == 4
    assert "01.png: the mask is JPEG" in capsys.readouterr().out


def test_several_pages_are_told(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "set", MASKS)
    pages = [Image.fromarray(MASKS[1]), Image.fromarray(MASKS[2])]
    (root / "masks" / "01.png").unlink()
    pages[0].save(root / "masks" / "01.tif", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(masks_of(prepare_folder(root)), MASKS)
    reasons = [(one["kind"], one["reason"]) for one in findings_of(root)]
    assert ("changed", "masks of several pages, of which the first was read") in reasons


def test_a_handful_of_ramps_proves_nothing(tmp_path: Path) -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[:, 16:] = 2
    mask[: MIN_RAMPS // 5 - 1, 16] = 1
    table = prepare_folder(write_folders(tmp_path / "set", [mask] * 5))
    np.testing.assert_array_equal(masks_of(table)[0], mask)
