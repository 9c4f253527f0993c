"""`label_next` end to end: what it writes, what comes back, what it refuses, how it resumes."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cid_ray
from cid_ray.config import InputError
from cid_ray.data.splits import make_split
from cid_ray.inference.annotation_files import AnnotationFiles, cvat_colors
from cid_ray.label_next import main as label_next
from cid_ray.prepare import main as prepare
from cid_ray.train import main as train
from tests.helpers.image_tables import by_id, encode_image, make_unreadable, random_image

COUNT = 6


@pytest.fixture(scope="module")
def chosen(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("label") / "next"
    assert label_next([str(trained), "--count", str(COUNT), "--out", str(out)]) == 0
    return out


def read_csv(folder: Path) -> list[dict[str, str]]:
    with (folder / "next.csv").open() as file:
        return list(csv.DictReader(file))


def pool_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "pool.jsonl").read_text().splitlines()]


def test_images_are_of_the_pool_and_scores_are_those_of_the_network(
    trained: Path, chosen: Path
) -> None:
    table, predictor = cid_ray.open_table("demo"), cid_ray.load_model(trained)
    split = make_split(table, predictor.config.data)
    lines = read_csv(chosen)
    assert [line["rank"] for line in lines] == [str(n) for n in range(1, COUNT + 1)]
    assert {line["image_id"] for line in lines} <= set(table.ids(split.pool))
    records = pool_lines(chosen)
    seen = [*table.ids(split.labeled), *table.ids(split.pool)]
    assert [record["name"] for record in records] == seen
    record = next(one for one in records if one["name"] == lines[0]["image_id"])
    probs = predictor(table.read(record["row"], mask=False)[0]).probabilities
    assert record["expected"] == pytest.approx(probs.mean((1, 2)), abs=1e-4)
    report = json.loads((chosen / "next.json").read_text())
    pixels = table.class_pixels[split.labeled] / table.class_pixels[split.labeled].sum(1)[:, None]
    labeled = [one["labeled"] for one in report["classes"]]
    assert labeled == pytest.approx(pixels.sum(0), abs=1e-3)
    assert (report["labeled"], report["pool"]) == (len(split.labeled), len(split.pool))


def test_files_for_annotators(trained: Path, chosen: Path) -> None:
    table, predictor = cid_ray.open_table("demo"), cid_ray.load_model(trained)
    rows = by_id(table)
    page = (chosen / "next.html").read_text()
    labels = {
        one["name"]: one["color"] for one in json.loads((chosen / "cvat_labels.json").read_text())
    }
    assert list(labels) == table.classes
    with zipfile.ZipFile(chosen / "cvat.zip") as archive:
        assert archive.testzip() is None
        names = archive.read("ImageSets/Segmentation/default.txt").decode().split()
        for line, name in zip(read_csv(chosen), names, strict=True):
            row = rows[line["image_id"]]
            assert line["file"] == name and line["image_id"] in page
            assert (chosen / "images" / f"{name}.png").read_bytes() == table.encoded(row, False)[0]
            expected = predictor(table.read(row, mask=False)[0]).classes
            with archive.open(f"SegmentationClass/{name}.png") as file:
                pixels = np.asarray(Image.open(file))
            of_class = [tuple(bytes.fromhex(labels[one][1:])) for one in table.classes]
            assert np.array_equal(pixels, np.array(of_class, np.uint8)[expected])
            shapes = json.loads((chosen / "images" / f"{name}.json").read_text())["shapes"]
            assert {shape["label"] for shape in shapes} <= set(table.classes)


@pytest.mark.parametrize("tool", ["cvat", "labelme"])
def test_what_comes_back_is_merged_and_trained_on(
    tool: str, trained: Path, chosen: Path, tmp_path: Path
) -> None:
    """One image is corrected. The table then has it, and the pool's other masks are as before."""
    table, predictor = cid_ray.open_table("demo"), cid_ray.load_model(trained)
    rows = by_id(table)
    first = read_csv(chosen)[0]
    if tool == "cvat":
        labels, options = tmp_path / "back", ["--images", str(chosen / "images")]
        with zipfile.ZipFile(chosen / "cvat.zip") as archive:
            archive.extractall(labels)
        sky = table.colors[table.classes.index("sky")]
        file = labels / "SegmentationClass" / f"{first['file']}.png"
        pixels = np.array(Image.open(file))
        pixels[:10] = sky
        Image.fromarray(pixels).save(file)
        least = 1.0
    else:
        labels, options = tmp_path / "images", []
        shutil.copytree(chosen / "images", labels)
        file = labels / f"{first['file']}.json"
        content = json.loads(file.read_text())
        box = [[0, 0], [table.read(0, mask=False)[0].width - 1, 9]]
        content["shapes"].append({"label": "sky", "points": box, "shape_type": "rectangle"})
        file.write_text(json.dumps(content))
        least = 0.95
    out = tmp_path / "merged"
    assert prepare(["merge", "demo", "--labels", str(labels), "--out", str(out), *options]) == 0
    merged = cid_ray.open_table(str(out))
    new = by_id(merged)
    given = {line["image_id"] for line in read_csv(chosen)}
    for name, row in rows.items():
        if name not in given:
            assert np.array_equal(merged.mask(new[name]), table.mask(row))
            continue
        expected = predictor(table.read(row, mask=False)[0]).classes.copy()
        if name == first["image_id"]:
            expected[:10] = table.classes.index("sky")
            assert (merged.mask(new[name])[:10] == expected[:10]).all()
        assert (merged.mask(new[name]) == expected).mean() >= least
        counted = np.bincount(merged.mask(new[name]).ravel(), minlength=merged.num_classes)
        assert np.array_equal(merged.class_pixels[new[name]], counted)
    assert merged.model_data.model_dump(exclude={"table"}) == table.model_data.model_dump(
        exclude={"table"}
    )
    if tool == "cvat":
        config = [f"data.table={out}", "data.ratio=1/1", "train.steps=2", "method=supervised"]
        options = [part for value in config for part in ("--set", value)]
        options += ["--config", str(trained / "config.yaml"), "-q"]
        assert train([*options, "--out", str(tmp_path / "run")]) == 0


