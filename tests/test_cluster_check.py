"""The contract of `python -m cid_ray.cluster check`: what it prints and how it refuses.

The output in cluster/README.md is compared with what the command prints.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cid_ray import cluster
from cid_ray.config import InputError, load_config
from cid_ray.search.plan import plan_search

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "cluster" / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```(?:\n```text\n(.*?)```)?", README, re.S)
CHECKS = [(command, output) for command, output in BLOCKS if "cid_ray.cluster check" in command]
DEMO = ["--space", "search_spaces/demo.yaml"]


@pytest.fixture(autouse=True)
def in_project_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def check(*args: str) -> int:
    return cluster.main(["check", *DEMO, *args])


def changed(tmp_path: Path, name: str, change: Any) -> str:
    """A changed copy of one of our files, in a folder without a price list."""
    tree = next(iter(yaml.safe_load_all((ROOT / "cluster" / f"{name}.yaml").read_text())))
    change(tree)
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return str(path)


@pytest.mark.parametrize(("command", "output"), CHECKS, ids=["aws", "gcp"])
def test_readme_output_is_what_the_command_prints(
    command: str, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    python, module, *args = shlex.split(command)[1:]
    assert (python, module) == ("-m", "cid_ray.cluster") and cluster.main(args) == 0
    assert capsys.readouterr().out == output and "$" in output


@pytest.mark.process
def test_readme_names_every_file_and_its_commands_are_bash() -> None:
    named = set(re.findall(r"\]\(([\w.-]+)\)", README))
    assert named == {path.name for path in (ROOT / "cluster").iterdir()} - {"README.md"}
    for command, _ in BLOCKS:
        done = subprocess.run(
            ["bash", "-n"], input=command, text=True, capture_output=True, check=False
        )
        assert not done.returncode, f"{command}\n{done.stderr}"


def test_check_estimates_disk_as_a_search_does_and_memory_of_each_node(
    small_demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = ["--set", f"data.table={small_demo}", "--set", "search.cpus_per_trial=2"]
    out = ["--out", str(tmp_path / "run")]
    assert check("--cluster", "cluster/kuberay-raycluster.yaml", *table, *out) == 0
    shown = capsys.readouterr().out
    config = load_config(ROOT / "search_spaces/demo.yaml", table[1::2])
    assert str(replace(plan_search(config, tmp_path / "run").disk, cache=0)) in shown
    one = r"gpu with 1 training process\(es\): memory at least 450 MB of 30 GB, "
    assert re.search(one + r"memory of each GPU at least \S+ MB of unknown, disk for", shown)
    assert "warning" not in shown and not (tmp_path / "run").exists()


def test_check_says_where_memory_and_disk_do_not_suffice(
    small_demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def small_nodes(tree: dict[str, Any]) -> None:
        for group in (tree["spec"]["headGroupSpec"], *tree["spec"]["workerGroupSpecs"]):
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            limits |= {"memory": "2Gi", "ephemeral-storage": "10k"}
            limits.pop("nvidia.com/gpu", None)

    path = changed(tmp_path, "kuberay-raycluster", small_nodes)
    options = ["--set", f"data.table={small_demo}", "--set", "search.gpus_per_trial=0"]
    assert check("--cluster", path, *options) == 0
    shown = capsys.readouterr().out
    node = r"warning: (gpu|cpu) with \d+ training process\(es\) has too little "
    assert re.search(
        node + r"memory: [\d.]+ GB are needed, it has 2.1 GB; raise search\.cpus", shown
    )
    assert re.search(node + r"disk for decoded images: .* are needed, it has 10 kB; lower", shown)
    assert "(free space unknown)" in shown


def test_check_refuses_a_run_folder_whose_disk_is_too_small(
    small_disk: Path, small_demo: Path
) -> None:
    options = ["--set", f"data.table={small_demo}", "--out", str(small_disk / "run")]
    space = "search.space={loss.conf_thresh: {float: [0.5, 1]}}"
    large = ["--set", "model.encoder=resnet50", "--set", space]
    large += ["--set", "search.points_to_evaluate=[]"]
    with pytest.raises(InputError, match=r"checkpoints of \d+ trials need at least"):
        check("--cluster", "cluster/aws.yaml", *options, *large)


@pytest.mark.process
def test_check_without_a_table_needs_neither_torch_nor_a_running_ray() -> None:
    code = (
        "import sys; from cid_ray.cluster import main; main(sys.argv[1:]); import ray; "
        "assert 'torch' not in sys.modules and not ray.is_initialized()"
    )
    args = ["check", "--space", "search_spaces/camvid.yaml", "--cluster", "cluster/aws.yaml"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *args]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_check_gpu_cluster_gives_each_trial_a_gpu_or_the_requested_fraction(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert check("--cluster", "cluster/kuberay-rayjob.yaml") == 0
    out = capsys.readouterr().out
    assert "one trial requests 1 CPU + 1 GPU\n" in out
    assert "\n8 concurrent trials on 1 headgroup, 8 gpu: price unknown" in out
    assert "$0" not in out
    half = ["--set", "search.gpus_per_trial=0.5"]
    assert check("--cluster", "cluster/kuberay-rayjob.yaml", *half) == 0
    assert "16 concurrent trials on 1 headgroup, 8 gpu" in capsys.readouterr().out
    three = ["--set", "search.max_concurrent_trials=3"]
    assert check("--cluster", "cluster/aws.yaml", *three) == 0
    expected = "3 concurrent trials on 1 head, 3 gpu-spot: $2.01 per hour, $0.67 per trial"
    assert expected in capsys.readouterr().out


def test_check_workers_are_placed_together_with_ray_datas_cpus(
    capsys: pytest.CaptureFixture[str],
) -> None:
    changes = ["--set", "distributed.num_workers=3", "--set", "data.batch_size_u=6"]
    assert check("--cluster", "cluster/aws.yaml", *changes) == 0
    out = capsys.readouterr().out
    assert "one trial requests 3 x (8 CPU + 1 GPU), and 0.51 CPU for Ray Data's tasks" in out
    assert "2 concurrent trials on 1 head, 6 gpu-spot, 1 cpu-spot: $4.17 per hour" in out


@pytest.mark.process
def test_check_trial_that_never_fits_exits_with_code_2_and_one_line() -> None:
    args = ["check", *DEMO, "--cluster", "cluster/aws.yaml", "--set", "search.gpus_per_trial=2"]
    command = [sys.executable, "-m", "cid_ray.cluster", *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    rule = r"2 GPU.*never.*cluster/aws.yaml has 1 node.*8 gpu-spot \(8 CPU \+ 1 GPU\)"
    assert re.search(rule, done.stderr)


def test_check_own_machines_are_known_only_once_they_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert check("--cluster", "cluster/onprem.yaml") == 0
    out = capsys.readouterr().out
    assert "known only once they run" in out and "cid_ray.tune" in out and "$" not in out


def test_check_machine_without_price_is_unknown_and_never_free(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def unknown_machine(tree: dict[str, Any]) -> None:
        tree["available_node_types"]["gpu-spot"]["node_config"]["InstanceType"] = "g9.xlarge"

    assert check("--cluster", changed(tmp_path, "aws", unknown_machine)) == 0
    out = capsys.readouterr().out
    assert "g9.xlarge" in out and "price unknown" in out
    assert "8 concurrent trials on 1 head, 8 gpu: $9.89 per hour" in out


def test_check_kuberay_machines_are_known_by_node_selector(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def selected(tree: dict[str, Any]) -> None:
        for group in (tree["spec"]["headGroupSpec"], *tree["spec"]["workerGroupSpecs"]):
            gpu = group.get("groupName") == "gpu"
            group["template"]["spec"]["nodeSelector"] = {
                "node.kubernetes.io/instance-type": "g2-standard-8" if gpu else "e2-standard-8",
                "cloud.google.com/gke-spot": str(gpu).lower(),
            }

    assert check("--cluster", changed(tmp_path, "kuberay-raycluster", selected)) == 0
    expected = "8 concurrent trials on 1 headgroup, 8 gpu: $3.68 per hour"
    assert expected in capsys.readouterr().out


def test_check_with_own_price_list_uses_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prices = tmp_path / "mine.yaml"
    prices.write_text(
        "date: 2030-05\n"
        "machines: {g5.2xlarge: {cpus: 8, gpus: 1, spot: 0.25}, m5.xlarge: {cpus: 4, usd: 1}}"
    )
    assert check("--cluster", "cluster/aws.yaml", "--prices", str(prices)) == 0
    out = capsys.readouterr().out
    assert "prices of 2030-05" in out
    assert "8 concurrent trials on 1 head, 8 gpu-spot: $3.00 per hour" in out
    assert "without spot: 8 concurrent trials on 1 head, 8 gpu: price unknown" in out
    prices.write_text("date: 2030-05\nmachines: {m5.xlarge: {cpus: 4, usd: 0}}")
    rule = r"mine.yaml: `machines.m5.xlarge.usd` is 0: must be greater than 0"
    with pytest.raises(InputError, match=rule):
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
        (
            "kuberay-rayjob",
            lambda t: t["spec"].pop("rayClusterSpec"),
            "'rayClusterSpec' is missing",
        ),
    ],
)
def test_check_mistake_in_cluster_file_is_refused_in_one_line(
    name: str, change: Any, message: str, tmp_path: Path
) -> None:
    path = changed(tmp_path, name, change)
    with pytest.raises(InputError, match=message) as error:
        check("--cluster", path)
    assert path in str(error.value) and "\n" not in str(error.value)


def test_check_missing_files_and_options_are_refused() -> None:
    with pytest.raises(InputError, match=r"cluster file nowhere.yaml does not exist"):
        check("--cluster", "nowhere.yaml")
    misspelled = ["--space", "search_spaces/demmo.yaml", "--cluster", "cluster/aws.yaml"]
    with pytest.raises(InputError, match=r"did you mean"):
        cluster.main(["check", *misspelled])
    with pytest.raises(InputError, match=r"--cluster"):
        cluster.main(["check", *DEMO])
