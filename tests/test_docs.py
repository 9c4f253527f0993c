"""Laws of README.md and docs/: every code block runs, every name in them exists, they are short.

References are the commands' own parsers, the configuration's keys, the files of this repository,
and real runs in a folder that holds what the pages assume (`photos/`, `tables/mine`, ...). Blocks
fenced as `text` need a cloud, a database or a server, so their commands are parsed but not run.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import cid_ray
from cid_ray import prepare
from cid_ray.__main__ import COMMANDS, command_list
from cid_ray.cli.parser import Parser
from cid_ray.config import Config, build_config, known_keys
from cid_ray.data import synthetic
from tests.helpers.band_files import write_tiff
from tests.helpers.dashboard_client import KEPT_RUN
from tests.helpers.image_tables import encode_image, random_image, random_mask
from tests.helpers.markdown import (
    Block,
    CommandLine,
    anchors,
    find_command,
    inline_code,
    links,
    read_blocks,
    sentence_lengths,
)
from tests.helpers.tiny_run import real_data

ROOT = Path(cid_ray.__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*/README.md"))
ALL_PAGES = [*PAGES, ROOT / "cluster" / "README.md", *RESULTS]
LINKED_PAGES = [*ALL_PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]

MAX_README_WORDS = 1200
MAX_GLOSSARY_LINES = 60
MAX_MEDIAN_SENTENCE = 18

# Lines of bash blocks that are not run here: set-up (tests/test_packaging.py builds and installs
# the package), the tests themselves, and what `make` starts.
NOT_RUN = ("python3 -m venv ", "source ", "git ", "cd ", "pip install ", "make ")
NOT_RUN_MODULES = (".venv/bin/python -m pytest", "python -m pytest", "python -m benchmarks.")
RUN_TIMEOUT_S = 280
SUBCOMMANDS = ("folder", "camvid", "audit", "split", "check", "plan", "labels", "workers")
NEEDS_RAY = ("cid_ray.tune", "cid_ray.scale labels", "num_workers=")

# Added to every `train` and `tune`, so that they take seconds.
SHORT_TRAINING = ("train.steps=2", "train.rungs=[1.0]", "train.num_sample_images=1")
SMALL_BATCHES = ("data.batch_size=2", "data.batch_size_u=4")
SHORT_SEARCH = (
    "search.ratios=[1/2]",
    "search.supervised_ratios=[]",
    "search.trials=1",
    "search.baselines=[supervised]",
)
TINY_MODEL = (
    "model.encoder=test_efficientnet",
    "model.decoder=fpn",
    "model.decoder_options={decoder_pyramid_channels: 32, decoder_segmentation_channels: 32}",
    "data.crop_size=64",
)
# Pages whose blocks run several searches or ladders.
SLOW_PAGES = ("search.md", "distributed.md", "dashboards.md", "use.md", "scaling.md")


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# ---- Blocks are run ----


def needs_camvid(block: Block) -> bool:
    return bool(re.search(r"CamVid|tables/camvid|lite0\.safetensors", block.text))


def is_run(block: Block) -> bool:
    if block.language == "python":
        return True
    return block.language == "bash" and any(is_run_line(line) for line in block.command_lines())


def is_run_line(line: str) -> bool:
    return line.startswith(("python -m cid_ray.", "cid-ray "))


def page_params(camvid: bool) -> list[Any]:
    """Every page that has blocks to run, with the marks of what they need."""
    found = []
    for page in PAGES:
        blocks = [b for b in read_blocks(page) if is_run(b) and needs_camvid(b) == camvid]
        if not blocks:
            continue
        text = "".join(block.text for block in blocks)
        marks = [pytest.mark.process, pytest.mark.timeout(900)]
        if any(words in text for words in NEEDS_RAY):
            marks.append(pytest.mark.ray)
        if page.name in SLOW_PAGES:
            marks.append(pytest.mark.slow)
        if camvid:
            marks.append(pytest.mark.data)
        found.append(pytest.param(page, id=page_id(page), marks=marks))
    return found


@pytest.fixture
def folder(tmp_path: Path, small_demo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder that the pages assume: images of one's own, a finished run, our files.

    In it the demo set is a small one.
    """
    monkeypatch.setattr(synthetic, "ensure_demo_table", lambda: small_demo)
    (tmp_path / "small-demo").symlink_to(small_demo)
    size = (72, 96)
    for name, count in (("photos", 20), ("more_photos", 8)):
        (tmp_path / name).mkdir()
        for index in range(count):
            image = encode_image(random_image(index + 1000 * len(name), size))
            (tmp_path / name / f"{index:02d}.jpg").write_bytes(image)
    (tmp_path / "masks").mkdir()
    for index in range(20):
        mask = Image.fromarray(random_mask(index, 3, size))
        mask.save(tmp_path / "masks" / f"{index:02d}.png")
        bands = np.random.default_rng(index).integers(0, 4096, (5, *size), dtype=np.uint16)
        write_tiff(tmp_path / "scenes" / f"{index:02d}.tif", bands)
    (tmp_path / "names.txt").write_text("road\ncar\nsky\n")
    for name in ("cluster", "search_spaces", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "runs").mkdir()
    shutil.copytree(KEPT_RUN, tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepare_tables(page: Path) -> None:
    """Make `tables/mine`, unless a block of the page makes it."""
    if "--out tables/mine" in "".join(block.text for block in read_blocks(page)):
        return
    source = "folder --images photos --masks masks --unlabeled more_photos --classes names.txt"
    assert prepare.main([*source.split(), "--out", "tables/mine"]) == 0


def shortened(command: CommandLine) -> list[str]:
    """The arguments of a command, with changes that make it short."""
    changes: list[str] = []
    if command.name in ("evaluate", "predict", "label_next", "pool"):
        return ["small-demo" if word == "demo" else word for word in command.args]
    if command.name in ("train", "tune") and "--resume" not in command.args:
        changes += [*SHORT_TRAINING, *SMALL_BATCHES]
        if not re.search(r"data\.table=(?!demo\b)|camvid", " ".join(command.args)):
            changes.append("data.table=small-demo")
        if command.name == "tune":
            changes += SHORT_SEARCH
            if not any("search.repeats" in part for part in command.args):
                changes += ("search.repeats.n=0",)
        elif not {"--config", "model.decoder=dpt"} & set(command.args):
            changes += TINY_MODEL
    return [*command.args, *(f"--set={change}" for change in changes)]


def run_block(block: Block, namespace: dict[str, Any], environment: dict[str, str]) -> None:
    if block.language == "python":
        # Empty lines before it, so that a traceback shows the line of the page.
        code = "\n" * (block.line - 1) + block.text
        exec(compile(code, str(block.page), "exec"), namespace)
        return
    for line in block.command_lines():
        if not is_run_line(line):
            continue
        command = find_command(line)
        assert command is not None
        argv = [sys.executable, "-m", f"cid_ray.{command.name}", *shortened(command)]
        done = subprocess.run(
            argv, env=environment, capture_output=True, text=True, timeout=RUN_TIMEOUT_S
        )
        assert done.returncode == 0, f"{shlex.join(argv)}\n{done.stdout}{done.stderr}"


@contextlib.contextmanager
def on_one_cpu() -> Iterator[None]:
    """Pin this process and its children: on a busy machine two threads that wait for each other
    make a training of seconds take minutes.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run_blocks(page: Path, camvid: bool, address: str | None) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if address:
        environment["RAY_ADDRESS"] = address
    namespace: dict[str, Any] = {"__name__": "__main__"}
    blocks = [b for b in read_blocks(page) if is_run(b) and needs_camvid(b) == camvid]
    with on_one_cpu():
        for block in blocks:
            run_block(block, namespace, environment)


def ray_address(request: pytest.FixtureRequest) -> str | None:
    """The session's cluster for a page that needs Ray. Other pages must not start one."""
    if request.node.get_closest_marker("ray") is None:
        return None
    address: str = request.getfixturevalue("ray_cluster")
    return address


@pytest.mark.parametrize("page", page_params(camvid=False))
def test_blocks_of_page_run(page: Path, folder: Path, request: pytest.FixtureRequest) -> None:
    prepare_tables(page)
    run_blocks(page, False, ray_address(request))


@pytest.mark.parametrize("page", page_params(camvid=True))
def test_camvid_blocks_of_page_run(
    page: Path, folder: Path, request: pytest.FixtureRequest
) -> None:
    """With the first images of every split, and weights in the working folder."""
    camvid = real_data("camvid")
    weights = real_data("weights", "tf_efficientnet_lite0.safetensors")
    (folder / weights.name).symlink_to(weights)
    for kind in ("images", "masks"):
        for split in ("train", "val", "test"):
            target = folder / "CamVid" / kind / split
            target.mkdir(parents=True)
            files = sorted((camvid / kind / split).iterdir())
            for file in files[: 16 if split == "train" else 4]:
                (target / file.name).symlink_to(file)
    (folder / "CamVid" / "classes.txt").symlink_to(camvid / "classes.txt")
    run_blocks(page, True, ray_address(request))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_line_of_bash_block_is_run_or_known_as_set_up(page: Path) -> None:
    """A block that needs a cloud, a database or a server is fenced as `text`."""
    for block in read_blocks(page):
        if block.language == "bash":
            for line in block.command_lines():
                known = is_run_line(line) or line.startswith((*NOT_RUN, *NOT_RUN_MODULES))
                assert known, f"{page_id(page)}: {line}"


@pytest.mark.parametrize("page", ALL_PAGES, ids=page_id)
def test_yaml_blocks_are_configurations(page: Path) -> None:
    for block in read_blocks(page):
        if block.language == "yaml":
            build_config(yaml.safe_load(block.text))


# ---- Commands that are not run: their options exist ----


class ParsedArguments(Exception):
    """Carries what a command's parser has read, instead of the command's work."""

    def __init__(self, args: Any):
        super().__init__()
        self.args_read = args


@pytest.fixture
def stop_after_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command ends once its parser has read the arguments."""
    parse = Parser.parse_args

    def parse_and_stop(self: Parser, args: Any = None, namespace: Any = None) -> Any:
        raise ParsedArguments(parse(self, args, namespace))

    monkeypatch.setattr(Parser, "parse_args", parse_and_stop)


def run_main(command: CommandLine) -> Any:
    return importlib.import_module(f"cid_ray.{command.name}").main(command.args)


@pytest.mark.parametrize("page", ALL_PAGES, ids=page_id)
def test_every_command_line_is_accepted_by_its_parser(page: Path, stop_after_parsing: None) -> None:
    """This includes the keys and values of `--set`."""
    for block in read_blocks(page):
        if block.language not in ("bash", "text"):
            continue
        for command in filter(None, map(find_command, block.command_lines())):
            assert command.name in COMMANDS
            if "--help" in command.args:
                continue
            with pytest.raises(ParsedArguments) as caught:
                run_main(command)
            build_config({}, getattr(caught.value.args_read, "changes", []))


def known_options(name: str, *kind: str) -> set[str]:
    """The options in the help text of a command."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit):
        run_main(CommandLine(name, [*kind, "--help"]))
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", shown.getvalue()))


@pytest.mark.parametrize("page", ALL_PAGES, ids=page_id)
def test_every_option_in_inline_command_exists(page: Path) -> None:
    for code in inline_code(page):
        # Prose often shortens `python -m cid_ray.tune --resume` to `tune --resume`.
        match = re.match(r"(?:python -m cid_ray\.|cid-ray )?([a-z_]+)((?: .*)?)$", code)
        if match is None or match[1] not in COMMANDS:
            continue
        words = match[2].split()
        kind = [word for word in words[:1] if word in SUBCOMMANDS]
        options = {word.partition("=")[0] for word in words if word.startswith("-")}
        assert options <= known_options(match[1], *kind), code


@pytest.mark.parametrize("page", ALL_PAGES, ids=page_id)
def test_every_benchmark_and_its_options_exist(page: Path) -> None:
    pattern = r"python (?:-m )?(benchmarks[./][\w./]+)([^`\n>]*)"
    text = re.sub(r"\\\n\s*", " ", page.read_text())
    for module, args in re.findall(pattern, text):
        source = ROOT / f"{module.removesuffix('.py').replace('.', '/')}.py"
        assert source.is_file(), module
        for option in re.findall(r"(?<!\S)--[a-z-]+", args):
            assert option == "--help" or f'"{option}"' in source.read_text(), f"{module} {option}"


@pytest.mark.parametrize("page", ALL_PAGES, ids=page_id)
def test_every_make_target_and_extra_exists(page: Path) -> None:
    text = page.read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in re.findall(r"(?:cid_ray|'\.)\[([a-z]+)\]", text):
        assert extra in extras["optional-dependencies"], extra


# ---- What the pages name exists ----


@pytest.mark.parametrize("page", LINKED_PAGES, ids=page_id)
def test_every_link_leads_to_file_and_heading(page: Path) -> None:
    for target, anchor in links(page):
        path = (page.parent / target) if target else page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), f"{target}#{anchor}"


