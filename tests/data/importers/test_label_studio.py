"""Law: Label Studio's exports become masks. One annotation of a task counts.

References: masks of this test, encoded by tests/helpers/brush_rle.py, and Pillow for outlines.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cid_ray.data.importers.label_studio_images import ImageFinder
from cid_ray.data.importers.label_studio_rle import decode_brush
from cid_ray.data.ingest import Findings
from tests.helpers.brush_rle import encode_brush
from tests.helpers.dataset_layouts_json import (
    SIZE,
    boxes_to_mask,
    corners,
    label_studio_region,
    percent,
    write_image,
    write_json,
)
from tests.helpers.format_imports import findings_of, import_set, mask_of, refusal
from tests.helpers.fuzzing import fuzz

HEIGHT, WIDTH = SIZE
NO_PREFIX = "images found without the prefix of an upload"


def random_brush(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """bool[H, W] of blocks and single pixels."""
    rng = np.random.default_rng(seed)
    mask = rng.random(size) < 0.1
    mask[: size[0] // 2, size[1] // 3 :] ^= True
    return mask


def brush(label: str, mask: np.ndarray, **more: Any) -> dict[str, Any]:
    return label_studio_region("brush", label, format="rle", rle=encode_brush(mask)) | more


def outline(label: str, points: list[list[int]]) -> dict[str, Any]:
    return label_studio_region("polygon", label, points=percent(points), closed=True)


def task(number: int, *annotations: Any, image: str | None = None, **more: Any) -> dict[str, Any]:
    data = {"image": image or f"/data/upload/1/{number}.png"}
    return {"id": number, "data": data, "annotations": list(annotations)} | more


def annotated(*regions: Any, number: int = 1, **more: Any) -> dict[str, Any]:
    made = {"id": number, "result": list(regions), "updated_at": "2026-01-01"}
    return made | {"was_cancelled": False} | more


def write_set(root: Path, *tasks: dict[str, Any]) -> list[object]:
    """Five tasks at least, so that there is val; the arguments of `prepare`."""
    region = outline("cat", corners(1, 1, 5, 5))
    more = [task(number, annotated(region)) for number in range(91, 96 - len(tasks))]
    for entry in [*tasks, *more]:
        name = Path(entry["data"].get("image", "x").split("=")[-1]).name
        write_image(root / "images" / name)
    path = write_json(root / "export.json", [*tasks, *more])
    return ["label_studio", "--tasks", path, "--images", root / "images"]


# ---- run lengths ----


@fuzz(4)
@given(
    size=st.tuples(st.integers(1, 30), st.integers(1, 40)),
    seed=st.integers(0, 999),
    literal=st.booleans(),
)
def test_brush_decodes_to_the_mask_that_was_encoded(
    size: tuple[int, int], seed: int, literal: bool
) -> None:
    mask = random_brush(seed, size)
    np.testing.assert_array_equal(decode_brush(bytes(encode_brush(mask, literal)), size), mask)


def test_run_longer_than_a_length_can_be_decodes() -> None:
    mask = np.zeros((300, 400), bool)
    mask[200:] = True
    np.testing.assert_array_equal(decode_brush(bytes(encode_brush(mask)), (300, 400)), mask)


@fuzz(4)
@given(content=st.binary(max_size=40))
def test_any_bytes_are_a_brush_or_refused(content: bytes) -> None:
    header = (4 * 6).to_bytes(4, "big")
    for encoded in (content, header + content, header + b"\x39\x1a\x3b" + content):
        with contextlib.suppress(ValueError):
            assert decode_brush(encoded, (2, 3)).shape == (2, 3)


# ---- regions ----


def test_later_region_is_on_top(tmp_path: Path) -> None:
    mask = random_brush(1)
    regions = [outline("dog", corners(3, 3, 20, 12)), brush("cat", mask)]
    table = import_set(tmp_path / "t", *write_set(tmp_path, task(1, annotated(*regions))))
    expected = boxes_to_mask((2, 3, 3, 20, 12))
    expected[mask] = 1
    np.testing.assert_array_equal(mask_of(table, "1.png"), expected)
    reason = "masks with pixels of two classes (the later shape is on top)"
    assert findings_of(table)[reason] == 1


@pytest.mark.parametrize("angle", [0, 90, 180, 270, 360])
def test_rectangle_is_turned_clockwise_about_its_corner(tmp_path: Path, angle: int) -> None:
    x, y = 12, 10  # the corner; the rectangle is 6 wide and 3 high
    left, top = percent([[x, y]])[0]
    box = {"x": left, "y": top, "width": 600 / WIDTH, "height": 300 / HEIGHT, "rotation": angle}
    region = label_studio_region("rectangle", "cat", **box)
    table = import_set(tmp_path / "t", *write_set(tmp_path, task(1, annotated(region))))
    expected = {
        0: (x, y, x + 6, y + 3),
        90: (x - 3, y, x, y + 6),
        180: (x - 6, y - 3, x, y),
        270: (x, y - 6, x + 3, y),
    }[angle % 360]
    np.testing.assert_array_equal(mask_of(table, "1.png"), boxes_to_mask((1, *expected)))


def test_ellipse_has_the_area_of_its_radii(tmp_path: Path) -> None:
    center = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 25, "rotation": 30}
    region = label_studio_region("ellipse", "cat", **center)
    table = import_set(tmp_path / "t", *write_set(tmp_path, task(1, annotated(region))))
    mask = mask_of(table, "1.png")
    inside = math.pi * (WIDTH / 4) * (HEIGHT / 4)
    assert inside - 12 <= mask.sum() <= inside + 35, "the outline is part of the shape"
    assert mask[HEIGHT // 2, WIDTH // 2] == 1 and mask[0, 0] == mask[-1, -1] == 0


def test_label_in_another_result_of_the_same_region_counts_once(tmp_path: Path) -> None:
    """`Polygon` and `Labels` tags write two results with one id."""
    labeled = outline("cat", corners(1, 1, 5, 5))
    value = {key: labeled["value"][key] for key in ("points", "closed")}
    bare = labeled | {"type": "polygon", "value": value}
    value = value | {"labels": ["cat"]}
    both = [bare, labeled | {"type": "labels", "value": value}]
    alone = bare | {"id": "other"}
    entry = task(1, annotated(*both, alone))
    table = import_set(tmp_path / "t", *write_set(tmp_path, entry))
    np.testing.assert_array_equal(mask_of(table, "1.png"), boxes_to_mask((1, 1, 1, 5, 5)))
    assert findings_of(table)["regions without a label"] == 1


def test_regions_that_are_left_out_or_guessed_are_counted(tmp_path: Path) -> None:
    both = outline("cat", corners(1, 1, 5, 5))
    both["value"]["polygonlabels"] = ["cat", "dog"]
    key_point = label_studio_region("keypoint", "cat", x=3, y=3, width=1)
    line = outline("cat", [[1, 1], [5, 5]])
    outside = label_studio_region("polygon", "cat", points=[[-2, 1], [50, 1], [50, 50]])
    choice = {"id": "c", "type": "choices", "value": {"choices": ["good"]}}
    relation = {"type": "relation", "from_id": "a", "to_id": "b"}
    entry = task(1, annotated(both, key_point, line, outside, choice, relation))
    table = import_set(tmp_path / "t", *write_set(tmp_path, entry))
    assert findings_of(table) == {
        "regions with several labels (the first counts)": 1,
        "key points and other regions without an area": 1,
        "polygons of fewer than 3 points": 1,
        "regions cut at the image's border": 1,
        "classes, the labels in use": 1,
    }


BAD_REGIONS: dict[str, tuple[dict[str, Any], str]] = {
    "cut": (brush("cat", random_brush(1)), "end too early"),
    "other size": (brush("cat", random_brush(1), original_width=16), "an image of 16 x 24 pixels"),
    "no list": (label_studio_region("brush", "cat", rle="abc"), "not run lengths of Label Studio"),
    "no bytes": (label_studio_region("brush", "cat", rle=[256]), "not run lengths"),
    "other format": (
        label_studio_region("brush", "cat", rle=[1], format="png"),
        "not run lengths",
    ),
    "rotated image": (outline("cat", corners(1, 1, 5, 5)) | {"image_rotation": 90}, "was rotated"),
    "text": (label_studio_region("polygon", "cat", points=[["a", 1]] * 3), "not a number"),
    "no number": (
        label_studio_region("rectangle", "cat", x=1, y=1, width=float("inf"), height=2),
        "a coordinate that is NaN",
    ),
}
BAD_REGIONS["cut"][0]["value"]["rle"] = BAD_REGIONS["cut"][0]["value"]["rle"][:20]


@pytest.mark.parametrize("kind", BAD_REGIONS)
def test_damaged_region_is_named_and_its_task_can_be_skipped(tmp_path: Path, kind: str) -> None:
    region, reason = BAD_REGIONS[kind]
    arguments = write_set(tmp_path, task(1, annotated(region)))
    message = refusal(tmp_path / "t", *arguments)
    assert reason in message and f"{tmp_path / 'export.json'}, task 1: " in message
    assert len(import_set(tmp_path / "t", *arguments, "--skip-bad")) == 4


# ---- tasks ----


def test_ground_truth_counts_before_the_latest(tmp_path: Path) -> None:
    made = {
        name: annotated(outline(name, corners(1, 1, 5, 5)), number=number, updated_at=date)
        for number, (name, date) in enumerate(
            {"old": "2026-01-01T09:00Z", "new": "2026-01-02T09:00Z", "cancelled": "2026-02"}.items()
        )
    }
    made["cancelled"]["was_cancelled"] = True
    truth = made["old"] | {"ground_truth": True}
    latest = task(1, made["new"], made["old"], made["cancelled"])
    judged = task(2, truth, made["new"])
    table = import_set(tmp_path / "t", *write_set(tmp_path, latest, judged))
    names = [table.classes[int(mask_of(table, f"{n}.png").max())] for n in (1, 2)]
    assert names == ["new", "old"]
    reason = "tasks with several annotations (ground truth, else the latest one, counts)"
    assert findings_of(table)[reason] == 2


def test_task_whose_image_is_missing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = write_set(tmp_path, task(1, annotated(outline("cat", corners(1, 1, 5, 5)))))
    (tmp_path / "images" / "1.png").unlink()
    table = import_set(tmp_path / "t", *arguments)
    assert findings_of(table)[f"tasks whose image is not below {tmp_path / 'images'}"] == 1
    assert "task 1 (/data/upload/1/1.png)" in capsys.readouterr().out


REFUSED: dict[str, tuple[Any, str]] = {
    "no list": ({"tasks": []}, "it must be a list of tasks"),
    "JSON-MIN": ([{"id": 1, "image": "a.png", "tag": []}], "not as JSON-MIN"),
    "twice": ([task(1), task(1)], "two have the id 1"),
    "empty": ([], "it has no annotation"),
    "nothing annotated": ([task(91)], "it has no annotation"),
    "no image": ([task(1) | {"data": {"text": "abc"}}], "no field names an image"),
    "two images": (
        [task(1) | {"data": {"left": "a.png", "right": "b.png"}}],
        "several fields name an image among ['left', 'right']; choose one by --image-key",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_export_that_cannot_be_right_is_refused(tmp_path: Path, kind: str) -> None:
    content, reason = REFUSED[kind]
    arguments = write_set(tmp_path)
    write_json(tmp_path / "export.json", content)
    message = refusal(tmp_path / "t", *arguments)
    assert reason in message and str(tmp_path / "export.json") in message


def test_image_key_chooses_the_field(tmp_path: Path) -> None:
    entry = task(1, annotated(outline("cat", corners(1, 1, 5, 5))))
    arguments = write_set(tmp_path, entry)
    for number in (1, 91, 92, 93, 94):
        write_image(tmp_path / "images" / f"{number}.png")
    tasks = [
        task(n, annotated(outline("cat", corners(1, 1, 5, 5))))
        | {"data": {"left": f"{n}.png", "right": "x.png"}}
        for n in (1, 91, 92, 93, 94)
    ]
    write_json(tmp_path / "export.json", tasks)
    assert len(import_set(tmp_path / "t", *arguments, "--image-key", "left")) == 5
    assert "no field 'up'" in refusal(tmp_path / "u", *arguments, "--image-key", "up")


# ---- where images are ----


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("/data/upload/3/1a2b3c4d-cat.png", "cat.png"),
        ("/data/upload/3/cat.png", "cat.png"),
        ("/data/local-files/?d=photos/b/dog.png", "b/dog.png"),
        ("https://host:8080/bucket/a/dog.png?X-Signature=abc", "a/dog.png"),
        ("s3://bucket/b/dog.png", "b/dog.png"),
        ("b\\dog.png", "b/dog.png"),
        ("/data/upload/my%20cat.png", "my cat.png"),
        ("dog.png", None),
        ("/elsewhere/dog.png", None),
        ("/data/upload/3/bird.png", None),
        ("../../etc/passwd", None),
        ("http://[", None),
        ("", None),
    ],
)
def test_image_is_found_by_its_name_or_not_at_all(
    tmp_path: Path, reference: str, expected: str | None
) -> None:
    for name in ("cat.png", "a/dog.png", "b/dog.png", "my cat.png"):
        write_image(tmp_path / name)
    found = ImageFinder(tmp_path, Findings()).find(reference)
    assert found == (tmp_path / expected if expected else None)


# ---- the PNG export ----


def write_pngs(root: Path, files: dict[str, np.ndarray]) -> Path:
    folder = root / "pngs"
    folder.mkdir()
    for name, mask in files.items():
        Image.fromarray((255 * mask).astype(np.uint8)).save(folder / f"{name}.png")
    return folder


def test_png_export_is_read_with_the_images_of_the_json_export(tmp_path: Path) -> None:
    big, small = boxes_to_mask((1, 2, 2, 20, 18)), boxes_to_mask((1, 5, 5, 9, 9))
    entries = [task(n, annotated(brush("cat", small == 1), number=10 + n)) for n in range(1, 6)]
    entries[0]["annotations"].append(annotated(number=99, updated_at="2020-01-01"))
    arguments = write_set(tmp_path, *entries)
    files = {f"task-{n}-annotation-{10 + n}-by-1-tag-cat-0": small for n in range(1, 6)}
    files["task-1-annotation-11-by-1-tag-dog-house-0"] = big
    files["task-1-annotation-99-by-a@b.c-tag-cat-0"] = big
    files["task-8-annotation-9-by-1-tag-cat-0"] = big
    files["readme"] = big
    pngs = write_pngs(tmp_path, files)
    table = import_set(tmp_path / "t", *arguments, "--masks", pngs)
    assert table.classes == ["background", "cat", "dog-house"]
    np.testing.assert_array_equal(mask_of(table, "1.png"), np.where(small, 1, 2 * big))
    np.testing.assert_array_equal(mask_of(table, "2.png"), small)
    assert findings_of(table) == {
        "tasks with several annotations (ground truth, else the latest one, counts)": 1,
        "files not named as Label Studio's PNG export": 1,
        "PNGs of tasks or annotations that do not count": 2,
        "classes, the labels in use": 2,
        "masks with pixels of two classes (the smaller shape is on top)": 1,
    }


def test_tag_with_a_dash_is_told_from_the_label_by_the_classes_file(tmp_path: Path) -> None:
    mask = boxes_to_mask((1, 5, 5, 9, 9))
    entries = [task(n, annotated(brush("cat", mask == 1), number=n)) for n in range(1, 6)]
    arguments = write_set(tmp_path, *entries)
    files = {f"task-{n}-annotation-{n}-by-1-my-tag-cat-0": mask for n in range(1, 6)}
    pngs = write_pngs(tmp_path, files)
    classes = tmp_path / "classes.txt"
    classes.write_text("background\ncat\n")
    table = import_set(tmp_path / "t", *arguments, "--masks", pngs, "--classes", classes)
    np.testing.assert_array_equal(mask_of(table, "3.png"), mask)


def test_png_that_is_absent_or_of_another_size_is_named(tmp_path: Path) -> None:
    mask = boxes_to_mask((1, 5, 5, 9, 9))
    entries = [task(n, annotated(brush("cat", mask == 1), number=n)) for n in range(1, 6)]
    arguments = write_set(tmp_path, *entries)
    files = {f"task-{n}-annotation-{n}-by-1-tag-cat-0": mask for n in range(1, 5)}
    files["task-2-annotation-2-by-1-tag-cat-0"] = mask[:9, :8]
    pngs = write_pngs(tmp_path, files)
    message = refusal(tmp_path / "t", *arguments, "--masks", pngs)
    assert "task 5: its annotation has regions and no PNG" in message
    assert "the mask is 8 x 9, its image 32 x 24 pixels" in message
    (tmp_path / "none").mkdir()
    write_image(tmp_path / "none" / "a.png")
    message = refusal(tmp_path / "t", *arguments, "--masks", tmp_path / "none")
    assert "task-1-annotation-1-by-1-tag-cat-0.png" in message
