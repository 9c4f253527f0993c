"""Law: a config is checked before anything runs: a mistake is one line with key, value, rule and remedy, and code 2.

And its fingerprint changes with everything that changes results, and with nothing else.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import cid_ray
from cid_ray.config import Config, InputError, known_keys, label_share, load, override

# A value other than the default for every key that changes what a run gives.
CHANGES_RESULTS: dict[str, Any] = {
    "method": "supervised",
    "data.ratio": "1/4",
    "data.draw": 1,
    "data.split_seed": 1,
    "data.label_from": "one_group",
    "data.val_from_budget": 0.2,
    "data.image_size": [64, 96],
    "data.crop_size": 64,
    "data.scale": [1.0, 1.0],
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
    "loss.relation_kind": "cross",
    "loss.relation_weight": 0.5,
    "loss.relation_temperature": 0.2,
    "loss.relation_grid": 2,
    "loss.relation_ramp": 0.0,
    "loss.style_weight": 0.2,
    "loss.style_target": "labeled",
    "loss.style_stat": "gram",
    "loss.style_ramp": 0.0,
    "loss.stats_decay": 0.9,
    "loss.class_weights": "balanced",
    "optim.name": "sgd",
    "optim.lr": 0.01,
    "optim.head_lr_mult": 1.0,
    "optim.weight_decay": 0.0,
    "optim.momentum": 0.8,
    "optim.poly_power": 1.0,
    "optim.clip_norm": 1.0,
    "train.steps": 500,
    "train.micro_batch": 4,
    "train.rungs": [0.5, 1.0],
    "train.seed": 1,
    "train.ema_decay": 0.9,
    "train.amp": "bf16",
    "train.window": 64,
}
CHANGES_NO_RESULT: dict[str, Any] = {
    "data.table": "tables/other",
    "data.split_files": "splits/other",
    "data.threads": 1,
    "data.cache_mb": 0,
    "data.max_bad_frac": 0.1,
    "train.device": "cpu",
    "train.on_nan": "skip",
    "train.checkpoint_steps": 50,
    "train.checkpoint_minutes": 5.0,
    "train.checkpoint_folder": "s3://bucket/runs",
    "train.keep": 3,
    "scale.workers": 2,
    "scale.cpus_per_worker": 1.0,
    "scale.gpus_per_worker": 0.0,
    "scale.data_cpus": 1.0,
    "search.ratios": ["1/4"],
    "search.trials": 3,
    "search.space": {"loss.conf_thresh": {"low": 0.5, "high": 1.0}},
    "search.start": [{"loss.conf_thresh": 0.9}],
    "search.baselines": ["supervised"],
    "search.metric": "val/miou",
    "search.baseline_trials": 2,
    "search.cost": "seconds",
    "search.carry_over": True,
    "search.confirm.repeats": 3,
    "search.confirm.top": 2,
    "search.confirm.draws": False,
    "search.retries": 0,
    "search.max_failures": 1,
    "search.sampler.name": "RandomSampler",
    "search.sampler.args": {},
    "search.pruner.name": "NopPruner",
    "search.pruner.args": {},
    "search.seed": 1,
    "search.concurrency": 1,
    "search.cpus_per_trial": 2.0,
    "search.gpus_per_trial": 0.5,
    "search.trackers": {"tensorboard": {}},
    "study.storage": "postgresql+psycopg://db.lab/studies",
    "study.name": "camvid",
}
# What a run keeps or says, not what it learns: free to be in the fingerprint or out of it.
EITHER = {"train.samples", "train.alarm_steps", "train.compile"}

BAD_VALUES = [
    ("loss.conf_thresh", "95", "less than or equal to 1; did you mean 0.95?"),
    ("data.hflip", "50", "did you mean 0.5?"),
    ("loss.conf_thresh", "-1", "greater than or equal to 0"),
    ("optim.lr", "0", "greater than 0"),
    ("optim.lr", ".nan", "finite"),
    ("optim.lr", ".inf", "finite"),
    ("train.ema_decay", "1", "less than 1"),
    ("train.steps", "0", "greater than or equal to 1"),
    ("train.window", "16", "greater than or equal to 32"),
    ("train.rungs", "[0.5]", "end in 1"),
    ("train.rungs", "[0.5, 0.5, 1]", "increasing"),
    ("train.rungs", "[]", "end in 1"),
    ("method", "cidd", "'mean_teacher' or 'cid'"),
    ("data.label_from", "one", "'one_group'"),
    ("data.batch_size", "2.5", "valid integer"),
    ("data.scale", "[2, 1]", "increasing"),
    ("data.scale", "[0, 1]", "positive"),
    ("data.crop_size", "8", "at least 16 pixels"),
    ("data.crop_size", "big", "integer"),
    ("data.crop_size", "[64, 64, 64]", ""),
    ("data.image_size", "[8, 64]", "at least 16 pixels"),
    ("data.ratio", "0", "share such as '1/8' or a count"),
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


def changed(*changes: str) -> Config:
    return load(None, changes)


def message(call: Callable[..., object], *args: object) -> str:
    """The message of the InputError that a call must raise: one line, always."""
    with pytest.raises(InputError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_config_and_its_sections_are_frozen() -> None:
    config = Config()
    for section, key in ((config, "method"), (config.loss, "conf_thresh"), (config.data, "ratio")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, key, getattr(section, key))
    assert hash(config.data) == hash(Config().data)


def test_two_configs_share_no_mutable_default() -> None:
    Config().model.decoder_options["mine"] = 1
    assert Config().model.decoder_options == {}


@pytest.mark.parametrize(("wrong", "right"), UNKNOWN_KEYS)
def test_an_unknown_key_is_refused_and_names_the_nearest(wrong: str, right: str) -> None:
    said = message(changed, f"{wrong}=1")
    assert said.startswith(f"unknown key `{wrong}`") and f"did you mean `{right}`?" in said


def test_an_unknown_key_like_no_other_names_the_sections() -> None:
    said = message(changed, "qqqqq=1")
    assert all(name in said for name in Config.model_fields)


@pytest.mark.parametrize(("key", "value", "rule"), BAD_VALUES)
def test_a_bad_value_is_one_line_with_key_value_and_rule(key: str, value: str, rule: str) -> None:
    said = message(changed, f"{key}={value}")
    assert said.startswith(f"`{key}` is ") and rule in said
    shown = str(yaml.safe_load(value))
    assert shown in said


def test_a_batch_that_workers_cannot_share_names_both_keys() -> None:
    said = message(changed, "data.batch_size=8", "scale.workers=9")
    assert "data.batch_size is 8" in said and "scale.workers (9)" in said
    said = message(changed, "data.batch_size_u=4", "scale.workers=3")
    assert "data.batch_size_u is 4" in said and "at least 2 for each" in said
    assert changed("data.batch_size=8", "scale.workers=3").scale.workers == 3


def test_the_first_mistake_is_told_and_the_others_are_counted() -> None:
    said = message(changed, "loss.conf_thresh=95", "optim.lr=0", "train.steps=0")
    assert "loss.conf_thresh" in said and "2 more mistakes" in said


def test_a_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "camvid.yaml").write_text("")
    said = message(load, tmp_path / "camvit.yaml")
    assert "camvit.yaml does not exist" in said and f"did you mean {tmp_path / 'camvid.yaml'}?" in said
    assert "did you mean" not in message(load, tmp_path / "elsewhere" / "camvid.yaml")


def test_broken_yaml_names_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("loss:\n  conf_thresh: 0.9\n bad: 1\n")
    assert f"{file}, line 3: not valid YAML" in message(load, file)


@pytest.mark.parametrize("content", [b"- 1\n", b"3\n", b"\xff\xfe\x00", b"loss: {conf_thresh: \x07}\n", b"a: *b\n"])
def test_a_file_that_is_no_config_is_one_line_that_names_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "odd.yaml"
    file.write_bytes(content)
    assert message(load, file).startswith(str(file))


def test_a_value_of_a_yaml_type_that_no_key_takes_is_a_mistake_like_any_other(tmp_path: Path) -> None:
    file = tmp_path / "dated.yaml"
    file.write_text("data: {table: 2024-05-01}\n")
    assert "data.table" in message(load, file)


def test_an_empty_file_is_the_default_config(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    assert load(tmp_path / "empty.yaml") == Config() == load(None)


def test_set_wins_over_the_file_and_the_last_set_wins(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("loss: {conf_thresh: 0.5, style_weight: 0.3}\n")
    config = load(tmp_path / "c.yaml", ["loss.conf_thresh=0.6", "loss.conf_thresh=0.7"])
    assert config.loss.conf_thresh == 0.7 and config.loss.style_weight == 0.3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train.rungs=[0.25, 1]", (0.25, 1.0)),
        ("data.scale=[0.5, 1.5]", (0.5, 1.5)),
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
def test_set_reads_yaml_values(text: str, expected: object) -> None:
    value: Any = changed(text)
    for name in text.partition("=")[0].strip().split("."):
        value = getattr(value, name)
    assert value == expected


def test_set_reads_1e_3_as_a_number_in_untyped_options_too() -> None:
    options = changed("model.decoder_options.decoder_dropout=1e-3").model.decoder_options
    assert options == {"decoder_dropout": 0.001}


@pytest.mark.parametrize("text", ["loss.conf_thresh", "=3", "loss.conf_thresh=[1", "loss.conf_thresh=!!python/name:os"])
def test_a_malformed_set_says_how_it_should_look(text: str) -> None:
    assert f"--set {text!r}" in message(changed, text)


def test_a_written_config_loads_as_itself(tmp_path: Path) -> None:
    config = override({}, {**CHANGES_RESULTS, **CHANGES_NO_RESULT})
    for given_config in (Config(), config):
        (tmp_path / "config.yaml").write_text(given_config.to_yaml())
        assert load(tmp_path / "config.yaml") == given_config
        assert load(tmp_path / "config.yaml").fingerprint() == given_config.fingerprint()


@settings(max_examples=30, deadline=None)
@given(
    lr=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    shares=st.sets(st.floats(min_value=1e-9, max_value=1, exclude_max=True), max_size=5),
    table=st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12),
)
def test_any_number_and_name_survives_writing(
    tmp_path_factory: pytest.TempPathFactory, lr: float, shares: set[float], table: str
) -> None:
    config = override({}, {"optim.lr": lr, "train.rungs": [*sorted(shares), 1.0], "data.table": table})
    file = tmp_path_factory.getbasetemp() / "written.yaml"
    file.write_text(config.to_yaml())
    assert load(file) == config


def leaves() -> set[str]:
    keys = known_keys()
    return {key for key in keys if not any(other.startswith(f"{key}.") for other in keys)}


def test_every_key_is_known_to_change_results_or_not_to() -> None:
    assert leaves() == {*CHANGES_RESULTS, *CHANGES_NO_RESULT, *EITHER}


@pytest.mark.parametrize("key", CHANGES_RESULTS)
def test_the_fingerprint_changes_with_what_changes_results(key: str) -> None:
    assert override({}, {key: CHANGES_RESULTS[key]}).fingerprint() != Config().fingerprint()


def test_fingerprints_of_different_changes_differ() -> None:
    prints = {override({}, {key: value}).fingerprint() for key, value in CHANGES_RESULTS.items()}
    assert len(prints) == len(CHANGES_RESULTS)


@pytest.mark.parametrize("key", CHANGES_NO_RESULT)
def test_the_fingerprint_does_not_change_with_where_and_how_wide_a_run_is_done(key: str) -> None:
    plugin = key.removesuffix(".args")
    named = {f"{plugin}.name": "Another"} if plugin != key else {}
    config = override({}, {**named, key: CHANGES_NO_RESULT[key]})
    assert config != Config() and config.fingerprint() == Config().fingerprint()


def test_the_fingerprint_does_not_change_with_where_a_weights_file_lies() -> None:
    here, there = (override({}, {"model.weights": path}).fingerprint() for path in ("a.safetensors", "b/c.safetensors"))
    assert here == there != Config().fingerprint()


def test_the_fingerprint_changes_with_the_contents_of_data_and_weights() -> None:
    prints = {Config().fingerprint(*contents) for contents in ((), ("a",), ("b",), ("a", "b"), ("b", "a"), ("ab",))}
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
def test_a_ratio_is_a_share_or_a_count(ratio: object, expected: tuple[float | None, int | None]) -> None:
    assert label_share(ratio) == expected


@pytest.mark.parametrize(
    "ratio", ["0", "-1/8", "9/8", "2.5", "1/0", "0/8", "1/8/2", "abc", "", "nan", "inf", "1e999", "null", "[1]"]
)
def test_a_bad_ratio_says_which_forms_there_are(ratio: str) -> None:
    said = message(changed, f"data.ratio={ratio}")
    assert said.startswith("`data.ratio` is ") and "'1/8'" in said and "'23'" in said


@pytest.mark.parametrize("ratios", ["[1/16, 0.2]", "[23, 1/8]"])
def test_a_search_takes_ratios_in_every_form_that_a_run_takes(ratios: str) -> None:
    expected = tuple(str(ratio) for ratio in yaml.safe_load(ratios))
    assert changed(f"search.ratios={ratios}").search.ratios == expected


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
def test_rung_steps_are_the_first_steps_at_which_a_share_is_done(
    steps: int, rungs: tuple[float, ...], expected: tuple[int, ...]
) -> None:
    assert override({}, {"train.steps": steps, "train.rungs": list(rungs)}).train.rung_steps == expected


@settings(deadline=None)
@given(steps=st.integers(1, 200_000), shares=st.sets(st.floats(1e-6, 1, exclude_max=True), max_size=6))
def test_rung_steps_rise_and_end_at_the_last_step(steps: int, shares: set[float]) -> None:
    found = override({}, {"train.steps": steps, "train.rungs": [*sorted(shares), 1.0]}).train.rung_steps
    assert found == tuple(sorted(set(found))) and found[0] >= 1 and found[-1] == steps


def command(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """`python -m ARGS` in a folder of its own, as a user's shell would run it."""
    return subprocess.run(
        [sys.executable, "-m", *args],
        cwd=folder,
        env={**os.environ, "COLUMNS": "120", "PYTHONPATH": str(Path(cid_ray.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=250,
    )


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ("cid_ray.train --set loss.relation_wieght=1", "loss.relation_weight"),
        ("cid_ray.train --set loss.conf_thresh=95", "0.95"),
        ("cid_ray.train --config absent.yaml", "absent.yaml"),
        ("cid_ray.train --resume norun", "norun"),
        ("cid_ray.train --stepz 3", "--stepz"),
        ("cid_ray.train --set data.table=tables/absent", "tables/absent"),
        ("cid_ray.report norun", "norun"),
        ("cid_ray.prepare split tables/absent --out here", "tables/absent"),
        ("cid_ray.prepare", "--help"),
    ],
)
def test_a_command_answers_a_mistake_with_one_line_and_exit_code_2(tmp_path: Path, args: str, named: str) -> None:
    done = command(tmp_path, *args.split())
    assert done.returncode == 2, done.stderr
    line = done.stderr.strip()
    assert line.startswith("error: ") and named in line and "\n" not in line
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


def test_the_package_lists_every_command(tmp_path: Path) -> None:
    done = command(tmp_path, "cid_ray")
    package = Path(cid_ray.__file__).parent
    commands = [file.stem for file in package.glob("*.py") if "cli.run(main)" in file.read_text()]
    assert done.returncode == 0 and {"prepare", "train", "tune", "report"} <= set(commands)
    for name in commands:
        assert f"python -m cid_ray.{name} " in done.stdout


@pytest.mark.parametrize("name", ["prepare", "train", "tune", "report"])
def test_every_command_has_help_with_examples_and_exit_codes(tmp_path: Path, name: str) -> None:
    done = command(tmp_path, f"cid_ray.{name}", "--help")
    assert done.returncode == 0 and not done.stderr
    assert "examples:" in done.stdout and f"python -m cid_ray.{name}" in done.stdout and "Exit codes" in done.stdout
