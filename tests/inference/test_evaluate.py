"""Laws of `evaluate`: its mIoU is training's, its files agree, what does not fit is one line."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cid_ray
from cid_ray import evaluate
from cid_ray.config import InputError
from cid_ray.data.image_codec import default_colors, encode_png
from cid_ray.data.input_spec import ModelData
from cid_ray.data.table import Table
from cid_ray.inference.evaluation_resume import PartialEvaluation
from cid_ray.results.records import of_event, read_records
from cid_ray.storage import paths
from cid_ray.train import main as train
from tests.helpers.band_files import write_tiff
from tests.helpers.hostile_text import HARMLESS, HOSTILE, STYLE, Skeleton
from tests.helpers.image_tables import (
    labeled_row,
    prepare_folder,
    random_image,
    random_mask,
    table_row,
    write_table,
)
from tests.helpers.object_store import BUCKET, serving, upload
from tests.helpers.tiny_run import TINY
from tests.helpers.untrained import save_untrained

SIZE = (64, 96)  # a network of stride 32 needs more than one cell
FILES = ["evaluation.html", "evaluation.json", "images.csv", "log.txt"]


def run(out: Path, *args: object) -> dict[str, Any]:
    """The report of `evaluate ARGS`."""
    assert evaluate.main([*map(str, args), "-q", "--out", str(out)]) == 0
    assert sorted(file.name for file in out.iterdir()) == FILES
    report: dict[str, Any] = json.loads((out / "evaluation.json").read_text())
    return report


def small_table(folder: Path, classes: list[str], split: str = "test", mark: str = "") -> Table:
    """Three images with masks of the first three classes."""
    rows = [
        labeled_row(
            f"{i}{mark}",
            random_image(i, SIZE),
            random_mask(i, 3, SIZE),
            len(classes),
            split=split,
        )
        for i in range(3)
    ]
    return write_table(folder, rows, classes)


@pytest.fixture(scope="module")
def demo_classes() -> list[str]:
    return cid_ray.open_table("demo").classes


# ---- the number of training ----


@pytest.mark.parametrize("network", ["teacher", "student"])
def test_miou_is_the_number_that_training_recorded(
    trained: Path, tmp_path: Path, network: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (final,) = of_event(read_records(trained), "final")
    suffix = "_teacher" if network == "teacher" else ""
    report = run(tmp_path / "out", trained, "--network", network)
    for key in ("miou", "iou", "pixel_accuracy"):
        assert report[key] == final[f"test/{key}{suffix}"]
    assert f"test, 48 images: mIoU {final[f'test/miou{suffix}']:.2f} " in capsys.readouterr().out
    report = run(tmp_path / "val", trained, "--network", network, "--split", "val")
    assert report["miou"] == final[f"val/miou{suffix}"]


def test_val_of_the_label_budget_is_that_of_training(tmp_path: Path, small_demo: Path) -> None:
    import yaml

    tiny = {
        **TINY,
        "data": {**TINY["data"], "table": str(small_demo), "val_from_budget": 0.5},
        "train": {"steps": 2, "rungs": [1.0], "num_sample_images": 0},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    assert train(["--config", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "r"), "-q"]) == 0
    (final,) = of_event(read_records(tmp_path / "r"), "final")
    report = run(tmp_path / "out", tmp_path / "r", "--split", "val")
    assert report["miou"] == final["val/miou_teacher"]
    assert report["split"] == "val of the label budget" and report["num_images"] == 3
    # The labels of another table were not spent on this network: its own val is scored.
    other = small_table(tmp_path / "other", cid_ray.open_table("demo").classes, split="val")
    report = run(tmp_path / "o", tmp_path / "r", "--split", "val", "--table", other.folder)
    assert report["split"] == "val" and "of another table" in "".join(report["messages"])


def test_files_agree_with_each_other(trained: Path, tmp_path: Path, small_demo: Path) -> None:
    report = run(tmp_path / "out", trained, "--table", small_demo)
    matrix = np.array(report["confusion"])
    assert matrix.sum(1).tolist() == list(report["truth_pixels"].values())
    assert sum(one["pixels"] for one in report["calibration"]["bins"]) == matrix.sum()
    accuracy = sum(
        one["pixels"] * one["accuracy"] for one in report["calibration"]["bins"] if one["pixels"]
    )
    assert np.isclose(accuracy / matrix.sum(), report["pixel_accuracy"])
    with (tmp_path / "out" / "images.csv").open() as file:
        lines = list(csv.DictReader(file))
    table = Table(small_demo)
    assert [line["id"] for line in lines] == table.ids(table.rows("test"))
    assert [float(line["miou"]) for line in lines] == [one["miou"] for one in report["images"]]
    assert report["fingerprint"] == table.fingerprint and report["versions"]["torch"]
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert page.count("<img ") == 3 * 6 and "<svg" in page
    worst = min(report["images"], key=lambda one: float(one["miou"]))["id"]
    assert f'alt="{worst}"' in page


def test_options_change_what_is_predicted(trained: Path, tmp_path: Path, small_demo: Path) -> None:
    args = (trained, "--table", small_demo)
    whole = run(tmp_path / "a", *args)
    tta = run(tmp_path / "b", *args, "--tta", "flip,scales")
    window = run(tmp_path / "c", *args, "--window", "64")
    assert len({report["confusion"][0][0] for report in (whole, tta, window)}) == 3
    assert tta["tta"] == {"flip": True, "scales": [0.75, 1.0, 1.25]} and window["window"] == 64
    same = run(tmp_path / "c", *args, "--window", "0")  # replaces its own
    assert same["confusion"] == whole["confusion"] and same["window"] is None


# ---- two checkpoints ----


def test_checkpoint_compared_with_itself_is_within_noise(
    trained: Path, tmp_path: Path, small_demo: Path
) -> None:
    report = run(tmp_path / "out", trained, "--compare", trained, "--table", small_demo)
    found = report["comparison"]
    assert found["verdict"].startswith("within noise") and found["within_noise"]
    assert (found["difference"], found["low"], found["high"]) == (0, 0, 0)
    assert found["resamples"] == 10_000 and found["miou"] == report["miou"]


# ---- classes ----


def test_classes_in_another_order_are_matched_by_name(
    trained: Path, tmp_path: Path, demo_classes: list[str]
) -> None:
    table = small_table(tmp_path / "t", demo_classes)
    expected = run(tmp_path / "a", trained, "--table", table.folder)
    turned = demo_classes[::-1]
    rows = [
        labeled_row(f"{i}", random_image(i, SIZE), 6 - random_mask(i, 3, SIZE), 7, split="test")
        for i in range(3)
    ]
    write_table(tmp_path / "turned", rows, turned)
    report = run(tmp_path / "b", trained, "--table", tmp_path / "turned")
    assert report["confusion"] == expected["confusion"] and report["miou"] == expected["miou"]
    assert "matched with the checkpoint's by name" in "".join(report["messages"])


def test_mapped_classes_are_merged_or_left_out(
    trained: Path, tmp_path: Path, demo_classes: list[str]
) -> None:
    table = small_table(tmp_path / "t", ["cloud", "sky", "car", "tram"])
    args = (trained, "--table", table.folder)
    with pytest.raises(InputError) as caught:
        run(tmp_path / "out", *args)
    message = str(caught.value)
    assert "only in the table: cloud, car, tram" in message and "only in the checkpoint: hill" in (
        message
    )
    assert "--map-classes" in message and not (tmp_path / "out").exists()
    report = run(tmp_path / "out", *args, "--map-classes", "cloud=sky", "tram=")
    pixels = dict(zip(table.classes, table.class_pixels.sum(0).tolist(), strict=True))
    assert report["ignored_pixels"] == {"car": pixels["car"], "tram": 0}
    assert report["truth_pixels"]["sky"] == pixels["cloud"] + pixels["sky"]
    assert report["absent"] == demo_classes[1:]
    with pytest.raises(InputError, match="no pixel of test has a class of the checkpoint"):
        run(tmp_path / "none", *args, "--map-classes", "sky=")


# ---- what does not fit ----


def test_image_that_is_too_small_for_the_network_is_named(
    trained: Path, tmp_path: Path, demo_classes: list[str]
) -> None:
    row = labeled_row("dot", random_image(0), random_mask(0), 7, split="test")
    write_table(tmp_path / "t", [row], demo_classes)
    with pytest.raises(
        InputError,
        match=r"image test/dot of .* cannot be predicted: an image of 32 x 24 pixels is too small",
    ):
        evaluate.main([str(trained), "--table", str(tmp_path / "t"), "--out", str(tmp_path / "o")])


def test_table_without_masks_in_test_is_scored_on_val(
    trained: Path, tmp_path: Path, demo_classes: list[str]
) -> None:
    table = small_table(tmp_path / "val", demo_classes, split="val")
    report = run(tmp_path / "out", trained, "--table", table.folder)
    assert report["split"] == "val"
    assert "has no masks in test: val is evaluated" in report["messages"][0]
    pool = table_row("a", encode_png(random_image(0)), split="test")
    write_table(tmp_path / "none", [pool], demo_classes)
    with pytest.raises(InputError, match=r"none has no masks in test or val.* --table"):
        run(tmp_path / "out", trained, "--table", tmp_path / "none")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nothing"], "'nothing' is neither a checkpoint .* nor a run folder"),
        (["RUN", "--table", "nothing"], "'nothing' is not a table .it has no meta.json"),
        (["RUN", "--compare", "nothing.pt"], "checkpoint nothing.pt does not exist"),
        (["RUN", "--tta", "turn"], "--tta has 'turn', must be flip, scales"),
        (["RUN", "--window", "8"], "--window 8 must be at least 32 pixels"),
        (["RUN", "--map-classes", "sky"], "'sky': must be TABLE_NAME=MODEL_NAME"),
        (["RUN", "--map-classes", "a=sky"], "the table has no class 'a', it has sky, hill"),
        (["RUN", "--map-classes", "sky=a"], "the checkpoint has no class 'a', it has sky, hill"),
        (["RUN", "--map-classes", "sky=", "sky=hill"], "maps 'sky' to both '' and 'hill'"),
        (["RUN", "--out", "full"], "--out full holds other files, such as notes.txt"),
        (["RUN", "--out", "full/notes.txt"], "notes.txt is a file, must be a folder"),
        (["RUN", "--out", "s3://bucket/out"], "must be a folder on this machine"),
        (["RUN", "--split", "train"], "invalid choice: 'train'"),
    ],
)
def test_mistake_is_one_line_and_leaves_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=message) as caught:
        evaluate.main([str(trained) if arg == "RUN" else arg for arg in args])
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "notes.txt"]


def test_other_channels_or_other_classes_of_a_second_network_are_refused(
    trained: Path, tmp_path: Path, demo_classes: list[str]
) -> None:
    bands = ModelData(
        classes=demo_classes, colors=default_colors(7), num_channels=5, bands=[1, 2, 3, 4, 5]
    )
    save_untrained(tmp_path / "bands.pt", bands, ([90.0] * 5, [40.0] * 5))
    with pytest.raises(InputError, match=r"have 3 channels, the network of .* was trained on 5"):
        run(tmp_path / "out", tmp_path / "bands.pt", "--table", "demo")
    names = ["rain", *demo_classes[1:]]
    save_untrained(tmp_path / "rain.pt", ModelData(classes=names, colors=default_colors(7)))
    args = (trained, "--compare", tmp_path / "rain.pt", "--map-classes", "sky=")
    with pytest.raises(InputError, match="--compare needs equal classes"):
        run(tmp_path / "out", *args)


def test_images_of_five_bands_are_scored_and_drawn(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(5):
        bands = rng.integers(0, 4096, (5, *SIZE), dtype=np.uint16)
        write_tiff(tmp_path / "images" / f"{number}.tif", bands)
        (tmp_path / "masks" / f"{number}.png").write_bytes(encode_png(random_mask(number, 3, SIZE)))
    table = prepare_folder(tmp_path, "--bands", "1,2,3,4,5")
    save_untrained(tmp_path / "last.pt", table.model_data, table.band_stats)
    report = run(tmp_path / "out", tmp_path / "last.pt", "--table", table.folder)
    assert report["split"] == "val" and report["num_images"] == 1
    assert np.sum(report["confusion"]) == SIZE[0] * SIZE[1]
    assert (tmp_path / "out" / "evaluation.html").read_text().count("<img ") == 3


def test_hostile_names_add_no_element_to_the_page(tmp_path: Path) -> None:
    def page_of(name: str, mark: str) -> str:
        mark = "".join(character for character in mark if character.isprintable())
        classes = [f"{letter}{mark}" for letter in "abc"]
        table = small_table(tmp_path / name / "t", classes, mark=mark)
        data = ModelData(classes=classes, colors=default_colors(3))
        save_untrained(tmp_path / name / "last.pt", data)
        out = tmp_path / name / "out"
        report = run(out, tmp_path / name / "last.pt", "--table", table.folder)
        assert report["images"][0]["id"] == f"test/0{mark}"
        return (out / "evaluation.html").read_text()

    elements = None
    for name, mark in {"harmless": HARMLESS, **HOSTILE}.items():
        page = page_of(name, mark)
        found = Skeleton(page)
        kinds = {element for element in found.elements}
        elements = elements or kinds
        assert kinds == elements, name
        assert not found.declarations and not re.search("[\x00\x1b\u202e]", page)
        assert all(STYLE.fullmatch(style) for style in found.styles), found.styles


@pytest.mark.process
def test_ctrl_c_ends_with_130_and_no_traceback(trained: Path, tmp_path: Path) -> None:
    args = [str(trained), "--tta", "flip,scales", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-m", "cid_ray.evaluate", *args],
        env={**os.environ, "PYTHONPATH": str(Path(cid_ray.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("model: ")
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=100)
    assert process.returncode == 130 and "Traceback" not in errors
    assert f"the same command with --out {tmp_path / 'out'} continues" in printed
    assert not (tmp_path / "out" / "evaluation.json").exists()
    assert json.loads((tmp_path / "out" / "partial.json").read_text())["done"] >= 1


@pytest.mark.process
def test_run_and_table_in_an_object_store_are_scored_alike(
    trained: Path, tmp_path: Path, small_demo: Path
) -> None:
    local = run(tmp_path / "local", trained, "--table", small_demo)
    with serving():
        table = upload(small_demo, "table")
        for file in trained.rglob("*"):
            if file.is_file():
                with paths.atomic_write(f"{BUCKET}/run/{file.relative_to(trained)}") as out:
                    out.write(file.read_bytes())
        remote = run(tmp_path / "remote", f"{BUCKET}/run:1/8", "--table", table)
    assert remote["confusion"] == local["confusion"] and remote["images"] == local["images"]
    assert remote["checkpoint"] == f"{BUCKET}/run/checkpoints/train/last.pt"
    assert remote["table"] == table


# ---- resume ----


def stop_after(images: int, trained: Path, out: Path, *options: str) -> None:
    """An evaluation that was stopped after so many images."""
    evaluation = evaluate.open_evaluation(
        evaluate.parse_arguments([str(trained), "--out", str(out), *options], "")
    )
    out.mkdir()
    list(PartialEvaluation(evaluation, out).run(lambda: evaluation.done == images))


def without_times(report: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if key not in ("seconds", "timestamp")}


def test_a_stopped_evaluation_continues_to_the_same_bits(
    trained: Path, tmp_path: Path, small_demo: Path
) -> None:
    options = ["--compare", str(trained), "--table", str(small_demo)]
    whole = run(tmp_path / "whole", trained, *options)
    out = tmp_path / "stopped"
    stop_after(4, trained, out, *options)
    assert json.loads((out / "partial.json").read_text())["done"] == 4
    assert without_times(run(out, trained, *options)) == without_times(whole)
    assert "4 of 6 images are there already" in (out / "log.txt").read_text()


@pytest.mark.parametrize("fault", ["cut", "other", "classes"])
def test_what_cannot_be_continued_is_scored_again(
    trained: Path, tmp_path: Path, small_demo: Path, fault: str
) -> None:
    table = ["--table", str(small_demo)]
    whole = run(tmp_path / "whole", trained, *table)
    out = tmp_path / "stopped"
    stop_after(3, trained, out, *table)
    file = out / "partial.json"
    content = json.loads(file.read_text())
    message = "is damaged"
    if fault == "cut":
        file.write_text(file.read_text()[:200])
    elif fault == "other":
        content["settings"]["split"], message = "val", "is of another evaluation"
        file.write_text(json.dumps(content))
    else:
        content["networks"][0]["confusion"] = [[1, 2], [3, 4]]
        file.write_text(json.dumps(content))
    assert without_times(run(out, trained, *table)) == without_times(whole)
    assert message in (out / "log.txt").read_text()