def test_the_same_command_continues_and_leaves_corrections(
    trained: Path, chosen: Path, tmp_path: Path
) -> None:
    out = tmp_path / "next"
    shutil.copytree(chosen, out)
    lines = (out / "pool.jsonl").read_text().splitlines(keepends=True)
    (out / "pool.jsonl").write_text("".join(lines[:40]) + lines[40][:30])  # as after a kill
    corrected = sorted((out / "images").glob("*.json"))[0]
    corrected.write_text("corrected")
    (out / "next.csv").unlink()
    (out / "cvat.zip").unlink()
    assert label_next([str(trained), "--count", str(COUNT), "--out", str(out)]) == 0
    assert corrected.read_text() == "corrected"
    for name in ("next.csv", "cvat.zip", "next.html"):
        assert (out / name).read_bytes() == (chosen / name).read_bytes().replace(
            str(chosen).encode(), str(out).encode()
        )
    scored = [
        json.loads(line)
        for line in (out / "pool.jsonl").read_text().splitlines()
        if line.endswith("}")
    ]
    assert len(scored) == len(pool_lines(chosen))
    with pytest.raises(InputError, match=r"--out .* holds predictions with count 6, now it is 7"):
        label_next([str(trained), "--count", "7", "--out", str(out)])


def test_unreadable_images_are_named(
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = cid_ray.open_table("demo")
    broken = int(make_split(table, cid_ray.load_model(trained).config.data).pool[5])
    make_unreadable(monkeypatch, table, broken)
    out = tmp_path / "next"
    assert label_next([str(trained), "--count", "2", "--out", str(out)]) == 0
    assert "left out: 1 images that cannot be read" in capsys.readouterr().out
    assert (
        table.ids(np.array([broken]))[0]
        in json.loads((out / "next.json").read_text())["unreadable"][0]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count", "0"], "--count is 0, must be at least 1"),
        (["--out", "s3://bucket/x"], "must be a folder on this machine"),
        (["--pool", "missing"], "data.table 'missing' is not a table"),
    ],
)
def test_bad_options(trained: Path, tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        label_next([str(trained), "--out", str(tmp_path / "next"), *options])


def test_a_folder_of_something_else_is_left_alone(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match=r"holds other files \(thesis.txt\)"):
        label_next([str(trained), "--count", "2", "--out", str(tmp_path)])


def test_colors_that_cvat_would_confuse_are_replaced() -> None:
    good = [[0, 0, 0], [1, 2, 3]]
    assert cvat_colors(["Background", "cat"], good) == good
    for names, colors in ((["road", "cat"], good), (["a", "b"], [[1, 2, 3], [1, 2, 3]])):
        found = cvat_colors(names, colors)
        assert len({tuple(color) for color in found}) == 2 and [0, 0, 0] not in found


def test_images_that_tools_cannot_open_become_png(tmp_path: Path) -> None:
    files = AnnotationFiles(tmp_path, ["a", "b"], [[1, 1, 1], [2, 2, 2]])
    pixels = random_image(0)
    classes = np.zeros(pixels.shape[:2], np.uint8)
    encoded = encode_image(pixels, "BMP")
    assert files.add("one", encoded, Image.fromarray(pixels), classes) == "images/one.png"
    assert np.array_equal(np.asarray(Image.open(tmp_path / "images/one.png")), pixels)


def test_class_names_that_cvat_cannot_hold_are_said(tmp_path: Path) -> None:
    pixels = random_image(0)
    for name, message in (("a:b", "cannot hold the name 'a:b'"), ("#1", "'#1'"), ("a b", "")):
        out = tmp_path / name.replace(":", "_")
        files = AnnotationFiles(out, [name, "c"], [[1, 1, 1], [2, 2, 2]])
        image = Image.fromarray(pixels)
        files.add("one", encode_image(pixels), image, np.zeros(pixels.shape[:2], np.uint8))
        assert message in files.close()
        assert (out / "cvat.zip").exists() == (not message)
        assert (out / "images" / "one.json").exists()
