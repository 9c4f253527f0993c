"""Laws of damaged run folders: what one file knows and another lacks is said before anything is
written, and after `cid_ray.repair` the search ends like one that was never damaged.

References: a search that ended undisturbed, and the bytes of the folder before. Trials are
simulated; studies, journal and records are real.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.chaos import Outcome, outcome, simulated_config, simulated_records
from cid_ray.callbacks.status_file import StatusFile
from cid_ray.config import Config, InputError
from cid_ray.repair import main as repair
from cid_ray.report import main as report
from cid_ray.results.records import of_event, read_records
from cid_ray.search.controller import Decision, Search
from cid_ray.storage.run_dir import RunDir
from tests.helpers.event_recorder import EventRecorder
from tests.helpers.simulated_studies import kill_search

RECORDS, JOURNAL, STATUS = "records.jsonl", "study.journal", "status.json"
Damage = Callable[[Path], None]


def run_search(folder: Path, config: Config, trials: int | None = None) -> Search:
    """Run so many trials and be killed in the middle of the next one; None: run to the end."""
    search = Search.open(config, RunDir(folder))
    search.add_callback(StatusFile())
    while (trial := search.next_trial()) is not None:
        for record in simulated_records(trial.config, trial.name):
            decision = search.report(record)
            if trials is not None and search.finished_before + trials == finished_trials(folder):
                kill_search(search)
                return search
            if decision is Decision.STOP:
                break
    search.close()
    return search


def finished_trials(folder: Path) -> int:
    return len(of_event(read_records(folder), "trial"))


def config() -> Config:
    changes: dict[str, Any] = {"search.baselines": ["supervised"]}
    return simulated_config(trials=4, **changes)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    run_search(folder, config())
    return folder


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that was killed after six trials."""
    folder = tmp_path_factory.mktemp("half") / "run"
    run_search(folder, config(), trials=6)
    return folder


