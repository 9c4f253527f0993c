"""Law of pseudo-labels: labels stay, the pool gets confident classes and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import cid_ray
from cid_ray.config import InputError
from cid_ray.data.splits import make_split
from cid_ray.data.table import IGNORED
from cid_ray.predict import main as predict
from cid_ray.train import main as train
from tests.helpers.image_tables import by_id


@pytest.fixture(scope="module")
def round_two(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("round") / "two"
    options = ["--pseudo-labels", "--min-confidence", "0.3"]
    assert predict([str(trained), "demo", "--out", str(out), *options]) == 0
    return out


def test_labels_val_and_test_are_those_of_the_first_round(trained: Path, round_two: Path) -> None:
    first, second = cid_ray.open_table("demo"), cid_ray.open_table(str(round_two))
    split = make_split(first, cid_ray.load_model(trained).config.data)
    rows = by_id(second)
    for kept in (split.labeled, split.val, split.test):
        for row in kept.tolist():
            new = rows[first.ids(np.array([row]))[0]]
            assert np.array_equal(first.mask(row), second.mask(new))
            assert first.encoded(row, True) == second.encoded(new, True)
            assert np.array_equal(first.class_pixels[row], second.class_pixels[new])
    assert len(second) == sum(map(len, (split.labeled, split.pool, split.val, split.test)))
    for name in ("val", "test"):
        assert set(second.ids(second.rows(name))) == set(first.ids(getattr(split, name)))


def test_pool_has_the_classes_of_confident_pixels(trained: Path, round_two: Path) -> None:
    """The demo has masks of the pool too. None of their pixels may get into the new table."""
    predictor = cid_ray.load_model(trained)
    first, second = cid_ray.open_table("demo"), cid_ray.open_table(str(round_two))
    split = make_split(first, predictor.config.data)
    rows = by_id(second)
    differs = 0
    for row in split.pool[:24].tolist():
        new = rows[first.ids(np.array([row]))[0]]
        prediction = predictor(first.read(row, mask=False)[0])
        confident = prediction.confidence >= 0.3
        expected = np.where(confident, prediction.classes, IGNORED)
        if not confident.any():
            assert not second.labeled[new]
            continue
        assert np.array_equal(second.mask(new), expected)
        counts = np.bincount(expected[confident], minlength=first.num_classes)
        assert second.class_pixels[new].tolist() == counts.tolist()
        differs += not np.array_equal(second.mask(new), first.mask(row))
    assert differs > 0


def test_meta_says_where_the_masks_come_from(trained: Path, round_two: Path) -> None:
    meta = json.loads((round_two / "meta.json").read_text())["imported"]
    assert meta["format"] == "pseudo-labels" and meta["min_confidence"] == 0.3
    assert meta["table"] == cid_ray.open_table("demo").fingerprint
    assert meta["checkpoint"].endswith("last.pt") and meta["pseudo_labeled"] > 0


def test_table_of_round_two_trains(trained: Path, round_two: Path, tmp_path: Path) -> None:
    config = trained.parent / "tiny.yaml"
    changes = [f"data.table={round_two}", "data.ratio=1/1", "method=supervised", "train.steps=4"]
    options = [part for change in changes for part in ("--set", change)]
    assert train(["--config", str(config), *options, "--out", str(tmp_path / "run"), "-q"]) == 0
    assert cid_ray.load_model(tmp_path / "run").step == 4


def test_image_without_a_confident_pixel_stays_unlabeled(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--pseudo-labels", "--min-confidence", "1"]
    assert predict([str(trained), "demo", "--out", str(out), *options]) == 0
    table = cid_ray.open_table(str(out))
    assert table.labeled[table.rows("train")].sum() == 24


def test_other_classes_and_other_folders_are_refused(
    trained: Path, round_two: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(round_two, other)
    meta = json.loads((other / "meta.json").read_text())
    meta["classes"][0] = "heaven"
    (other / "meta.json").write_text(json.dumps(meta))
    command = [str(trained), str(other), "--pseudo-labels", "--out", str(tmp_path / "out")]
    with pytest.raises(InputError, match=r"has the classes heaven, .*, the network sky"):
        predict(command)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match=r"letter\.txt"):
        predict([str(trained), "demo", "--pseudo-labels", "--out", str(tmp_path / "full")])
    labeled = [str(trained), str(round_two), "--pseudo-labels", "--out", str(tmp_path / "third")]
    with pytest.raises(InputError, match="has no unlabeled image, so nothing to label"):
        predict(labeled)
    for wrong in (["--min-confidence", "2", "--pseudo-labels"], ["--min-confidence", "0.5"]):
        with pytest.raises(InputError, match="--min-confidence must be 0 to 1, with --pseudo"):
            predict([str(trained), "demo", "--out", str(tmp_path / "x"), *wrong])
