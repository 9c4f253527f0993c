"""What a cluster file plans, against what Ray's own autoscaler reads from the same file; and mistakes in such files."""

from __future__ import annotations

import http.server
import json
import os
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
from cid_ray.run.fleet import Fleet, Resources
from cid_ray.run.plans import kuberay_plan, ray_up_plan, read_plan, read_tree

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
MACHINES = {"m5.xlarge": Resources(4, 0), "g5.2xlarge": Resources(8, 1)}
IN_A_POD = "from cid_ray.run import cluster; print(cluster.planned_here('none'))"


def limits(fleet: Fleet) -> dict[str, tuple[float, float, int]]:
    return {kind.name: (kind.each.cpus, kind.each.gpus, kind.most) for kind in fleet.types}


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_a_ray_up_file_is_read_as_autoscaler_v2_reads_it(name: str) -> None:
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    tree = read_tree(CLUSTER / f"{name}.yaml")
    theirs = AutoscalingConfig(tree, skip_content_hash=True)
    kinds = theirs.get_node_type_configs()
    assert limits(ray_up_plan(tree, {})) == {
        kind: (spec.resources["CPU"], spec.resources.get("GPU", 0), spec.max_worker_nodes)
        for kind, spec in kinds.items()
    }
    assert ray_up_plan(tree, {}).most == theirs.get_max_num_nodes()


@pytest.mark.parametrize("name", ["kuberay-raycluster", "kuberay-rayjob"])
def test_a_kuberay_file_is_read_as_its_autoscaler_reads_it(name: str) -> None:
    from ray.autoscaler._private.kuberay import autoscaling_config as theirs

    tree = read_tree(CLUSTER / f"{name}.yaml")
    spec = tree["spec"].get("rayClusterSpec", tree["spec"])
    spec["workerGroupSpecs"][0]["rayStartParams"] = {"num-cpus": "5"}
    container = spec["workerGroupSpecs"][1]["template"]["spec"]["containers"][0]
    container["resources"] = {"requests": {"cpu": "1500m"}}
    spec["workerGroupSpecs"][1]["numOfHosts"] = 2
    kinds = theirs._generate_available_node_types_from_ray_cr_spec(spec)
    expected = {
        kind: (found["resources"]["CPU"], found["resources"].get("GPU") or 0, found["max_workers"])
        for kind, found in kinds.items()
    }
    expected["headgroup"] = (*expected["headgroup"][:2], 1)
    assert limits(kuberay_plan(spec)) == expected
    assert expected["gpu"] == (5, 1, 8) and expected["cpu"] == (2, 0, 8)


def test_without_an_autoscaler_a_kuberay_cluster_stays_as_it_is() -> None:
    spec = read_tree(CLUSTER / "kuberay-raycluster.yaml")["spec"]
    spec["enableInTreeAutoscaling"] = False
    spec["workerGroupSpecs"][0]["replicas"] = 3
    assert [(kind.least, kind.most) for kind in kuberay_plan(spec).types] == [(1, 1), (3, 3), (0, 0)]


def test_spot_machines_and_resources_that_a_file_leaves_out() -> None:
    node = {"InstanceType": "g5.2xlarge", "InstanceMarketOptions": {"MarketType": "spot"}}
    google = {"machineType": "g2-standard-8", "scheduling": [{"preemptible": True}, {"onHostMaintenance": "TERMINATE"}]}
    types = {
        "head": {"resources": {}, "node_config": {"InstanceType": "m5.xlarge"}},
        "spot": {"resources": {}, "node_config": node, "max_workers": 3},
        "google": {"resources": {"CPU": 8, "GPU": 1}, "node_config": google},
    }
    fleet = ray_up_plan({"max_workers": 5, "head_node_type": "head", "available_node_types": types}, MACHINES)
    assert limits(fleet) == {"head": (4, 0, 1), "spot": (8, 1, 3), "google": (8, 1, 5)}
    assert [kind.spot for kind in fleet.types] == [False, True, True]
    with pytest.raises(InputError, match=r"node type head: the price list does not know m5.xlarge.*resources"):
        ray_up_plan({"head_node_type": "head", "available_node_types": types}, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1", "must be a `ray up` file"),
        ("provider: {type: aws}\navailable_node_types: {a: {}}", "'head_node_type' is missing"),
        ("provider: {type: aws}\nhead_node_type: a\navailable_node_types: [a]", "cannot be read as a cluster file"),
        ("kind: RayCluster\nspec: {headGroupSpec: {}}", "'template' is missing"),
        ("kind: RayCluster\nspec: {headGroupSpec: {template: {spec: {containers: [{name: a}]}}}}", "no CPU limit"),
        ("kind: RayCluster\nspec: {headGroupSpec: {resources: {CPU: 2q}, template: {spec: {containers: [{}]}}}}", "2q"),
        ("a: [", "not valid YAML"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_cluster_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_plan(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def kubernetes(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An API server that knows one RayCluster, over TLS; the environment of a head pod that may read it."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is absent")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True,
    )  # fmt: skip
    answer = json.dumps(yaml.safe_load((CLUSTER / "kuberay-raycluster.yaml").read_text())).encode()

    class Api(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/apis/ray.io/v1/namespaces/cid/rayclusters/cid"
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
        "RAY_KUBERAY_CLIENT_CERT_PATH": str(certificate),
        "RAY_KUBERAY_CLIENT_KEY_PATH": str(key),
        "RAY_KUBERAY_CA_CERT_PATH": str(certificate),
        "RAY_CLUSTER_NAMESPACE": "cid",
    }
    server.shutdown()


@pytest.mark.parametrize(("cluster", "told"), [("cid", "may still start 8 gpu"), ("other", "could not be read: 403")])
def test_in_a_head_pod_the_plan_is_read_from_the_kubernetes_api(
    kubernetes: dict[str, str], cluster: str, told: str
) -> None:
    env = {**os.environ, **kubernetes, "RAY_CLUSTER_NAME": cluster, "PYTHONPATH": str(CLUSTER.parent)}
    code = f"import ray; {IN_A_POD}"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and told in done.stdout, done.stdout + done.stderr
