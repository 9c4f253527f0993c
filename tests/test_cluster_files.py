"""The files of cluster/ against whom they are for: Ray, EC2, Compute Engine, KubeRay's CRDs, bash; planted typos too.

Nothing is started here but machines of an emulated EC2. What agrees with a schema may still fail in the cloud.
"""

from __future__ import annotations

import copy
import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from cid_ray.run.prices import Prices
from tests.support import real_data

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = ROOT / "cluster"
RAY_UP = ("aws", "gcp", "onprem")
KUBERAY = ("kuberay-raycluster", "kuberay-rayjob")
ALL = sorted(path for path in CLUSTER.iterdir() if path.suffix in (".yaml", ".sbatch") or path.name == "Dockerfile")
Change = Callable[[dict[str, Any]], Any]


def tree(name: str) -> dict[str, Any]:
    return next(iter(yaml.safe_load_all((CLUSTER / f"{name}.yaml").read_text())))


def ray_cluster_spec(name: str) -> dict[str, Any]:
    spec = tree(name)["spec"]
    return spec.get("rayClusterSpec", spec)


def node_configs(name: str) -> dict[str, dict[str, Any]]:
    return {kind: spec["node_config"] for kind, spec in tree(name)["available_node_types"].items()}


def pods(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        yield group["template"]["spec"]


# ---- `ray up` files ----


def validate_as_ray_up(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(config)))


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_accepts_the_file(name: str) -> None:
    validate_as_ray_up(tree(name))


@pytest.mark.parametrize("name", RAY_UP)
@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update(idle_timeout_minute=5),
        lambda t: t["provider"].update(region=5),
        lambda t: t["docker"].update(imgae="a"),
        lambda t: t["auth"].update(ssh_usr="a"),
        lambda t: t.update(cluster_name=5),
    ],
)
def test_ray_refuses_a_typo_in_it(name: str, change: Change) -> None:
    from jsonschema import ValidationError

    changed = tree(name)
    change(changed)
    with pytest.raises(ValidationError):
        validate_as_ray_up(changed)


@pytest.mark.parametrize("name", RAY_UP)
def test_the_provider_has_only_keys_that_ray_names(name: str) -> None:
    """Ray's validation lets any key pass below `provider`."""
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    assert tree(name)["provider"].keys() <= schema["properties"]["provider"]["properties"].keys()


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_workers_start_when_asked_for_spot_first_and_go_when_idle(name: str) -> None:
    config = tree(name)
    kinds = config["available_node_types"]
    assert 0 < config["idle_timeout_minutes"] <= 15
    for kind, spec in kinds.items():
        assert spec.get("min_workers", 0) == 0
        if kind.endswith("-spot"):
            firm = kinds[kind.removesuffix("-spot")]
            assert spec["priority"] > firm["priority"] and spec["resources"] == firm["resources"]
    assert kinds["head"]["resources"] == {"CPU": 0}
    assert {"gpu-spot", "gpu", "cpu-spot", "cpu"} < kinds.keys()


@pytest.mark.parametrize("name", RAY_UP)
def test_the_dashboard_is_on_loopback_and_a_token_is_asked_for(name: str) -> None:
    config = tree(name)
    assert any("--dashboard-host=127.0.0.1" in command for command in config["head_start_ray_commands"])
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}


# ---- AWS ----


def validate_for_ec2(node: dict[str, Any]) -> str:
    """botocore's report on a node_config as RunInstances' arguments; empty when there is nothing to say."""
    import botocore.session
    from botocore.validate import ParamValidator

    loader = botocore.session.get_session().get_service_model("ec2")
    shape = loader.operation_model("RunInstances").input_shape
    report = ParamValidator().validate({**node, "MinCount": 1, "MaxCount": 1}, shape)
    return report.generate_report()


