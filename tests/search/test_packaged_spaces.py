"""Every search space that comes with cid_ray can start, and the field's have the field's values."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from cid_ray import tune
from cid_ray.config import Config, InputError, load_config
from cid_ray.core.model import Segmenter
from cid_ray.search.checks import check_search
from cid_ray.storage.packaged import named_file, packaged_names
from tests.helpers.image_tables import labeled_row, random_image, random_mask, write_table


def load_space(name: str) -> Config:
    return load_config(named_file(name, "search_spaces"), ["model.weights=none"])


@pytest.mark.parametrize("name", packaged_names("search_spaces"))
def test_space_is_valid_and_its_model_can_be_built(name: str) -> None:
    config = load_space(name)
    assert check_search(config).parameters
    with torch.device("meta"):
        Segmenter(config.model, num_classes=21)


def steps_of(num_unlabeled: int, epochs: int) -> int:
    """Steps of UniMatch: 4 GPUs of 2 unlabeled images, the last incomplete batch left out."""
    return math.ceil(num_unlabeled / 4) // 2 * epochs


@pytest.mark.parametrize(
    ("name", "steps", "others"),
    [
        (
            "voc",
            steps_of(10490, 80),
            [steps_of(number, 80) for number in (10399, 10216, 9850, 9118)],
        ),
        (
            "cityscapes",
            steps_of(2789, 240),
            [steps_of(number, 240) for number in (2603, 2231, 1487)],
        ),
    ],
)
def test_steps_are_the_epochs_of_the_source(name: str, steps: int, others: list[int]) -> None:
    assert load_space(name).train.steps == steps
    text = named_file(name, "search_spaces").read_text()
    for other in others:
        assert f"{other:,}" in text


def test_protocols_are_those_of_unimatch() -> None:
    """configs/{pascal,cityscapes}.yaml of UniMatch, commit 0324f3d."""
    voc, cityscapes = load_space("voc"), load_space("cityscapes")
    for config in (voc, cityscapes):
        assert (config.data.batch_size, config.data.batch_size_u) == (8, 8)
        assert (config.optim.name, config.optim.momentum) == ("sgd", 0.9)
        assert (config.optim.weight_decay, config.optim.poly_power) == (1e-4, 0.9)
        assert config.model.decoder_options["decoder_atrous_rates"] == [6, 12, 18]
        assert config.model.decoder_options["encoder_output_stride"] == 16
    assert (voc.data.crop, voc.optim.lr, voc.optim.head_lr_mult) == ((321, 321), 1e-3, 10)
    assert (voc.loss.conf_thresh, voc.train.sliding_window) == (0.95, None)
    assert voc.search.ratios == ("92", "183", "366", "732", "1464")
    assert (cityscapes.data.crop, cityscapes.optim.lr) == ((801, 801), 5e-3)
    assert (cityscapes.optim.head_lr_mult, cityscapes.loss.conf_thresh) == (1, 0)
    assert cityscapes.train.sliding_window == 801
    assert cityscapes.search.ratios == ("1/16", "1/8", "1/4", "1/2")


def test_missing_table_and_missing_lists_are_named_before_ray_starts(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "run")]
    with pytest.raises(InputError, match=r"data.table '.*/tables/voc' is not a table"):
        tune.main(["--config", "voc", "--set", f"data.table={tmp_path}/tables/voc", *out])
    mask = random_mask(0, 2, (16, 16))
    rows = [
        labeled_row(f"{split}{i}", random_image(10 * i, (16, 16)), mask, 2, split=split)
        for i, split in enumerate(("train", "val"))
    ]
    write_table(tmp_path / "table", rows, ("a", "b"))
    changes = [f"data.table={tmp_path}/table", f"data.split_files={tmp_path}/pascal/{{ratio}}"]
    options = [text for change in changes for text in ("--set", change)]
    with pytest.raises(
        InputError, match=r"pascal/92/labeled.txt does not exist .*UniMatch's lists"
    ):
        tune.main(["--config", "voc", *options, *out])