@pytest.fixture(params=["reference", "half"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of either."""
    copy = tmp_path / "run"
    shutil.copytree(request.getfixturevalue(request.param), copy)
    return copy


def content(folder: Path) -> dict[str, bytes]:
    """The run's own files. An empty journal is none: Optuna creates the file that it opens."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and path.name != ".lock" and path.stat().st_size
    }


def empty(name: str) -> Damage:
    return keep_lines(name, 0.0)


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def keep_lines(name: str, share: float) -> Damage:
    def cut(folder: Path) -> None:
        lines = (folder / name).read_bytes().splitlines(keepends=True)
        (folder / name).write_bytes(b"".join(lines[: int(share * len(lines))]))

    return cut


def damage_line(name: str, share: float, replacement: bytes) -> Damage:
    def change(folder: Path) -> None:
        lines = (folder / name).read_bytes().splitlines(keepends=True)
        lines[int(share * len(lines))] = replacement
        (folder / name).write_bytes(b"".join(lines))

    return change


DAMAGES: dict[str, Damage] = {
    **{f"{name} empty": empty(name) for name in (RECORDS, JOURNAL)},
    **{f"{name} removed": remove(name) for name in (RECORDS, JOURNAL)},
    **{
        f"{name} cut at {share}": keep_lines(name, share)
        for name in (RECORDS, JOURNAL)
        for share in (0.5, 0.9)
    },
    **{
        f"journal line at {share} is {replacement!r}": damage_line(JOURNAL, share, replacement)
        for share in (0.0, 0.7)
        for replacement in (b"{torn\n", b"\xff\xfe\n", b'{"op_code": 77}\n')
    },
}


def ends_like_undisturbed(folder: Path, expected: Outcome) -> None:
    """Run the rest of the search. All its trials end, and those whose end was recorded already
    are as in a search that ran undisturbed: hyperparameters, state and curve.
    """
    records = read_records(folder, warn=False)
    kept = {record["run"] for record in of_event(records, "trial")}
    search = run_search(folder, config())
    ended = outcome(search.store)
    assert {run: ended[run] for run in kept} == {run: expected[run] for run in kept}
    assert {run for run in ended if "repeat" not in run} == {
        run for run in expected if "repeat" not in run
    }
    ends = {record["run"]: record["state"] for record in of_event(read_records(folder), "trial")}
    names = {"COMPLETE": "complete", "PRUNED": "pruned"}
    assert ends == {run: names[state] for run, (state, *_) in ended.items()}


@pytest.fixture(scope="module")
def expected(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    copy = tmp_path_factory.mktemp("expected") / "run"
    shutil.copytree(reference, copy)
    search = Search.open(config(), RunDir(copy))
    search.close()
    return outcome(search.store)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_refused_unchanged_and_repaired_search_ends_like_undisturbed_one(
    folder: Path, damage: Damage, expected: Outcome, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(folder)
    before = content(folder)
    with pytest.raises(InputError, match=r"cid_ray\.repair"):
        Search.open(config(), RunDir(folder))
    assert content(folder) == before
    assert repair([str(folder)]) == 0
    (backup,) = (folder / "backup").iterdir()
    kept = {name: data for name, data in before.items() if (backup / name).is_file()}
    assert {path.name: path.read_bytes() for path in backup.iterdir() if path.stat().st_size} == {
        **kept
    }
    assert str(backup) in capsys.readouterr().out
    ends_like_undisturbed(folder, expected)


def test_undamaged_search_is_compared_without_a_word(folder: Path, expected: Outcome) -> None:
    search = Search.open(config(), RunDir(folder))
    assert search.store.notes == []
    search.close()
    ends_like_undisturbed(folder, expected)


def test_repair_of_undamaged_search_changes_no_trial(folder: Path, expected: Outcome) -> None:
    assert repair([str(folder)]) == 0
    ends_like_undisturbed(folder, expected)


@pytest.mark.parametrize("damage", [empty(RECORDS), keep_lines(RECORDS, 0.5), remove(JOURNAL)])
def test_report_of_damaged_search_leaves_its_page(
    reference: Path, tmp_path: Path, damage: Damage
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(reference, folder)
    assert report([str(folder)]) == 0
    page = (folder / "report" / "index.html").read_bytes()
    damage(folder)
    if not (folder / JOURNAL).exists():
        assert report([str(folder)]) == 0  # published without its studies
        return
    with pytest.raises(InputError, match="is damaged"):
        report([str(folder)])
    assert (folder / "report" / "index.html").read_bytes() == page


def test_records_cut_with_their_journal_are_noticed_by_the_status(
    reference: Path, tmp_path: Path
) -> None:
    """The third witness: an older copy of both files was put back."""
    folder = tmp_path / "run"
    shutil.copytree(reference, folder)
    early = tmp_path / "early"
    run_search(early, config(), trials=3)
    for name in (RECORDS, JOURNAL):
        shutil.copy(early / name, folder / name)
    with pytest.raises(InputError, match=r"status\.json counted \d+ finished trials, records"):
        Search.open(config(), RunDir(folder))
    with pytest.raises(InputError, match=r"status\.json counted"):
        report([str(folder)])


def test_damaged_lines_and_status_are_notes_where_nothing_is_lost(
    half: Path, tmp_path: Path, expected: Outcome
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(half, folder)
    with (folder / RECORDS).open("ab") as file:
        file.write(b'"\xff"\n' + b'{"event": "new", "run": "x"}\n')
    (folder / STATUS).write_text("[]")
    search = Search.open(config(), RunDir(folder))
    lines, status = search.store.notes
    assert "skipped 2 of" in lines and "not UTF-8" in lines
    assert "status.json holds no status" in status
    search.close()
    ends_like_undisturbed(folder, expected)


def test_score_that_differs_between_study_and_records_is_said(
    reference: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(reference, folder)
    lines = (folder / RECORDS).read_text().splitlines()
    changed = [json.loads(line) for line in lines]
    final = next(record for record in changed if record["event"] == "final")
    final["val/miou_teacher"] = 1.25
    (folder / RECORDS).write_text("".join(json.dumps(record) + "\n" for record in changed))
    search = Search.open(config(), RunDir(folder))
    (note,) = search.store.notes
    assert "disagree on 1 trial(s)" in note and final["run"] in note
    search.close()


@pytest.mark.parametrize("name", [RECORDS, JOURNAL])
def test_score_of_a_rung_that_is_gone_is_said(reference: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(reference, folder)
    marks = {RECORDS: '"event": "rung"', JOURNAL: '"intermediate_value"'}
    lines = (folder / name).read_text().splitlines(keepends=True)
    rung = next(number for number, line in enumerate(lines) if marks[name] in line)
    (folder / name).write_text("".join(lines[:rung] + lines[rung + 1 :]))
    search = Search.open(config(), RunDir(folder))
    (note,) = search.store.notes
    assert "disagree on 1 trial(s)" in note and "score at images" in note
    assert (": none and " in note) == (name == JOURNAL)
    search.close()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("param_value_internal", 0.123, "hyperparameter loss.relation_weight: 0.123 and "),
        ("state", 2, ", end: 'pruned' and 'complete'"),
    ],
)
def test_trial_that_the_journal_tells_otherwise_is_said(
    reference: Path, tmp_path: Path, field: str, value: float, message: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(reference, folder)
    changed = False
    lines = []
    for line in (folder / JOURNAL).read_text().splitlines():
        log = json.loads(line)
        is_param = log.get("param_name") == "loss.relation_weight"
        if not changed and (is_param or (field == "state" and log.get("state") == 1)):
            log[field] = value
            changed = True
        lines.append(json.dumps(log) + "\n")
    assert changed
    (folder / JOURNAL).write_text("".join(lines))
    search = Search.open(config(), RunDir(folder))
    (note,) = search.store.notes
    assert "disagree on 1 trial(s)" in note and message in note
    search.close()


def test_hyperparameter_that_the_whole_study_lost_is_said(reference: Path, tmp_path: Path) -> None:
    """It may have been sampled once only, as one of a condition is."""
    folder = tmp_path / "run"
    shutil.copytree(reference, folder)
    lines = (folder / JOURNAL).read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"param_name":"loss.relation_kind"' not in line]
    assert len(kept) < len(lines)
    (folder / JOURNAL).write_text("".join(kept))
    search = Search.open(config(), RunDir(folder))
    (note,) = search.store.notes
    assert "hyperparameter loss.relation_kind: none and '" in note
    search.close()


@pytest.mark.parametrize("name", [RECORDS, JOURNAL])
def test_new_search_does_not_start_in_folder_of_a_run_that_lost_its_config(
    half: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(half / name, folder)
    with pytest.raises(InputError, match=r"holds a run .* no config\.yaml"):
        Search.open(config(), RunDir(folder, is_new=True))


def change_records(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Replace every record, or leave it out."""
    records = [json.loads(line) for line in (folder / RECORDS).read_text().splitlines()]
    changed = [new for record in records if (new := change(record)) is not None]
    (folder / RECORDS).write_text("".join(json.dumps(record) + "\n" for record in changed))


def test_repaired_run_is_refused_no_more(
    reference: Path, tmp_path: Path, expected: Outcome
) -> None:
    """The end of a trial is known, its scores are lost."""
    folder = tmp_path / "run"
    shutil.copytree(reference, folder)
    change_records(
        folder, lambda r: None if r["event"] == "final" and r["run"] == "1_8-cid-000" else r
    )
    with pytest.raises(InputError, match="1_8-cid-000"):
        Search.open(config(), RunDir(folder))
    repair([str(folder)])
    repair([str(folder)])  # in the same second
    assert report([str(folder)]) == 0
    ends_like_undisturbed(folder, expected)


@pytest.mark.timeout(60)
def test_repair_adds_no_trials_for_a_number_that_cannot_be(
    reference: Path, tmp_path: Path, expected: Outcome, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(reference, folder)
    changed = {"trial_number": 999_999, "run": "1_8-cid-999999"}
    change_records(folder, lambda r: {**r, **changed} if r["run"] == "1_8-cid-001" else r)
    repair([str(folder)])
    assert "record(s) that these contradict" in capsys.readouterr().out
    ends_like_undisturbed(folder, expected)


def test_repair_that_cannot_copy_changes_nothing(half: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(half, folder)
    (folder / "backup").write_text("a file")
    before = content(folder)
    with pytest.raises(InputError, match="nothing was changed"):
        repair([str(folder)])
    assert content(folder) == before


def test_repair_says_what_it_did(
    half: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(half, folder)
    (folder / JOURNAL).unlink()
    damage_line(RECORDS, 0.5, b"{torn\n")(folder)
    repair([str(folder)])
    said = capsys.readouterr().out
    assert "removed 1 of" in said and "finished, as the records show" in said
    assert not (folder / STATUS).exists()


def test_trial_whose_checkpoint_is_gone_is_trained_again_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    search = Search.open(config(), RunDir(folder))
    trial = search.next_trial()
    assert trial is not None
    search.report(next(iter(simulated_records(trial.config, trial.name))))
    checkpoint = folder / "checkpoints" / trial.name / "last.pt"
    for exists in (True, False):
        kill_search(search)
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.touch()
        if not exists:
            checkpoint.unlink()
        search = Search.open(config(), RunDir(folder))
        recorder = EventRecorder()
        search.add_callback(recorder)
        search.next_trial()
        said = [text for text, _ in recorder.of("on_message")]
        assert any("trained from the start" in text for text in said) is not exists
    search.close()


def test_repair_of_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no config\.yaml"):
        repair([str(tmp_path)])


def test_repair_of_running_search_is_refused(half: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(half, folder)
    search: Any = Search.open(config(), RunDir(folder))
    with pytest.raises(InputError, match="in use by another process"):
        repair([str(folder)])
    search.close()