def unknown_for_ec2(node: dict[str, Any]) -> list[str]:
    """botocore passes over unknown members below the first level: found here."""
    import botocore.session

    model = botocore.session.get_session().get_service_model("ec2")

    def walk(value: Any, shape: Any, path: str) -> Iterator[str]:
        if shape.type_name == "structure":
            for key, item in value.items():
                if key not in shape.members:
                    yield f"{path}.{key}"
                else:
                    yield from walk(item, shape.members[key], f"{path}.{key}")
        elif shape.type_name == "list":
            for item in value:
                yield from walk(item, shape.member, path)
        elif getattr(shape, "enum", None) and value not in shape.enum:
            yield f"{path}={value}"

    return list(walk(node, model.operation_model("RunInstances").input_shape, ""))


@pytest.mark.parametrize("kind", node_configs("aws"))
def test_ec2_knows_every_key_of_a_node(kind: str) -> None:
    node = node_configs("aws")[kind]
    assert not validate_for_ec2(node) and not unknown_for_ec2(node)


@pytest.mark.parametrize(
    "change",
    [
        lambda n: n.update(InstanceTyp="m5.large"),
        lambda n: n.update(SecurityGroupIds="sg-1"),
        lambda n: n["BlockDeviceMappings"][0]["Ebs"].update(VolumeSize="150 GB"),
        lambda n: n["BlockDeviceMappings"][0]["Ebs"].update(VolumSize=150),
        lambda n: n["InstanceMarketOptions"].update(MarketType="spott"),
        lambda n: n["MetadataOptions"].update(HttpTokens="yes"),
        lambda n: n.update(InstanceType="g5.3xlarge"),
    ],
)
def test_ec2s_own_model_catches_a_typo_in_a_node(change: Change) -> None:
    node = copy.deepcopy(node_configs("aws")["gpu-spot"])
    change(node)
    assert validate_for_ec2(node) or unknown_for_ec2(node)


