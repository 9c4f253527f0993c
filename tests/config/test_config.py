"""Laws of the configuration, against its own schema.

A mistake is one line with key, value, rule and remedy. The fingerprint changes with everything that
changes results, and with nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cid_ray.config import (
    Config,
    InputError,
    build_config,
    known_keys,
    load_config,
    parse_label_ratio,
)
from cid_ray.config.yaml_reader import parse_yaml

# A value other than the default for every key that changes a run's results.
CHANGES_RESULTS: dict[str, Any] = {
    "method": "supervised",
    "data.ratio": "1/4",
    "data.draw": 1,
    "data.split_seed": 1,
    "data.label_from": "one_group",
    "data.val_from_budget": 0.2,
    "data.pool_fraction": 0.5,
    "data.image_size": [64, 96],
    "data.crop_size": 64,
    "data.scale_range": [1.0, 1.0],
    "data.hflip": 0.0,
    "data.batch_size": 4,
    "data.batch_size_u": 4,
    "model.decoder": "fpn",
    "model.encoder": "resnet18",
    "model.weights": "pretrained",
    "model.decoder_options": {"decoder_dropout": 0.1},
    "loss.pseudo": "soft",
    "loss.pseudo_weight": 0.5,
    "loss.conf_thresh": 0.9,
    "loss.temperature": 1.0,
    "loss.pseudo_burn_in": 0.1,
    "loss.pseudo_ramp": 0.2,
    "loss.first_round": 0.4,
    "loss.relation_kind": "cross",
    "loss.relation_weight": 0.5,
    "loss.relation_temperature": 0.2,
    "loss.relation_grid": 2,
    "loss.relation_ramp": 0.0,
    "loss.style_weight": 0.2,
    "loss.style_target": "labeled",
    "loss.style_stat": "gram",
    "loss.style_ramp": 0.0,
    "loss.stats_span": 0.1,
    "loss.base": "unimatch_v2",
    "loss.threshold": "class_adaptive",
    "loss.align_distribution": True,
    "loss.relation_levels": ["encoder_4"],
    "loss.labeled_memory": 8,
    "loss.class_weights": "balanced",
    "model.freeze": "encoder",
    "optim.name": "sgd",
    "optim.lr": 0.01,
    "optim.head_lr_mult": 1.0,
    "optim.layer_decay": 0.75,
    "optim.weight_decay": 0.0,
    "optim.momentum": 0.8,
    "optim.poly_power": 1.0,
    "optim.clip_norm": 1.0,
    "train.steps": 500,
    "train.micro_batch_size": 4,
    "train.rungs": [0.5, 1.0],
    "train.seed": 1,
    "train.ema_span": 0.1,
    "train.amp": "bf16",
    "train.sliding_window": 64,
}
NOT_CHANGING_RESULTS: dict[str, Any] = {
    "data.table": "tables/other",
    "data.split_files": "splits/other",
    "data.threads": 1,
    "data.cache_mb": 0,
    "data.max_bad_frac": 0.1,
    "model.in_channels": 5,
    "train.device": "cpu",
    "train.on_nan": "skip",
    "train.checkpoint_steps": 50,
    "train.checkpoint_minutes": 5.0,
    "train.progress_s": 7.0,
    "train.checkpoint_dir": "s3://bucket/runs",
    "train.num_to_keep": 3,
    "distributed.num_workers": 2,
    "distributed.cpus_per_worker": 1.0,
    "distributed.gpus_per_worker": 0.0,
    "distributed.data_cpus": 1.0,
    "search.ratios": ["1/4"],
    "prices.label": 2.0,
    "prices.hour": 0.5,
    "prices.miss": 500.0,
    "prices.machine": "g5.xlarge",
    "search.supervised_ratios": ["1/2"],
    "search.trials": 3,
    "search.space": {"loss.conf_thresh": {"low": 0.5, "high": 1.0}},
    "search.points_to_evaluate": [{"loss.conf_thresh": 0.9}],
    "search.baselines": ["supervised"],
    "search.metric": "val/miou",
    "search.baseline_trials": 2,
    "search.second_objective": "seconds",
    "search.warm_start_ratios": True,
    "search.repeats.n": 3,
    "search.repeats.top": 2,
    "search.repeats.fresh_draws": False,
    "search.retries": 0,
    "search.max_preemption_failures": 1,
    "scale.ratios": ["1/2", "23"],
    "scale.pool_fractions": [0.5],
    "scale.workers": [8],
    "scale.scaling": "weak",
    "scale.timed_steps": 7,
    "scale.min_efficiency": 0.9,
    "scale.batch_sizes": [2],
    "scale.encoders": ["resnet18"],
    "scale.concurrent": [3],
    "scale.methods": ["supervised"],
    "scale.repeats": 9,
    "search.max_failed_trials": 1,
    "search.sampler.name": "RandomSampler",
    "search.sampler.args": {},
    "search.pruner.name": "NopPruner",
    "search.pruner.args": {},
    "search.seed": 1,
    "search.max_concurrent_trials": 1,
    "search.cpus_per_trial": 2.0,
    "search.gpus_per_trial": 0.5,
    "search.callbacks": {"tensorboard": {}},
    "study.storage": "postgresql+psycopg://db.lab/studies",
    "study.name": "camvid",
}
# Keys that change what a run saves or logs, not what it learns: in the fingerprint or not.
EITHER = {"train.num_sample_images", "train.warn_no_pseudo_steps", "train.compile"}

BAD_VALUES = [
    ("loss.conf_thresh", "95", "less than or equal to 1; did you mean 0.95?"),
    ("data.hflip", "50", "did you mean 0.5?"),
    ("loss.conf_thresh", "-1", "greater than or equal to 0"),
    ("optim.lr", "0", "greater than 0"),
    ("optim.lr", ".nan", "finite"),
    ("optim.lr", ".inf", "finite"),
    ("train.ema_span", "0", "greater than 0"),
    ("train.ema_span", "0.996001 * 2", "valid number"),
    ("loss.stats_span", "2", "less than or equal to 1"),
    ("loss.base", "fixmatch", "'mean_teacher' or 'unimatch_v2'"),
    ("loss.threshold", "adaptive", "'fixed' or 'class_adaptive'"),
    ("loss.relation_levels", "[]", "different names of features"),
    ("loss.relation_levels", "[decoder, decoder]", "different names of features"),
    ("loss.relation_levels", "[encoder]", "such as [decoder] or [decoder, encoder_4]"),
    ("loss.labeled_memory", "-1", "greater than or equal to 0"),
    ("train.steps", "0", "greater than or equal to 1"),
    ("train.sliding_window", "16", "greater than or equal to 32"),
    ("train.rungs", "[0.5]", "end in 1"),
    ("model.in_channels", "0", "greater than or equal to 1"),
    ("model.in_channels", "17", "less than or equal to 16"),
    ("train.rungs", "[0.5, 0.5, 1]", "increasing"),
    ("train.rungs", "[]", "end in 1"),
    ("method", "cidd", "'self_training' or 'cid'"),
    ("loss.first_round", "0", "greater than 0"),
    ("loss.first_round", "1", "less than 1"),
    ("data.label_from", "one", "'one_group'"),
    ("data.batch_size", "2.5", "valid integer"),
    ("data.scale_range", "[2, 1]", "increasing"),
    ("data.scale_range", "[0, 1]", "positive"),
    ("data.crop_size", "8", "at least 16 pixels"),
    ("data.crop_size", "big", "integer"),
    ("data.crop_size", "[64, 64, 64]", ""),
    ("data.image_size", "[8, 64]", "at least 16 pixels"),
    ("data.ratio", "0", "fraction such as '1/8' or a count"),
    ("search.ratios", "[1/8, 1/8]", "each once"),
    ("search.ratios", "[]", "at least one"),
    ("loss", "3", "dictionary"),
]
UNKNOWN_KEYS = [
    ("loss.relation_wieght", "loss.relation_weight"),
    ("loss.conf_treshold", "loss.conf_thresh"),
    ("conf_thresh", "loss.conf_thresh"),
    ("optim.learning_rate_mult", "optim.head_lr_mult"),
    ("trian", "train"),
    ("data.rato", "data.ratio"),
]


def config_with(*changes: str) -> Config:
    return load_config(None, changes)


def error_message(call: Callable[..., object], *args: object) -> str:
    """The message of the InputError that a call must raise: always one line."""
    with pytest.raises(InputError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_config_attribute_assignment_is_refused() -> None:
    config = Config()
    for section, key in ((config, "method"), (config.loss, "conf_thresh"), (config.data, "ratio")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, key, getattr(section, key))
    assert hash(config.data) == hash(Config().data)


def test_config_mutable_default_is_not_shared() -> None:
    Config().model.decoder_options["mine"] = 1
    assert Config().model.decoder_options == {}


@pytest.mark.parametrize(("wrong", "right"), UNKNOWN_KEYS)
def test_unknown_key_similar_to_known_names_nearest(wrong: str, right: str) -> None:
    message = error_message(config_with, f"{wrong}=1")
    assert message.startswith(f"unknown key `{wrong}`") and f"did you mean `{right}`?" in message


def test_unknown_key_unlike_any_names_sections() -> None:
    message = error_message(config_with, "qqqqq=1")
    assert all(name in message for name in Config.model_fields)


@pytest.mark.parametrize(("key", "value", "rule"), BAD_VALUES)
def test_bad_value_message_names_key_value_and_rule(key: str, value: str, rule: str) -> None:
    message = error_message(config_with, f"{key}={value}")
    assert message.startswith(f"`{key}` is ") and rule in message
    shown = str(yaml.safe_load(value))
    assert shown in message


def test_batch_size_below_workers_names_both_keys() -> None:
    message = error_message(config_with, "data.batch_size=8", "distributed.num_workers=9")
    assert "data.batch_size is 8" in message and "distributed.num_workers (9)" in message
    message = error_message(config_with, "data.batch_size_u=4", "distributed.num_workers=3")
    assert "data.batch_size_u is 4" in message and "at least 2 for each" in message
    assert (
        config_with("data.batch_size=8", "distributed.num_workers=3").distributed.num_workers == 3
    )


def test_several_mistakes_message_shows_first_and_counts_others() -> None:
    message = error_message(config_with, "loss.conf_thresh=95", "optim.lr=0", "train.steps=0")
    assert "loss.conf_thresh" in message and "2 more mistakes" in message


def test_missing_file_message_names_nearest_file(tmp_path: Path) -> None:
    (tmp_path / "camvid.yaml").write_text("")
    message = error_message(load_config, tmp_path / "camvit.yaml")
    assert (
        "camvit.yaml does not exist" in message
        and f"did you mean {tmp_path / 'camvid.yaml'}?" in message
    )
    assert "did you mean" not in error_message(load_config, tmp_path / "elsewhere" / "camvid.yaml")


def test_broken_yaml_message_names_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("loss:\n  conf_thresh: 0.9\n bad: 1\n")
    assert f"{file}, line 3: not valid YAML" in error_message(load_config, file)


@pytest.mark.parametrize(
    "content", [b"- 1\n", b"3\n", b"\xff\xfe\x00", b"loss: {conf_thresh: \x07}\n", b"a: *b\n"]
)
def test_file_without_mapping_message_names_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "odd.yaml"
    file.write_bytes(content)
    assert error_message(load_config, file).startswith(str(file))


def test_yaml_date_value_message_names_key(tmp_path: Path) -> None:
    file = tmp_path / "dated.yaml"
    file.write_text("data: {table: 2024-05-01}\n")
    assert "data.table" in error_message(load_config, file)


def test_empty_file_loaded_equals_default(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    assert load_config(tmp_path / "empty.yaml") == Config() == load_config(None)


def test_set_given_twice_last_wins_over_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("loss: {conf_thresh: 0.5, style_weight: 0.3}\n")
    config = load_config(tmp_path / "c.yaml", ["loss.conf_thresh=0.6", "loss.conf_thresh=0.7"])
    assert config.loss.conf_thresh == 0.7 and config.loss.style_weight == 0.3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train.rungs=[0.25, 1]", (0.25, 1.0)),
        ("data.scale_range=[0.5, 1.5]", (0.5, 1.5)),
        ("data.crop_size=[64, 96]", (64, 96)),
        ("data.crop_size=64", 64),
        ("data.image_size=null", None),
        ("optim.clip_norm=null", None),
        ("optim.clip_norm=1e-3", 0.001),
        ("optim.lr=1e-3", 0.001),
        ("optim.lr = 0.5", 0.5),
        ("train.compile=true", True),
        ("data.ratio=1/16", "1/16"),
        ("data.ratio=0.2", "0.2"),
        ("data.ratio=23", "23"),
        ("model.decoder_options={a: [1, 2]}", {"a": [1, 2]}),
        ("model.weights=w=1.safetensors", "w=1.safetensors"),
        ("search.ratios=[1/16, 1/8]", ("1/16", "1/8")),
    ],
)
def test_set_value_is_read_as_yaml(text: str, expected: object) -> None:
    value: Any = config_with(text)
    for name in text.partition("=")[0].strip().split("."):
        value = getattr(value, name)
    assert value == expected


def test_set_exponent_without_point_is_number() -> None:
    options = config_with("model.decoder_options.decoder_dropout=1e-3").model.decoder_options
    assert options == {"decoder_dropout": 0.001}


@pytest.mark.parametrize("text", ["loss.conf_thresh", "=3"])
def test_set_malformed_message_shows_form(text: str) -> None:
    assert f"--set {text!r}" in error_message(config_with, text)


@pytest.mark.parametrize("value", ["[1", "!!python/name:os"])
def test_set_value_that_is_no_yaml_names_the_key(value: str) -> None:
    message = error_message(config_with, f"loss.conf_thresh={value}")
    assert "--set loss.conf_thresh: the value is not valid YAML" in message


def test_config_written_and_loaded_is_equal(tmp_path: Path) -> None:
    changes = {**CHANGES_RESULTS, **NOT_CHANGING_RESULTS}
    del changes["prices.machine"]  # in place of prices.hour
    config = build_config({}, changes)
    for given_config in (Config(), config):
        (tmp_path / "config.yaml").write_text(given_config.to_yaml())
        assert load_config(tmp_path / "config.yaml") == given_config
        assert load_config(tmp_path / "config.yaml").fingerprint() == given_config.fingerprint()


@settings(max_examples=30, deadline=None)
@given(
    lr=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    fractions=st.sets(st.floats(min_value=1e-9, max_value=1, exclude_max=True), max_size=5),
    table=st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12),
)
def test_config_any_number_and_name_survives_writing(
    tmp_path_factory: pytest.TempPathFactory, lr: float, fractions: set[float], table: str
) -> None:
    config = build_config(
        {}, {"optim.lr": lr, "train.rungs": [*sorted(fractions), 1.0], "data.table": table}
    )
    file = tmp_path_factory.getbasetemp() / "written.yaml"
    file.write_text(config.to_yaml())
    assert load_config(file) == config


def value_keys() -> set[str]:
    """Every dotted key that holds a value, without the sections."""
    keys = known_keys()
    return {key for key in keys if not any(other.startswith(f"{key}.") for other in keys)}


def test_every_key_is_listed_as_changing_results_or_not() -> None:
    assert value_keys() == {*CHANGES_RESULTS, *NOT_CHANGING_RESULTS, *EITHER}


@pytest.mark.parametrize("key", CHANGES_RESULTS)
def test_fingerprint_result_affecting_change_differs(key: str) -> None:
    assert build_config({}, {key: CHANGES_RESULTS[key]}).fingerprint() != Config().fingerprint()


def test_fingerprint_different_changes_are_distinct() -> None:
    prints = {
        build_config({}, {key: value}).fingerprint() for key, value in CHANGES_RESULTS.items()
    }
    assert len(prints) == len(CHANGES_RESULTS)


@pytest.mark.parametrize("key", NOT_CHANGING_RESULTS)
def test_fingerprint_operational_change_is_equal(key: str) -> None:
    plugin = key.removesuffix(".args")
    named = {f"{plugin}.name": "Another"} if plugin != key else {}
    config = build_config({}, {**named, key: NOT_CHANGING_RESULTS[key]})
    assert config != Config() and config.fingerprint() == Config().fingerprint()


def test_fingerprint_weights_path_change_is_equal() -> None:
    here, there = (
        build_config({}, {"model.weights": path}).fingerprint()
        for path in ("a.safetensors", "b/c.safetensors")
    )
    assert here == there != Config().fingerprint()


def test_fingerprint_content_hash_change_differs() -> None:
    prints = {
        Config().fingerprint(*contents)
        for contents in ((), ("a",), ("b",), ("a", "b"), ("b", "a"), ("ab",))
    }
    assert len(prints) == 6


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        ("1/16", (1 / 16, None)),
        ("1 / 8", (1 / 8, None)),
        ("0.2", (0.2, None)),
        (0.2, (0.2, None)),
        ("23", (None, 23)),
        (23, (None, 23)),
        ("1", (1.0, None)),
        ("1/1", (1.0, None)),
    ],
)
def test_label_ratio_valid_is_fraction_or_count(
    ratio: object, expected: tuple[float | None, int | None]
) -> None:
    assert parse_label_ratio(ratio) == expected


@pytest.mark.parametrize(
    "ratio",
    [
        "0",
        "-1/8",
        "9/8",
        "2.5",
        "1/0",
        "0/8",
        "1/8/2",
        "abc",
        "",
        "nan",
        "inf",
        "1e999",
        "null",
        "[1]",
    ],
)
def test_label_ratio_invalid_message_shows_both_forms(ratio: str) -> None:
    message = error_message(config_with, f"data.ratio={ratio}")
    assert message.startswith("`data.ratio` is ") and "'1/8'" in message and "'23'" in message


@pytest.mark.parametrize("ratios", ["[1/16, 0.2]", "[23, 1/8]"])
def test_search_ratios_accept_every_form(ratios: str) -> None:
    expected = tuple(str(ratio) for ratio in yaml.safe_load(ratios))
    assert config_with(f"search.ratios={ratios}").search.ratios == expected


@pytest.mark.parametrize(
    ("steps", "rungs", "expected"),
    [
        (1000, Config().train.rungs, (334, 667, 1000)),
        (9, Config().train.rungs, (3, 6, 9)),
        (30, (0.1, 0.7, 1.0), (3, 21, 30)),
        (1, Config().train.rungs, (1,)),
        (2, (0.5, 1.0), (1, 2)),
    ],
)
def test_rung_steps_are_first_steps_that_reach_fraction(
    steps: int, rungs: tuple[float, ...], expected: tuple[int, ...]
) -> None:
    assert (
        build_config({}, {"train.steps": steps, "train.rungs": list(rungs)}).train.rung_steps
        == expected
    )


@settings(deadline=None)
@given(
    steps=st.integers(1, 200_000),
    fractions=st.sets(st.floats(1e-6, 1, exclude_max=True), max_size=6),
)
def test_rung_steps_increase_and_end_at_last_step(steps: int, fractions: set[float]) -> None:
    found = build_config(
        {}, {"train.steps": steps, "train.rungs": [*sorted(fractions), 1.0]}
    ).train.rung_steps
    assert found == tuple(sorted(set(found))) and found[0] >= 1 and found[-1] == steps


def merge_bomb(levels: int, width: int) -> str:
    """Mappings of which each merges the one before it several times."""
    lines = ["l0: &l0 {a: 1, b: 2}"]
    for level in range(1, levels):
        merged = ", ".join([f"*l{level - 1}"] * width)
        lines.append(f"l{level}: &l{level} {{<<: [{merged}]}}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n"
            + "".join(
                f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n"
                for old, new in zip("abcdef", "bcdefg", strict=True)
            ),
            "expand to more than 100,000 values",
        ),
        ("a: &a [*a]\n", "contains itself"),
        ("loss: {relation_weight: " + "9" * 5000 + "}\n", "Exceeds the limit"),
        ("train: {steps: 0x" + "f" * 5000 + "}\n", "more than 64 bits"),
        ("train: {steps: " + "1:" * 2000 + "1}\n", "more than 64 bits"),
        ("train: {seed: " + "9" * 4000 + "}\n", "more than 64 bits"),
        ("a: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("a: " + "{a: " * 3000 + "}" * 3000, "nested too deeply"),
        (merge_bomb(levels=2, width=5000), "names more than 16 mappings"),
    ],
    ids=[
        "aliases",
        "itself",
        "digits",
        "hexadecimal",
        "base 60",
        "large",
        "depth of lists",
        "depth of mappings",
        "one large merge",
    ],
)
def test_config_file_that_is_a_bomb_is_refused_in_one_line(
    tmp_path: Path, text: str, reason: str
) -> None:
    file = tmp_path / "bomb.yaml"
    file.write_text(text)
    message = error_message(load_config, file)
    assert f"{file}: not valid YAML" in message and reason in message and "\n" not in message


def test_merges_of_merges_are_refused_in_one_line(tmp_path: Path) -> None:
    """By their number in a PyYAML that writes them out, else as unknown keys."""
    file = tmp_path / "bomb.yaml"
    file.write_text(merge_bomb(levels=40, width=9))
    assert "\n" not in error_message(load_config, file)


def test_config_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "large.yaml"
    with file.open("wb") as out:
        out.truncate(10**12)  # a sparse file
    message = error_message(load_config, file)
    assert f"{file} has 1,000,000,000,000 bytes" in message and "at most 262,144" in message


@pytest.mark.parametrize(
    "change",
    [
        "train.steps=" + "9" * 5000,
        "train.steps=0x" + "f" * 5000,
        "train.steps='" + "9" * 100_000 + "'",
        "data.ratio=" + "9" * 4000,
        "data.ratio='1/" + "9" * 5000 + "'",
        "method=" + "x" * 100_000,
        "loss." + "x" * 100_000 + "=1",
        "loss.conf_thresh=[" + "[" * 5000,
        "train.seed=1e400",
        "model.decoder_options={a: " + "9" * 5000 + "}",
    ],
    ids=range(10),
)
def test_huge_value_is_refused_in_one_short_line(change: str) -> None:
    message = error_message(config_with, change)
    assert "\n" not in message and len(message) < 100_000 + 500
    if not change.startswith("loss.x"):
        assert len(message) < 1000


@pytest.mark.parametrize("value", ["2026-01-01", "!!binary /w==", "!!set {a}", ".nan", "-.inf"])
def test_value_that_config_yaml_cannot_hold_is_refused(value: str) -> None:
    """Mappings that the schema leaves open take any YAML; these came back as another value."""
    for key in ("model.decoder_options.x", "search.pruner.args.x", "search.callbacks.mlflow.x"):
        with pytest.raises(InputError, match=f"`{key}` is .*: must be text .in quotes., a finite"):
            load_config(None, [f"{key}={value}", "search.pruner.name=NopPruner"])


@pytest.mark.parametrize("name", ["0E0", "1e5", "-3.e7", "12e-3"])
def test_name_that_looks_like_a_number_survives_writing(name: str) -> None:
    config = build_config({}, {"data.table": name})
    assert f"table: '{name}'" in config.to_yaml()
    assert build_config(parse_yaml(config.to_yaml())) == config
