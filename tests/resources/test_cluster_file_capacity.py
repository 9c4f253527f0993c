"""What a cluster file allows, against what Ray's own autoscaler reads from the same file.

Then mistakes in such files, and KubeRay's limits in a head pod.
"""

from __future__ import annotations

import http.server
import json
import math
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cid_ray.config import InputError
from cid_ray.resources.capacity import ClusterCapacity, Resources
from cid_ray.resources.cluster_files import (
    kuberay_capacity,
    ray_up_capacity,
    read_cluster_document,
    read_cluster_file,
)
from cid_ray.storage.packaged import packaged_file
from tests.helpers.services import as_root, require_service, succeeds

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
MACHINES = {"m5.xlarge": Resources(4, 0), "g5.2xlarge": Resources(8, 1)}
# Kubernetes puts a pod's token and the API's certificate there. The process gets a /run of its own.
POD_FILES = "/var/run/secrets/kubernetes.io/serviceaccount"
AS_A_POD = f'mount -t tmpfs tmpfs /run && mkdir -p {POD_FILES} && cp "$1"/* {POD_FILES} && shift'
TOKEN = "the token of the pod"
IN_A_POD = """
import ray
from cid_ray.resources.ray_session import autoscaler_capacity_on_head
print(autoscaler_capacity_on_head("none"))
"""


def limits(capacity: ClusterCapacity) -> dict[str, tuple[float, float, int]]:
    """Node type -> CPUs, GPUs, nodes at most."""
    return {
        each.name: (each.resources.cpus, each.resources.gpus, each.max_nodes)
        for each in capacity.node_types
    }


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_ray_up_file_capacity_equals_that_of_autoscaler_v2(name: str) -> None:
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    tree = read_cluster_document(CLUSTER / f"{name}.yaml")
    theirs = AutoscalingConfig(tree, skip_content_hash=True)
    assert limits(ray_up_capacity(tree, {})) == {
        name: (spec.resources["CPU"], spec.resources.get("GPU", 0), spec.max_worker_nodes)
        for name, spec in theirs.get_node_type_configs().items()
    }
    assert ray_up_capacity(tree, {}).max_nodes == theirs.get_max_num_nodes()


@pytest.mark.parametrize("name", ["kuberay-raycluster", "kuberay-rayjob"])
def test_kuberay_file_capacity_equals_that_of_its_autoscaler(name: str) -> None:
    from ray.autoscaler._private.kuberay import autoscaling_config as theirs

    tree = read_cluster_document(CLUSTER / f"{name}.yaml")
    spec = tree["spec"].get("rayClusterSpec", tree["spec"])
    spec["workerGroupSpecs"][0]["rayStartParams"] = {"num-cpus": "5"}
    container = spec["workerGroupSpecs"][1]["template"]["spec"]["containers"][0]
    container["resources"] = {"requests": {"cpu": "1500m"}}
    spec["workerGroupSpecs"][1]["numOfHosts"] = 2
    types = theirs._generate_available_node_types_from_ray_cr_spec(spec)
    expected = {
        name: (each["resources"]["CPU"], each["resources"].get("GPU") or 0, each["max_workers"])
        for name, each in types.items()
    }
    expected["headgroup"] = (*expected["headgroup"][:2], 1)
    assert limits(kuberay_capacity(spec)) == expected
    assert expected["gpu"] == (5, 1, 8) and expected["cpu"] == (2, 0, 8)


def test_kuberay_cluster_without_autoscaler_keeps_its_size() -> None:
    spec = read_cluster_document(CLUSTER / "kuberay-raycluster.yaml")["spec"]
    spec["enableInTreeAutoscaling"] = False
    spec["workerGroupSpecs"][0]["replicas"] = 3
    types = kuberay_capacity(spec).node_types
    assert [(each.min_nodes, each.max_nodes) for each in types] == [(1, 1), (3, 3), (0, 0)]