@pytest.mark.parametrize("page", LINKED_PAGES, ids=page_id)
def test_every_path_of_repository_exists(page: Path) -> None:
    folders = "cid_ray|tests|benchmarks|docs|cluster|search_spaces"
    # Not part of a longer path such as runs/benchmarks, and not a URL.
    pattern = rf"(?<![\w./~-])(?:{folders})/[\w./*-]*[\w/*]"
    for name in re.findall(pattern, page.read_text()):
        assert any(ROOT.glob(name.rstrip("/"))), name


@pytest.mark.parametrize("page", ALL_PAGES, ids=page_id)
def test_every_module_in_backticks_exists(page: Path) -> None:
    """In prose `data/sampling.py` is short for cid_ray/data/sampling.py."""
    for code in inline_code(page):
        if re.fullmatch(r"[\w/]+/\w+\.py", code):
            assert (ROOT / code).is_file() or (ROOT / "cid_ray" / code).is_file(), code
        if re.fullmatch(r"cid_ray(\.\w+)+", code):
            assert resolves(code), code


def resolves(dotted: str) -> bool:
    """Whether a dotted name of cid_ray is a module, or an attribute of one."""
    module, _, name = dotted.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), name) or bool(
            importlib.import_module(dotted)
        )
    except ImportError:
        return False


