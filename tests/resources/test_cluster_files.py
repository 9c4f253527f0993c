"""The files of cluster/ against the schemas of Ray, EC2, Compute Engine and KubeRay, and bash.

Planted typos must be caught too. Nothing is started but machines of an emulated EC2. What agrees
with a schema may still fail in the cloud.
"""

from __future__ import annotations

import copy
import functools
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import cid_ray
from cid_ray.resources.prices import Prices
from tests.helpers.services import require_service
from tests.helpers.tiny_run import real_data

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
RAY_UP = ("aws", "gcp", "onprem")
KUBERAY = ("kuberay-raycluster", "kuberay-rayjob")
ALL = sorted(
    path
    for path in CLUSTER.iterdir()
    if path.suffix in (".yaml", ".sbatch") or path.name == "Dockerfile"
)
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


def head_pod(spec: dict[str, Any]) -> dict[str, Any]:
    return next(pods(spec))


def head_container(spec: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = head_pod(spec)["containers"][0]
    return container


def base_documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / "kuberay-base.yaml").read_text()))


def at(schema: dict[str, Any], *names: str) -> dict[str, Any]:
    """The schema of a nested property."""
    for name in names:
        schema = schema["properties"][name]
    return schema


# ---- `ray up` files ----


def validate_as_ray_up(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(config)))


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_file_is_accepted_by_ray(name: str) -> None:
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
def test_ray_up_file_with_typo_is_refused_by_ray(name: str, change: Change) -> None:
    from jsonschema import ValidationError

    changed = tree(name)
    change(changed)
    with pytest.raises(ValidationError):
        validate_as_ray_up(changed)


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_provider_has_only_keys_of_rays_schema(name: str) -> None:
    """Ray's validation lets any key pass below `provider`."""
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    assert tree(name)["provider"].keys() <= schema["properties"]["provider"]["properties"].keys()


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_ray_up_workers_start_on_demand_spot_first_and_stop_when_idle(name: str) -> None:
    config = tree(name)
    kinds = config["available_node_types"]
    assert 0 < config["idle_timeout_minutes"] <= 15
    for kind, spec in kinds.items():
        assert spec.get("min_workers", 0) == 0
        if kind.endswith("-spot"):
            on_demand = kinds[kind.removesuffix("-spot")]
            assert spec["priority"] > on_demand["priority"]
            assert spec["resources"] == on_demand["resources"]
    assert kinds["head"]["resources"] == {"CPU": 0}
    assert {"gpu-spot", "gpu", "cpu-spot", "cpu"} < kinds.keys()


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_dashboard_listens_on_loopback_and_needs_a_token(name: str) -> None:
    config = tree(name)
    commands = config["head_start_ray_commands"]
    assert any("--dashboard-host=127.0.0.1" in command for command in commands)
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}


# ---- AWS ----


def validate_for_ec2(node: dict[str, Any]) -> str:
    """botocore's report on a node_config as RunInstances' arguments; empty when it is valid."""
    import botocore.session
    from botocore.validate import ParamValidator

    loader = botocore.session.get_session().get_service_model("ec2")
    shape = loader.operation_model("RunInstances").input_shape
    report = ParamValidator().validate({**node, "MinCount": 1, "MaxCount": 1}, shape)
    return report.generate_report()


def unknown_for_ec2(node: dict[str, Any]) -> list[str]:
    """Unknown members below the first level, which botocore ignores."""
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
def test_aws_node_config_has_only_keys_of_ec2s_model(kind: str) -> None:
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
def test_aws_node_config_with_typo_is_caught_by_ec2s_model(change: Change) -> None:
    node = copy.deepcopy(node_configs("aws")["gpu-spot"])
    change(node)
    assert validate_for_ec2(node) or unknown_for_ec2(node)