def test_ray_up_file_without_resources_takes_them_from_the_price_list() -> None:
    node = {"InstanceType": "g5.2xlarge", "InstanceMarketOptions": {"MarketType": "spot"}}
    google = {
        "machineType": "g2-standard-8",
        "scheduling": [{"preemptible": True}, {"onHostMaintenance": "TERMINATE"}],
    }
    types = {
        "head": {"resources": {}, "node_config": {"InstanceType": "m5.xlarge"}},
        "spot": {"resources": {}, "node_config": node, "max_workers": 3},
        "google": {"resources": {"CPU": 8, "GPU": 1}, "node_config": google},
    }
    tree = {"max_workers": 5, "head_node_type": "head", "available_node_types": types}
    capacity = ray_up_capacity(tree, MACHINES)
    assert limits(capacity) == {"head": (4, 0, 1), "spot": (8, 1, 3), "google": (8, 1, 5)}
    assert [each.spot for each in capacity.node_types] == [False, True, True]
    rule = r"node type head: the price list does not know m5.xlarge.*resources"
    with pytest.raises(InputError, match=rule):
        ray_up_capacity(tree, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1", "must be a `ray up` file"),
        ("provider: {type: aws}\navailable_node_types: {a: {}}", "'head_node_type' is missing"),
        (
            "provider: {type: aws}\nhead_node_type: a\navailable_node_types: [a]",
            "cannot be read as a cluster file",
        ),
        ("kind: RayCluster\nspec: {headGroupSpec: {}}", "'template' is missing"),
        (
            "kind: RayCluster\n"
            "spec: {headGroupSpec: {template: {spec: {containers: [{name: a}]}}}}",
            "no CPU limit",
        ),
        (
            "kind: RayCluster\n"
            "spec: {headGroupSpec: {resources: {CPU: 2q}, template: {spec: {containers: [{}]}}}}",
            "2q",
        ),
        ("a: [", "not valid YAML"),
    ],
)
def test_file_that_is_no_cluster_is_refused_in_one_line(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_cluster_file(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def kubernetes(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a head pod, with an API server that knows one RayCluster, over TLS."""
    require_service("openssl", shutil.which("openssl"))
    key, certificate = tmp_path / "key.pem", tmp_path / "pod" / "ca.crt"
    certificate.parent.mkdir()
    (tmp_path / "pod" / "token").write_text(TOKEN)
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    answer = json.dumps(yaml.safe_load((CLUSTER / "kuberay-raycluster.yaml").read_text())).encode()

    class Api(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/apis/ray.io/v1/namespaces/cid/rayclusters/cid"
            known &= self.headers["Authorization"] == f"Bearer {TOKEN}"
            self.send_response(200 if known else 403)
            self.end_headers()
            self.wfile.write(answer if known else b"{}")

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT_HTTPS": str(server.server_address[1]),
        "RAY_CLUSTER_NAMESPACE": "cid",
    }
    server.shutdown()


@pytest.mark.process
@pytest.mark.parametrize(
    ("cluster", "expected"),
    [("cid", "may still start 8 gpu"), ("other", "could not be read: 403")],
)
def test_head_pod_reads_its_limits_from_the_kubernetes_api(
    kubernetes: dict[str, str], tmp_path: Path, cluster: str, expected: str
) -> None:
    namespace = as_root("unshare", "--mount", "--propagation", "private", "sh", "-c")
    require_service("mount namespace", succeeds(*namespace, "mount -t tmpfs tmpfs /run"))
    pod = {"RAY_CLUSTER_NAME": cluster, "PYTHONPATH": str(CLUSTER.parent)}
    program = f'{AS_A_POD} && exec "$@"'
    # `env`, because sudo drops the environment.
    variables = [f"{name}={value}" for name, value in {**kubernetes, **pod}.items()]
    arguments = [str(tmp_path / "pod"), "env", *variables, sys.executable, "-c", IN_A_POD]
    done = subprocess.run(
        [*namespace, program, "sh", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0 and expected in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("amount", [math.inf, math.nan, -2, 2**63])
def test_amount_that_no_machine_has_is_refused(tmp_path: Path, amount: float) -> None:
    tree = yaml.safe_load(packaged_file("aws.yaml", "cluster").read_text(encoding="utf-8"))
    tree["available_node_types"]["cpu"]["resources"] = {"CPU": amount}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(InputError, match=r"c\.yaml: .* is not a possible number of CPUs or GPUs"):
        read_cluster_file(tmp_path / "c.yaml")


@pytest.mark.parametrize("limit", [-3, 2.5, math.nan, 99, 2**63])
def test_node_limit_that_is_no_number_of_nodes_is_refused(tmp_path: Path, limit: float) -> None:
    tree = yaml.safe_load(packaged_file("aws.yaml", "cluster").read_text(encoding="utf-8"))
    tree["available_node_types"]["cpu"]["min_workers"] = limit
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(InputError, match=r"c\.yaml: .*cpu has at least .* must be whole numbers"):
        read_cluster_file(tmp_path / "c.yaml")