def is_known_key(key: str) -> bool:
    """Whether a configuration may have this key; a mapping such as `search.callbacks` has any."""
    known = known_keys()
    mappings = [name for name in known if not any(other.startswith(f"{name}.") for other in known)]
    return key in known or any(key.startswith(f"{name}.") for name in mappings if is_mapping(name))


def is_mapping(key: str) -> bool:
    value: Any = Config()
    for part in key.split("."):
        value = getattr(value, part)
    return isinstance(value, dict)


@pytest.mark.parametrize("page", ALL_PAGES, ids=page_id)
def test_every_config_key_in_backticks_exists(page: Path) -> None:
    sections = "|".join(Config.model_fields)
    for code in inline_code(page):
        match = re.fullmatch(rf"((?:{sections})(?:\.\w+)+)(?:=.*)?", code)
        if match and not code.endswith((".py", ".md", ".yaml", ".journal")):
            assert is_known_key(match[1]), code


def test_api_page_names_every_name_of_package() -> None:
    named = " ".join(inline_code(ROOT / "docs" / "api.md"))
    missing = {name for name in cid_ray.__all__ if not re.search(rf"\b{name}\b", named)}
    assert missing == {"__version__"}


# ---- The file map of docs/architecture.md ----


def file_map() -> dict[str, str]:
    """Package (`config`, `data/importers`) -> its lines; "" has the files of cid_ray itself."""
    block = next(b for b in read_blocks(ROOT / "docs" / "architecture.md") if "cid_ray/" in b.text)
    own_lines = block.text.partition("cid_ray/\n")[2]
    found = {"": ""}
    package = ""
    for line in own_lines.splitlines():
        if not line.startswith("  "):
            break
        match = re.match(r"  ([a-z_]+(?:/[a-z_]+)*)/\s+(.*)", line)
        if match:
            package = match[1]
            found[package] = match[2]
        else:
            found[package] += f" {line.strip()}"
    return found


