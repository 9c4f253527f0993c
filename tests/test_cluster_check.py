"""Contract of `python -m cid_ray.cluster check`: what it prints and how it refuses; README's figures are its own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cid_ray import cluster
from cid_ray.config import InputError

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "cluster" / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```(?:\n```text\n(.*?)```)?", README, re.S)
CHECKS = [(command, told) for command, told in BLOCKS if "cid_ray.cluster check" in command]
DEMO = ["--space", "search_spaces/demo.yaml"]


@pytest.fixture(autouse=True)
def in_the_projects_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def check(*args: str) -> int:
    return cluster.main(["check", *DEMO, *args])


def changed(tmp_path: Path, name: str, change: Any) -> str:
    """A copy of one of our files with a change, beside no price list."""
    tree = next(iter(yaml.safe_load_all((ROOT / "cluster" / f"{name}.yaml").read_text())))
    change(tree)
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return str(path)


@pytest.mark.parametrize(("command", "told"), CHECKS, ids=["aws", "gcp"])
def test_the_runbooks_figures_are_what_the_command_prints(
    command: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    python, module, *args = shlex.split(command)[1:]
    assert (python, module) == ("-m", "cid_ray.cluster") and cluster.main(args) == 0
    assert capsys.readouterr().out == told and "$" in told


def test_the_runbook_names_every_file_and_its_commands_are_bash() -> None:
    named = set(re.findall(r"\]\(([\w.-]+)\)", README))
    assert named == {path.name for path in (ROOT / "cluster").iterdir()} - {"README.md"}
    for command, _ in BLOCKS:
        done = subprocess.run(["bash", "-n"], input=command, text=True, capture_output=True, check=False)
        assert not done.returncode, f"{command}\n{done.stderr}"


def test_it_needs_neither_torch_nor_a_running_ray() -> None:
    code = (
        "import sys; from cid_ray.cluster import main; main(sys.argv[1:]); import ray; "
        "assert 'torch' not in sys.modules and not ray.is_initialized()"
    )
    args = ["check", *DEMO, "--cluster", "cluster/aws.yaml"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, *args], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_a_trial_takes_a_gpu_where_there_are_some_and_several_share_one_when_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert check("--cluster", "cluster/kuberay-rayjob.yaml") == 0
    out = capsys.readouterr().out
    assert "one trial asks for 1 CPU + 1 GPU\n8 trials at once, on 1 headgroup, 8 gpu: price unknown" in out
    assert "$0" not in out
    assert check("--cluster", "cluster/kuberay-rayjob.yaml", "--set", "search.gpus_per_trial=0.5") == 0
    assert "16 trials at once, on 1 headgroup, 8 gpu" in capsys.readouterr().out
    assert check("--cluster", "cluster/aws.yaml", "--set", "search.concurrency=3") == 0
    assert "3 trials at once, on 1 head, 3 gpu-spot: $2.01 per hour, $0.67 per trial" in capsys.readouterr().out


def test_workers_and_ray_datas_cpus_are_placed_together(capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["--set", "scale.workers=3", "--set", "data.batch_size_u=6"]
    assert check("--cluster", "cluster/aws.yaml", *changes) == 0
    out = capsys.readouterr().out
    assert "one trial asks for 3 x (8 CPU + 1 GPU), and 0.51 CPU for Ray Data's tasks" in out
    assert "2 trials at once, on 1 head, 6 gpu-spot, 1 cpu-spot: $4.17 per hour" in out


def test_what_can_never_be_placed_ends_with_code_2_and_one_line() -> None:
    args = ["check", *DEMO, "--cluster", "cluster/aws.yaml", "--set", "search.gpus_per_trial=2"]
    command = [sys.executable, "-m", "cid_ray.cluster", *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert re.search(r"2 GPU.*never.*cluster/aws.yaml has 1 node.*8 gpu-spot \(8 CPU \+ 1 GPU\)", done.stderr)


def test_machines_of_ones_own_are_known_only_once_they_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("--cluster", "cluster/onprem.yaml") == 0
    out = capsys.readouterr().out
    assert "known only once they run" in out and "cid_ray.tune" in out and "$" not in out


def test_a_machine_without_a_price_is_unknown_and_never_free(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def strange(tree: dict[str, Any]) -> None:
        tree["available_node_types"]["gpu-spot"]["node_config"]["InstanceType"] = "g9.xlarge"

    assert check("--cluster", changed(tmp_path, "aws", strange)) == 0
    out = capsys.readouterr().out
    assert "g9.xlarge" in out and "price unknown" in out and "8 trials at once, on 1 head, 8 gpu: $9.89 per hour" in out

    def selected(tree: dict[str, Any]) -> None:
        for group in (tree["spec"]["headGroupSpec"], *tree["spec"]["workerGroupSpecs"]):
            gpu = group.get("groupName") == "gpu"
            selector = {"node.kubernetes.io/instance-type": "g2-standard-8" if gpu else "e2-standard-8"}
            group["template"]["spec"]["nodeSelector"] = {**selector, "cloud.google.com/gke-spot": str(gpu).lower()}

    assert check("--cluster", changed(tmp_path, "kuberay-raycluster", selected)) == 0
    assert "8 trials at once, on 1 headgroup, 8 gpu: $3.68 per hour" in capsys.readouterr().out


def test_a_price_list_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prices = tmp_path / "mine.yaml"
    prices.write_text(
        "date: 2030-05\nmachines: {g5.2xlarge: {cpus: 8, gpus: 1, spot: 0.25}, m5.xlarge: {cpus: 4, usd: 1}}"
    )
    assert check("--cluster", "cluster/aws.yaml", "--prices", str(prices)) == 0
    out = capsys.readouterr().out
    assert "prices of 2030-05" in out and "8 trials at once, on 1 head, 8 gpu-spot: $3.00 per hour" in out
    assert "without spot: 8 at once, on 1 head, 8 gpu: price unknown" in out
    prices.write_text("date: 2030-05\nmachines: {m5.xlarge: {cpus: 4, usd: 0}}")
    with pytest.raises(InputError, match=r"mine.yaml: `machines.m5.xlarge.usd` is 0: must be greater than 0"):
        check("--cluster", "cluster/aws.yaml", "--prices", str(prices))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("aws", lambda t: t.update(max_worker=3), "`ray up` refuses it.*max_worker"),
        (
            "gcp",
            lambda t: t["available_node_types"]["gpu"].update(cpus=3),
            "refuses it: available_node_types.gpu.*cpus",
        ),
        ("aws", lambda t: t.update(head_node_type="hed"), "head_node_type. must be one of"),
        ("onprem", lambda t: t["provider"].pop("head_ip"), "refuses it"),
        ("kuberay-rayjob", lambda t: t["spec"].pop("rayClusterSpec"), "'rayClusterSpec' is missing"),
    ],
)
def test_a_mistake_in_a_cluster_file_is_refused_in_one_line(
    name: str, change: Any, message: str, tmp_path: Path
) -> None:
    path = changed(tmp_path, name, change)
    with pytest.raises(InputError, match=message) as error:
        check("--cluster", path)
    assert path in str(error.value) and "\n" not in str(error.value)


def test_files_that_do_not_exist_and_options_that_are_missing() -> None:
    with pytest.raises(InputError, match=r"cluster file nowhere.yaml does not exist"):
        check("--cluster", "nowhere.yaml")
    with pytest.raises(InputError, match=r"did you mean"):
        cluster.main(["check", "--space", "search_spaces/demmo.yaml", "--cluster", "cluster/aws.yaml"])
    with pytest.raises(InputError, match=r"--cluster"):
        cluster.main(["check", *DEMO])
