"""Law: every file of a finished run, damaged in any way, costs no command a traceback, changes no
result in silence, and lets nothing outside the run folder be read or written.

The run is a real one: a search without Ray, and a `train`. The kept table says what each command
makes of each damage; `python -m tests.test_damage_matrix` writes it again.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cid_ray import repair, report
from cid_ray.cli.parser import add_config_options, make_parser
from cid_ray.cli.run_options import open_run
from cid_ray.config import InputError, build_config
from cid_ray.data.synthetic import write_demo
from cid_ray.results.live_page import open_runs, run_page
from cid_ray.results.records import read_records
from cid_ray.results.summary import result_table, summarize
from cid_ray.search.controller import Decision, Search
from cid_ray.storage.run_dir import RunDir
from cid_ray.train import main as train_main
from cid_ray.training import launch
from tests.helpers.event_recorder import EventRecorder
from tests.helpers.local_search import search_until, tiny_search

pytestmark = pytest.mark.slow
KEPT = Path(__file__).parents[1] / "benchmarks" / "results" / "integrity" / "damage.json"
SECRET = b"nobody may read or change this\n"
DAMAGES = ("empty", "half", "flipped", "random", "removed", "folder", "link")
RUN_FILES = {
    "search": (
        "config.yaml",
        "records.jsonl",
        "study.journal",
        "status.json",
        "report/index.html",
        "last.pt",
        "sample.png",
    ),
    "train": ("config.yaml", "records.jsonl", "log.txt", "last.pt"),
}
COMMANDS = {
    "search": ("report", "dashboard", "tune --resume", "repair"),
    "train": ("report", "train --resume", "repair"),
}
CELLS = [
    (run, file, damage, command)
    for run, files in RUN_FILES.items()
    for file in files
    for damage in DAMAGES
    for command in COMMANDS[run]
]


# ---- the runs ----


def make_runs(folder: Path) -> None:
    """A finished search and a finished run of `train`."""
    write_demo(folder / "table", {"test": 4, "val": 3, "train": 24})
    config = tiny_search(folder / "table")
    changes = {"search.ratios": ["1/8"], "search.trials": 2, "train.num_sample_images": 1}
    config = build_config(config.model_dump(mode="json"), changes)
    search_until(folder / "search", config)
    with Search.open(config, RunDir(folder / "search")) as search:
        search.finalize()
    yaml = folder / "train.yaml"
    yaml.write_text(build_config(config.model_dump(mode="json"), {"method": "cid"}).to_yaml())
    assert train_main(["--config", str(yaml), "--out", str(folder / "train"), "-q"]) == 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_runs(folder)
    return folder


def file_of(folder: Path, name: str) -> Path:
    """The file that a column is about: of checkpoints and samples the first one."""
    if name.endswith((".pt", ".png")):
        below = "checkpoints" if name.endswith(".pt") else "samples"
        pattern = name if name.endswith(".pt") else "*.png"
        return sorted((folder / below).rglob(pattern))[0]
    return folder / name


def damage_file(file: Path, damage: str, outside: Path) -> None:
    content = file.read_bytes()
    chance = random.Random(len(content))
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage == "link":
        file.symlink_to(outside)
    elif damage != "removed":
        flipped = bytearray(content)
        middle = len(content) // 2
        if file.suffix != ".pt":  # always at the start of a line, whatever is in it
            middle = content.find(b"\n", middle) + 1
        flipped[middle] ^= 0x10
        file.write_bytes(
            {
                "empty": b"",
                "half": content[: len(content) // 2],
                "flipped": bytes(flipped),
                "random": chance.randbytes(len(content)),
            }[damage]
        )


# ---- the commands ----


def resume_search(folder: Path) -> list[str]:
    """`tune --resume` without Ray; returns what it says is odd."""
    parser = make_parser("tune", "", "")
    add_config_options(parser)
    config, run_dir = open_run(parser.parse_args(["--resume", str(folder)]), "tune")
    with run_dir, Search.open(config, run_dir) as search:
        notes = list(search.store.notes)
        recorder = EventRecorder()
        search.add_callback(recorder)
        while (trial := search.next_trial()) is not None:
            notes.append(f"{trial.name} runs")
            run = (trial.config, folder, trial.name)
            for record in launch.train(*run, score_test=trial.score_test, cpus=1):
                if search.report(record) is Decision.STOP:
                    break
        search.finalize()
        said = [text for text, _ in recorder.of("on_message")]
        return notes + [text for text in said if "again" in text or "warning" in text]


def show(folder: Path) -> list[str]:
    """The page of `dashboard`; returns the problems that it shows."""
    (run,) = open_runs([RunDir(folder)])
    run_page(run, [run])
    return run.read()[0].problems


def run_command(command: str, folder: Path, say: Callable[[], str]) -> list[str]:
    """Run a command; returns what it says is odd."""
    if command == "tune --resume":
        return resume_search(folder)
    if command == "dashboard":
        return show(folder)
    main = {"report": report.main, "repair": repair.main, "train --resume": train_main}[command]
    options = ["--resume"] if command == "train --resume" else []
    assert main([*options, str(folder)]) == 0
    said = ("warning:", "removed", "interrupted", "finished", "lost")
    return [line for line in say().splitlines() if any(word in line for word in said)]


def state_of(folder: Path) -> dict[str, str]:
    """Every file of a run with its content; without locks and the log, which a start extends."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (".lock", "log.txt"):
            found[str(path.relative_to(folder))] = path.read_bytes().hex()
    return found