def named_modules(lines: str) -> set[str]:
    """Modules in a package's lines: `loop (read this first) | trainer, device. Never files` ."""
    lines = re.sub(r"\([^)]*\)", "", lines).partition(". ")[0].rstrip(".")
    return {name.strip() for name in re.split(r"[|,]", lines)}


def existing_modules(package: str) -> set[str]:
    files = (ROOT / "cid_ray" / package).glob("*.py")
    return {file.stem for file in files if file.stem != "__init__"}


def test_file_map_has_every_package() -> None:
    packages = {file.parent for file in (ROOT / "cid_ray").rglob("__init__.py")}
    names = {package.relative_to(ROOT / "cid_ray").as_posix() for package in packages}
    assert set(file_map()) - {""} == names - {"."}


def test_file_map_names_exactly_the_commands() -> None:
    named = set(re.findall(r"\b(\w+)\.py\b", file_map()[""]))
    assert named == existing_modules("") | {"__init__"}
    assert set(COMMANDS) == named - {"__init__", "__main__"}


@pytest.mark.parametrize("package", sorted(set(file_map()) - {""}))
def test_file_map_names_exactly_the_modules_of_package(package: str) -> None:
    assert named_modules(file_map()[package]) == existing_modules(package)


# ---- Times, size and language ----


def test_duration_of_demo_is_the_same_everywhere() -> None:
    duration = re.findall(r"about \w+ minutes", command_list())
    assert len(duration) == 1
    for name in ("README.md", "Makefile", "search_spaces/demo.yaml"):
        assert duration[0] in (ROOT / name).read_text(), name


def test_readme_has_at_most_1200_words() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= MAX_README_WORDS


def test_glossary_fits_on_a_page() -> None:
    lines = (ROOT / "docs" / "glossary.md").read_text().splitlines()
    assert len(lines) <= MAX_GLOSSARY_LINES


def test_median_sentence_is_short() -> None:
    lengths = [length for page in PAGES for length in sentence_lengths(page)]
    assert statistics.median(lengths) < MAX_MEDIAN_SENTENCE


def test_index_of_docs_links_to_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {target for target, _ in links(index)}
    assert {page.name for page in DOCS} - {"README.md"} <= linked