@pytest.mark.process
def test_aws_file_starts_every_node_type_on_an_emulated_ec2(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import boto3
    from moto import mock_aws
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes its new key pair there
    with mock_aws():
        ec2 = boto3.client("ec2", "us-west-2")
        vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        group = ec2.create_security_group(GroupName="cid-ray", Description="-", VpcId=vpc)[
            "GroupId"
        ]
        image = ec2.describe_images()["Images"][0]["ImageId"]
        text = (
            (CLUSTER / "aws.yaml")
            .read_text()
            .replace("SECURITY_GROUP", group)
            .replace("AMI_ID", image)
        )
        iam = boto3.client("iam", "us-west-2")
        for profile in ("cid-ray-head", "cid-ray-worker"):
            iam.create_instance_profile(InstanceProfileName=profile)
        config = bootstrap_aws(prepare_config(yaml.safe_load(text)))
        provider = AWSNodeProvider(config["provider"], config["cluster_name"])
        for kind, spec in config["available_node_types"].items():
            provider.create_node(spec["node_config"], {"ray-user-node-type": kind}, 1)
        found = [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
    started = {tags_of(instance)["ray-user-node-type"]: instance for instance in found}
    assert {kind: instance["InstanceType"] for kind, instance in started.items()} == {
        kind: node["InstanceType"] for kind, node in node_configs("aws").items()
    }
    spot = {kind for kind, i in started.items() if i.get("InstanceLifecycle") == "spot"}
    assert spot == {"gpu-spot", "cpu-spot"}
    groups = [{"GroupId": group, "GroupName": "cid-ray"}]
    assert all(instance["SecurityGroups"] == groups for instance in started.values())


def tags_of(instance: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in instance["Tags"]}


def test_price_list_machines_have_the_cpus_and_gpus_of_ec2(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import boto3
    from moto import mock_aws

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    machines = Prices.read(CLUSTER / "prices.yaml").machines
    listed = {name: machine for name, machine in machines.items() if "." in name}  # of AWS
    with mock_aws():
        ec2 = boto3.client("ec2", "us-west-2")
        found = ec2.describe_instance_types(InstanceTypes=list(listed))["InstanceTypes"]
    assert {kind["InstanceType"] for kind in found} == set(listed)
    for kind in found:
        gpus = sum(gpu["Count"] for gpu in kind.get("GpuInfo", {}).get("Gpus", []))
        machine = listed[kind["InstanceType"]]
        expected = (kind["VCpuInfo"]["DefaultVCpus"], gpus)
        assert (machine.cpus, machine.gpus) == expected, kind["InstanceType"]


# ---- Google ----


@functools.cache
def compute_engine() -> dict[str, Any]:
    import googleapiclient

    folder = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    return json.loads((folder / "compute.v1.json").read_text())["schemas"]


def unknown_for_google(value: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Keys, types and values of a node_config that Google's description of a VM does not have."""
    schema = compute_engine()[schema["$ref"]] if "$ref" in schema else schema
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
    expected = kinds[schema["type"]]
    as_text = schema.get("format") in ("int64", "uint64") and isinstance(value, int)
    if not isinstance(value, expected) and not as_text:
        yield f"{path} is no {schema['type']}"
    elif expected is dict and "properties" in schema:
        for key, item in value.items():
            if key in schema["properties"]:
                yield from unknown_for_google(item, schema["properties"][key], f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif expected is list:
        for item in value:
            yield from unknown_for_google(item, schema["items"], path)
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{path}={value}"


@pytest.mark.parametrize("kind", node_configs("gcp"))
def test_google_node_config_has_only_keys_of_compute_engine(kind: str) -> None:
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
def test_google_node_config_with_typo_is_caught_by_compute_engines_schema(change: Change) -> None:
    node = copy.deepcopy(node_configs("gcp")["gpu-spot"])
    change(node)
    assert list(unknown_for_google(node, {"$ref": "Instance"}))


def test_google_machine_with_gpu_is_never_moved_and_spot_types_are_spot() -> None:
    for kind, node in node_configs("gcp").items():
        scheduling = node.get("scheduling", {})
        if node["machineType"].startswith("g2-"):
            assert scheduling["onHostMaintenance"] == "TERMINATE"
        assert (scheduling.get("provisioningModel") == "SPOT") == kind.endswith("-spot")


# ---- KubeRay ----


@functools.cache
def crd(kind: str) -> dict[str, Any]:
    """The schema of a custom resource, made strict: Kubernetes drops unknown fields silently."""
    name = {"RayCluster": "rayclusters", "RayJob": "rayjobs"}[kind]
    definition = yaml.load(  # the safe loader in C: the file has 20,000 lines
        real_data("kuberay_crds", f"ray.io_{name}.yaml").read_text(), yaml.CSafeLoader
    )
    version = next(v for v in definition["spec"]["versions"] if v["name"] == "v1")
    schema = version["schema"]["openAPIV3Schema"]
    fields: dict[str, Any] = {"name": {}, "namespace": {}, "labels": {}, "annotations": {}}
    schema["properties"]["metadata"] = {"type": "object", "properties": fields}
    strict(schema)
    return schema


def strict(schema: Any) -> None:
    if isinstance(schema, dict):
        open_ended = schema.get("x-kubernetes-preserve-unknown-fields")
        has_properties = isinstance(schema.get("properties"), dict)
        if schema.get("type") == "object" and has_properties and not open_ended:
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
def test_kuberay_file_has_only_fields_of_the_crd(name: str) -> None:
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
        lambda s: head_container(s)["readinessProbe"].update(period=5),
        lambda s: head_container(s).update(resources={"limit": {}}),
        lambda s: head_pod(s)["securityContext"].update(runAsNonRoot="yes"),
        lambda s: s["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
    ],
)
def test_kuberay_file_with_typo_is_caught_by_the_strict_crd(name: str, change: Change) -> None:
    value = tree(name)
    change(value["spec"].get("rayClusterSpec", value["spec"]))
    assert mistakes(value, crd(value["kind"]))


def test_kuberay_base_file_agrees_with_kubernetes_schema_in_the_crd() -> None:
    """The CRD holds Kubernetes' pod template and volume claim, which the base file uses too."""
    parts = {part["kind"]: part for part in base_documents()}
    template = at(crd("RayCluster"), "spec", "headGroupSpec", "template")
    volume = at(template, "spec", "volumes")["items"]
    claim = at(volume, "ephemeral", "volumeClaimTemplate", "spec")
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
def test_kuberay_pods_are_not_root_and_have_limits_probes_and_the_shared_folder(name: str) -> None:
    spec = ray_cluster_spec(name)
    assert spec["enableInTreeAutoscaling"] and spec["autoscalerOptions"]["version"] == "v2"
    assert spec["authOptions"]["mode"] == "token"
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
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
    limits = [pod["containers"][0]["resources"]["limits"] for pod in pods(spec)]
    gpus = [limit.get("nvidia.com/gpu") for limit in limits]
    assert gpus == [None, "1", None]


@pytest.mark.process
def test_kuberay_lost_head_keeps_its_state_or_its_job_resumes() -> None:
    redis = tree("kuberay-raycluster")["spec"]["gcsFaultToleranceOptions"]
    service = next(part for part in base_documents() if part["kind"] == "Service")
    name, port = service["metadata"]["name"], service["spec"]["ports"][0]["port"]
    assert redis["redisAddress"] == f"{name}:{port}"
    secret = redis["redisPassword"]["valueFrom"]["secretKeyRef"]
    assert secret == {"name": "cid-redis", "key": "password"}
    job = tree("kuberay-rayjob")["spec"]
    assert job["backoffLimit"] > 0 and job["shutdownAfterJobFinishes"]
    assert "--resume" in job["entrypoint"]
    assert subprocess.run(["bash", "-n", "-c", job["entrypoint"]], check=False).returncode == 0


def test_kuberay_both_files_describe_the_same_cluster() -> None:
    cluster = ray_cluster_spec("kuberay-raycluster")
    cluster.pop("gcsFaultToleranceOptions")
    assert cluster == ray_cluster_spec("kuberay-rayjob")


# ---- Slurm, the image, all of them ----


@pytest.mark.process
def test_slurm_script_passes_shellcheck_which_sees_a_planted_mistake(tmp_path: Path) -> None:
    script = CLUSTER / "slurm.sbatch"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    checker = Path(sys.executable).parent / "shellcheck"
    require_service("shellcheck", checker.exists())
    assert subprocess.run([checker, script], check=False).returncode == 0
    broken = tmp_path / "broken.sbatch"
    broken.write_text(script.read_text().replace('rm -f "$token"', "rm -f $tokn"))
    done = subprocess.run([checker, broken], check=False, capture_output=True)
    assert done.returncode != 0


@pytest.mark.filterwarnings("ignore")
def test_slurm_script_options_are_options_of_ray() -> None:
    from ray.scripts.scripts import start

    known = {name for param in start.params for name in param.opts}
    text = (CLUSTER / "slurm.sbatch").read_text()
    command = text[text.index("role=(--head") : text.index("--log-color")]
    used = set(re.findall(r"--[\w-]+", command))
    assert used <= known
    roles = {"--head", "--address", "--node-ip-address", "--port", "--dashboard-host"}
    assert used == roles | {"--num-cpus", "--num-gpus", "--block", "--disable-usage-stats"}


def test_image_is_built_from_existing_files_and_is_not_root() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line and line[0] != "#"]
    words = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    copied = [word for word in words if word[0] != "-"]
    assert copied and all((ROOT / name).exists() for name in copied)
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users and users[-1] == "ray" and "root" not in users
    assert not any(line.startswith("ADD") for line in lines)


def test_versions_of_python_ray_and_this_package_are_those_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    dependencies = {each.name: each for each in map(Requirement, project["dependencies"])}
    text = "\n".join(path.read_text() for path in (*ALL, CLUSTER / "README.md"))
    (image,) = set(re.findall(r"cid_ray:(\d\S*?-ray[\d.]+-py\d+)", text))
    parts = re.fullmatch(r"(.+)-ray(.+)-py(\d+)", image)
    assert parts
    package, ray_version, python = parts.groups()
    python_version = f"{python[0]}.{python[1:]}"
    assert package == cid_ray.__version__
    assert set(re.findall(r"rayproject/ray:([\d.]+)-py", text)) == {ray_version}
    assert set(re.findall(r"rayproject/ray:[\d.]+-py(\d+)", text)) == {python}
    mentions = r'(?:rayVersion: "|train,tune\]==|\bray )(\d+\.\d+\.\d+)'
    assert set(re.findall(mentions, text)) == {ray_version}
    assert set(re.findall(r"Python (\d+\.\d+)", text)) == {python_version}
    assert Version(ray_version) in dependencies["ray"].specifier
    assert Version(python_version) in SpecifierSet(project["requires-python"])


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_files_hold_no_secret_and_open_no_public_port(path: Path) -> None:
    text = path.read_text()
    assert "0.0.0.0" not in text and "LoadBalancer" not in text and "NodePort" not in text
    secrets = r"AKIA\w{12}|BEGIN [A-Z ]*PRIVATE KEY|aws_secret|_KEY_ID|stringData"
    assert not re.search(secrets, text)
    assignments = r"(?i)\b(password|token|secret)\s*[:=]\s*[\"']?[a-z0-9+/]{12,}"
    assert not re.search(assignments, text)