def results_of(folder: Path) -> list[dict[str, object]]:
    """The table of results, without what a second scoring changes."""
    table = result_table(summarize(read_records(folder, warn=False)))
    return [{key: value for key, value in line.items() if key != "seconds"} for line in table]


def outcome(runs: Path, cell: tuple[str, str, str, str], work: Path, say: Callable[[], str]) -> str:
    """What a command makes of a damage: "refused", "same results" or "said, same results" ..."""
    run, file, damage, command = cell
    folder, outside = work / run, work / "outside"
    shutil.copytree(runs / run, folder)
    outside.write_bytes(SECRET)
    reference = results_of(folder)
    damage_file(file_of(folder, file), damage, outside)
    before = state_of(folder)
    say()
    try:
        notes = run_command(command, folder, say)
    except InputError:
        # Optuna creates the journal that it opens.
        after = {name: text for name, text in state_of(folder).items() if name in before or text}
        assert after == before, "refused, and yet something changed"
        return "refused"
    finally:
        assert outside.read_bytes() == SECRET
    pages = [path for path in folder.rglob("*.html") if path.is_file() and not path.is_symlink()]
    for page in pages:
        assert SECRET.decode().strip() not in page.read_text(errors="replace")
    same = not (folder / "records.jsonl").is_file() or results_of(folder) == reference
    if command == "repair":
        return "repaired" if notes else "nothing to repair"
    return ("said, " if notes else "") + ("same results" if same else "other results")


@pytest.mark.parametrize("cell", CELLS, ids=["-".join(cell).replace("/", "_") for cell in CELLS])
def test_damage_has_the_outcome_of_the_kept_table(
    runs: Path, cell: tuple[str, str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = outcome(runs, cell, tmp_path, lambda: "".join(capsys.readouterr()))
    assert found != "other results", "a result changed in silence"
    assert found == json.loads(KEPT.read_text())[" | ".join(cell)]


def write_table() -> None:
    """Write the kept table again, as JSON and as Markdown."""
    import contextlib
    import io

    outcomes = {}
    with tempfile.TemporaryDirectory() as temporary:
        runs = Path(temporary) / "runs"
        runs.mkdir()
        make_runs(runs)
        for number, cell in enumerate(CELLS):
            work = Path(temporary) / str(number)
            work.mkdir()
            said = io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                try:
                    found = outcome(runs, cell, work, said.getvalue)
                except Exception as error:
                    found = f"FAULT {type(error).__name__}: {error}"[:300]
            outcomes[" | ".join(cell)] = found
            shutil.rmtree(work)
            print(*cell, "->", found, flush=True)
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    KEPT.write_text(json.dumps(outcomes, indent=0) + "\n")
    lines = ["# Every file of a run, damaged, and what each command makes of it", ""]
    lines += ["`python -m tests.test_damage_matrix`, checked by `tests/test_damage_matrix.py`.", ""]
    for run, files in RUN_FILES.items():
        for command in COMMANDS[run]:
            lines += [f"## {command} of a finished {run}", ""]
            lines += ["| file | " + " | ".join(DAMAGES) + " |", "|---" * 8 + "|"]
            for file in files:
                row = [outcomes[" | ".join((run, file, damage, command))] for damage in DAMAGES]
                lines.append(f"| `{file}` | " + " | ".join(row) + " |")
            lines.append("")
    KEPT.with_suffix(".md").write_text("\n".join(lines))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    write_table()