def test_ray_bootstraps_the_file_and_starts_every_node_type_on_an_emulated_ec2(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import boto3
    from moto import mock_aws
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes the key pair that it makes below it
    with mock_aws():
        ec2 = boto3.client("ec2", "us-west-2")
        vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        group = ec2.create_security_group(GroupName="cid-ray", Description="-", VpcId=vpc)["GroupId"]
        image = ec2.describe_images()["Images"][0]["ImageId"]
        text = (CLUSTER / "aws.yaml").read_text().replace("SECURITY_GROUP", group).replace("AMI_ID", image)
        iam = boto3.client("iam", "us-west-2")
        for profile in ("cid-ray-head", "cid-ray-worker"):
            iam.create_instance_profile(InstanceProfileName=profile)
        config = bootstrap_aws(prepare_config(yaml.safe_load(text)))
        provider = AWSNodeProvider(config["provider"], config["cluster_name"])
        for kind, spec in config["available_node_types"].items():
            provider.create_node(spec["node_config"], {"ray-user-node-type": kind}, 1)
        found = [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
    started = {next(t["Value"] for t in i["Tags"] if t["Key"] == "ray-user-node-type"): i for i in found}
    assert {kind: i["InstanceType"] for kind, i in started.items()} == {
        kind: node["InstanceType"] for kind, node in node_configs("aws").items()
    }
    assert {kind for kind, i in started.items() if i.get("InstanceLifecycle") == "spot"} == {"gpu-spot", "cpu-spot"}
    assert all(i["SecurityGroups"] == [{"GroupId": group, "GroupName": "cid-ray"}] for i in started.values())


def test_the_price_lists_machines_have_the_cpus_and_gpus_that_ec2_says(monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from moto import mock_aws

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    listed = {k: v for k, v in Prices.read(CLUSTER / "prices.yaml").machines.items() if "." in k}
    with mock_aws():
        found = boto3.client("ec2", "us-west-2").describe_instance_types(InstanceTypes=list(listed))["InstanceTypes"]
    assert {kind["InstanceType"] for kind in found} == set(listed)
    for kind in found:
        gpus = sum(gpu["Count"] for gpu in kind.get("GpuInfo", {}).get("Gpus", []))
        machine = listed[kind["InstanceType"]]
        assert (machine.cpus, machine.gpus) == (kind["VCpuInfo"]["DefaultVCpus"], gpus), kind["InstanceType"]


# ---- Google ----


@functools.cache
def compute_engine() -> dict[str, Any]:
    import googleapiclient

    folder = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    return json.loads((folder / "compute.v1.json").read_text())["schemas"]


def unknown_for_google(value: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Keys, types and enumerated values of a node_config that Google's own description of a VM does not have."""
    schema = compute_engine()[schema["$ref"]] if "$ref" in schema else schema
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
    wanted = kinds[schema["type"]]
    as_text = schema.get("format") in ("int64", "uint64") and isinstance(value, int)
    if not isinstance(value, wanted) and not as_text:
        yield f"{path} is no {schema['type']}"
    elif wanted is dict and "properties" in schema:
        for key, item in value.items():
            if key in schema["properties"]:
                yield from unknown_for_google(item, schema["properties"][key], f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif wanted is list:
        for item in value:
            yield from unknown_for_google(item, schema["items"], path)
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{path}={value}"


@pytest.mark.parametrize("kind", node_configs("gcp"))
def test_compute_engine_knows_every_key_of_a_node(kind: str) -> None:
    assert not list(unknown_for_google(node_configs("gcp")[kind], {"$ref": "Instance"}))


@pytest.mark.parametrize(
    "change",
    [
        lambda n: n.update(machinType="a"),
        lambda n: n["disks"][0]["initializeParams"].update(diskSize=50),
        lambda n: n["scheduling"].update(provisioningModel="CHEAP"),
        lambda n: n.update(scheduling=[{"preemptible": True}]),
        lambda n: n["serviceAccounts"][0].update(scopes="all"),
    ],
)
def test_googles_own_description_catches_a_typo_in_a_node(change: Change) -> None:
    node = copy.deepcopy(node_configs("gcp")["gpu-spot"])
    change(node)
    assert list(unknown_for_google(node, {"$ref": "Instance"}))


def test_a_google_machine_with_a_gpu_is_never_moved_and_spot_is_what_it_says() -> None:
    for kind, node in node_configs("gcp").items():
        scheduling = node.get("scheduling", {})
        if node["machineType"].startswith("g2-"):
            assert scheduling["onHostMaintenance"] == "TERMINATE"
        assert (scheduling.get("provisioningModel") == "SPOT") == kind.endswith("-spot")


# ---- KubeRay ----


@functools.cache
def crd(kind: str) -> dict[str, Any]:
    """The schema of a custom resource, made strict: Kubernetes drops unknown fields without a word."""
    name = {"RayCluster": "rayclusters", "RayJob": "rayjobs"}[kind]
    definition = yaml.safe_load(real_data("kuberay_crds", f"ray.io_{name}.yaml").read_text())
    schema = next(v for v in definition["spec"]["versions"] if v["name"] == "v1")["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {
        "type": "object", "properties": {"name": {}, "namespace": {}, "labels": {}, "annotations": {}},
    }  # fmt: skip
    strict(schema)
    return schema


def strict(schema: Any) -> None:
    if isinstance(schema, dict):
        open_ended = schema.get("x-kubernetes-preserve-unknown-fields")
        if schema.get("type") == "object" and isinstance(schema.get("properties"), dict) and not open_ended:
            schema.setdefault("additionalProperties", False)
        if schema.get("x-kubernetes-int-or-string"):
            schema.pop("type", None)
            schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
        for part in schema.values():
            strict(part)
    elif isinstance(schema, list):
        for part in schema:
            strict(part)


def mistakes(value: Any, schema: dict[str, Any]) -> list[str]:
    import jsonschema

    return [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(value)]


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberays_crd_knows_every_field(name: str) -> None:
    value = tree(name)
    assert not mistakes(value, crd(value["kind"]))


@pytest.mark.parametrize("name", KUBERAY)
@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.update(rayVersoin="2.60.0"),
        lambda s: s["autoscalerOptions"].update(version="v3"),
        lambda s: s["authOptions"].update(mode="yes"),
        lambda s: s["workerGroupSpecs"][0].update(maxReplica=3),
        lambda s: s["workerGroupSpecs"][0].pop("maxReplicas"),
        lambda s: s["headGroupSpec"]["template"]["spec"]["containers"][0]["readinessProbe"].update(period=5),
        lambda s: s["headGroupSpec"]["template"]["spec"]["containers"][0].update(resources={"limit": {}}),
        lambda s: s["headGroupSpec"]["template"]["spec"]["securityContext"].update(runAsNonRoot="yes"),
        lambda s: s["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
    ],
)
def test_the_strict_crd_catches_a_typo(name: str, change: Change) -> None:
    value = tree(name)
    change(value["spec"].get("rayClusterSpec", value["spec"]))
    assert mistakes(value, crd(value["kind"]))


def test_redis_and_the_volume_fit_kuberays_copy_of_kubernetes_own_schema() -> None:
    """The CRD carries Kubernetes' pod template and volume claim: they check the base file's StatefulSet and claim."""
    parts = {part["kind"]: part for part in yaml.safe_load_all((CLUSTER / "kuberay-base.yaml").read_text())}
    template = crd("RayCluster")["properties"]["spec"]["properties"]["headGroupSpec"]["properties"]["template"]
    claim = template["properties"]["spec"]["properties"]["volumes"]["items"]["properties"]["ephemeral"]
    claim = claim["properties"]["volumeClaimTemplate"]["properties"]["spec"]
    redis = copy.deepcopy(parts["StatefulSet"]["spec"])
    assert redis["template"].pop("metadata") == {"labels": redis["selector"]["matchLabels"]}
    assert not mistakes(redis["template"], template)
    redis["template"]["spec"]["containers"][0]["comand"] = []
    assert mistakes(redis["template"], template)
    assert not mistakes(parts["PersistentVolumeClaim"]["spec"], claim)
    assert not mistakes(redis["volumeClaimTemplates"][0]["spec"], claim)
    assert parts["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]
    assert parts["Service"]["spec"]["selector"] == redis["selector"]["matchLabels"]
    assert parts["NetworkPolicy"]["spec"]["policyTypes"] == ["Ingress"]
    assert all(part["metadata"].get("namespace", "cid") == "cid" for part in parts.values())


@pytest.mark.parametrize("name", KUBERAY)
def test_pods_are_not_root_have_limits_probes_and_the_shared_folder(name: str) -> None:
    spec = ray_cluster_spec(name)
    assert spec["enableInTreeAutoscaling"] and spec["autoscalerOptions"]["version"] == "v2"
    assert spec["authOptions"]["mode"] == "token" and spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert all(group["minReplicas"] == 0 for group in spec["workerGroupSpecs"])
    for pod in pods(spec):
        context, (container,) = pod["securityContext"], pod["containers"]
        assert context["runAsNonRoot"] and context["runAsUser"] == 1000
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {"readinessProbe", "livenessProbe"} <= container.keys()
        assert container["volumeMounts"] == [{"name": "shared", "mountPath": "/shared"}]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    gpus = [pod["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") for pod in pods(spec)]
    assert gpus == [None, "1", None]


def test_a_lost_head_comes_back_with_its_state_or_its_job_starts_again() -> None:
    redis = tree("kuberay-raycluster")["spec"]["gcsFaultToleranceOptions"]
    services = [p for p in yaml.safe_load_all((CLUSTER / "kuberay-base.yaml").read_text()) if p["kind"] == "Service"]
    assert redis["redisAddress"] == f"{services[0]['metadata']['name']}:{services[0]['spec']['ports'][0]['port']}"
    assert redis["redisPassword"]["valueFrom"]["secretKeyRef"] == {"name": "cid-redis", "key": "password"}
    job = tree("kuberay-rayjob")["spec"]
    assert job["backoffLimit"] > 0 and job["shutdownAfterJobFinishes"] and "--resume" in job["entrypoint"]
    assert subprocess.run(["bash", "-n", "-c", job["entrypoint"]], check=False).returncode == 0


def test_both_kuberay_files_describe_the_same_cluster() -> None:
    lasting, once = ray_cluster_spec("kuberay-raycluster"), ray_cluster_spec("kuberay-rayjob")
    lasting.pop("gcsFaultToleranceOptions")
    assert lasting == once


# ---- Slurm, the image, all of them ----


def test_the_slurm_script_is_sound_and_a_planted_mistake_is_seen(tmp_path: Path) -> None:
    script = CLUSTER / "slurm.sbatch"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    checker = Path(sys.executable).parent / "shellcheck"
    if not checker.exists():
        pytest.skip("shellcheck is absent: bash -n alone was run")
    assert subprocess.run([checker, script], check=False).returncode == 0
    (tmp_path / "broken.sbatch").write_text(script.read_text().replace('rm -f "$token"', "rm -f $tokn"))
    assert subprocess.run([checker, tmp_path / "broken.sbatch"], check=False, capture_output=True).returncode != 0


@pytest.mark.filterwarnings("ignore")
def test_the_slurm_scripts_options_are_options_of_ray() -> None:
    import click
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import symmetric_run

    known = {name for command in (start, symmetric_run) for p in command.params for name in p.opts}
    text = (CLUSTER / "slurm.sbatch").read_text()
    used = re.findall(r"--[\w-]+", text[text.index("ray symmetric-run") : text.index('-- "${search')])
    assert set(used) <= known and isinstance(symmetric_run, click.Command)
    assert {"--address", "--min-nodes", "--num-cpus", "--num-gpus", "--dashboard-host"} == set(used)


def test_the_image_is_built_from_what_is_here_and_is_not_root() -> None:
    lines = [line for line in (CLUSTER / "Dockerfile").read_text().splitlines() if line and line[0] != "#"]
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1] if word[0] != "-"]
    assert copied and all((ROOT / name).exists() for name in copied)
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users and users[-1] == "ray" and "root" not in users
    assert not any(line.startswith("ADD") for line in lines)


def test_python_ray_and_this_package_have_one_version_everywhere_and_it_is_pyprojects() -> None:
    import ray

    project = (ROOT / "pyproject.toml").read_text()
    wanted = SpecifierSet(re.search(r'"ray\[[\w,]+\](>=[\d.]+)"', project)[1])  # type: ignore[index]
    pythons = SpecifierSet(re.search(r'requires-python = "(.+)"', project)[1])  # type: ignore[index]
    package = re.search(r'^version = "(.+)"', project, re.M)[1]  # type: ignore[index]
    text = "\n".join(path.read_text() for path in (*ALL, CLUSTER / "README.md"))
    images = set(re.findall(r"cid_ray:(\d\S*?-ray[\d.]+-py\d+)", text))
    (image,) = images
    version, used, python = re.fullmatch(r"(.+)-ray(.+)-py(\d+)", image).groups()  # type: ignore[union-attr]
    assert version == package
    assert set(re.findall(r"rayproject/ray:([\d.]+)-py", text)) == {used}
    assert set(re.findall(r"rayproject/ray:[\d.]+-py(\d+)", text)) == {python}
    assert set(re.findall(r'(?:rayVersion: "|train,tune\]==|\bray )(\d+\.\d+\.\d+)', text)) == {used}
    assert set(re.findall(r"Python (\d+\.\d+)", text)) == {f"{python[0]}.{python[1:]}"}
    assert Version(used) in wanted and Version(f"{python[0]}.{python[1:]}") in pythons
    assert Version(used) <= Version(ray.__version__), "the files are validated by an older Ray than the one they start"


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_no_file_holds_a_secret_or_opens_a_port_to_the_world(path: Path) -> None:
    text = path.read_text()
    assert "0.0.0.0" not in text and "LoadBalancer" not in text and "NodePort" not in text
    assert not re.search(r"AKIA\w{12}|BEGIN [A-Z ]*PRIVATE KEY|aws_secret|_KEY_ID|stringData", text)
    assert not re.search(r"(?i)\b(password|token|secret)\s*[:=]\s*[\"']?[a-z0-9+/]{12,}", text)
