"""Contract of `predict` over Ray Data and in an object store: the same masks as in one process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cid_ray.config import InputError
from cid_ray.data.ingest.findings import Findings
from cid_ray.inference.image_parts import PredictOptions
from cid_ray.inference.inputs import list_inputs
from cid_ray.inference.ray_batch import WorkerSpec, predict_with_ray
from cid_ray.predict import main as predict
from cid_ray.storage import paths
from tests.helpers.object_store import BUCKET, serving, upload

NUM_PHOTOS = 11


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(NUM_PHOTOS):
        pixels = rng.integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def expected(trained: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Masks by one process."""
    out = tmp_path_factory.mktemp("expected") / "out"
    assert predict([str(trained), str(photos), "--out", str(out), "-q"]) == 0
    return out / "masks"


def differing(first: Path, second: Path) -> float:
    """The fraction of pixels that differ: sums of floats depend on the number of threads."""
    found = [
        (np.asarray(Image.open(file)) != np.asarray(Image.open(second / file.name))).mean()
        for file in first.iterdir()
    ]
    assert len(found) == NUM_PHOTOS
    return float(np.mean(found))


@pytest.mark.ray
def test_workers_write_the_same_masks_and_name_unreadable_images(
    ray_cluster: str, trained: Path, photos: Path, expected: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "bad.png").write_text("no image")
    out = tmp_path / "out"
    checkpoint = trained / "checkpoints" / "train" / "last.pt"
    spec = WorkerSpec(checkpoint, "teacher", "cpu", out, frozenset(), PredictOptions())
    records = list(predict_with_ray(list_inputs(str(folder), Findings()), spec, workers=2))
    assert len(records) == NUM_PHOTOS + 1
    (bad,) = (record for record in records if record["event"] == "unreadable")
    assert bad["name"] == "bad" and "not a picture" in bad["reason"]
    assert differing(expected, out / "masks") < 0.01


@pytest.mark.ray
def test_command_with_workers_continues_what_one_process_began(
    ray_cluster: str,
    trained: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    command = [str(trained), str(photos), "--out", str(out)]
    assert predict(command) == 0
    lines = (out / "predictions.jsonl").read_text().splitlines(keepends=True)
    (out / "predictions.jsonl").write_text("".join(lines[:4]))
    capsys.readouterr()
    assert predict([*command, "--workers", "2"]) == 0
    assert f"4 of {NUM_PHOTOS} images are there already" in capsys.readouterr().out
    after = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert sorted(record["name"] for record in after) == sorted(f.stem for f in photos.iterdir())
    with pytest.raises(InputError, match="--workers is -1, must be 0"):
        predict([*command, "--workers", "-1"])


@pytest.mark.process
def test_images_and_masks_may_be_in_an_object_store(
    trained: Path, photos: Path, expected: Path, tmp_path: Path
) -> None:
    with serving():
        source = upload(photos, "photos")
        with paths.atomic_write(f"{source}/notes.txt") as file:
            file.write(b"x")
        out = f"{BUCKET}/masks-of-photos"
        assert predict([str(trained), source, "--out", out, "-q"]) == 0
        names = paths.list_files(out)
        assert {"settings.json", "predictions.jsonl", "classes.txt"} < set(names)
        local = tmp_path / "masks"
        local.mkdir()
        for name in names:
            if name.startswith("masks/"):
                with paths.open_read(f"{out}/{name}") as file:
                    (local / Path(name).name).write_bytes(file.read())
        assert differing(expected, local) == 0
        assert predict([str(trained), source, "--out", out, "-q"]) == 0  # nothing is left to do
        with pytest.raises(InputError, match=r"holds predictions with tta '', now it is 'flip'"):
            predict([str(trained), source, "--out", out, "--tta", "flip"])
        with pytest.raises(InputError, match="holds no image"):
            predict([str(trained), f"{BUCKET}/nothing", "--out", out])
