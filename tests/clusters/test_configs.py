"""The files of clusters/: against Ray's schema, the EC2 API's shapes and KubeRay's fields."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from string import Template
from typing import Any

import pytest
import yaml

from itpn_ray.costs.prices import read_prices

ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "clusters"
LAUNCHED = ["aws", "gcp"]
KUBERAY = ["raycluster", "rayjob"]
FILLED_IN = {
    "IMAGE": "registry.example/itpn-ray:1",
    "IMAGE_FAMILY": "common-cu129-ubuntu-2204",
    "AMI": "ami-0123456789abcdef0",
    "REGION": "eu-west-1",
    "ZONE": "europe-west4-a",
    "PROJECT": "a-project",
}
# Ray's schema lets anything pass here. The keys are those that Ray's providers read.
PROVIDER_KEYS = {
    "aws": {"type", "region", "availability_zone", "cache_stopped_nodes", "security_group",
            "use_internal_ips", "key_pair"},
    "gcp": {"type", "region", "availability_zone", "project_id", "cache_stopped_nodes",
            "use_internal_ips"},
    "external": {"type", "module", "gcs_address", "head_node_id", "launch_multiple"},
}  # fmt: skip
# Of the instances.insert method of the Compute Engine API, version 1.
GCP_NODE_KEYS = {
    "machineType": str,
    "disks": {"boot": bool, "autoDelete": bool, "type": str,
              "initializeParams": {"diskSizeGb": int, "diskType": str, "sourceImage": str}},
    "scheduling": {"provisioningModel": str, "instanceTerminationAction": str,
                   "onHostMaintenance": str, "automaticRestart": bool},
    "metadata": {"items": {"key": str, "value": str}},
    "guestAccelerators": {"acceleratorType": str, "acceleratorCount": int},
    "serviceAccounts": {"email": str, "scopes": list},
}  # fmt: skip


def text_of(name: str) -> str:
    return Template((CLUSTERS / f"{name}.yaml").read_text()).safe_substitute(FILLED_IN)


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load(text_of(name))


def documents(name: str) -> dict[str, dict[str, Any]]:
    return {d["kind"]: d for d in yaml.safe_load_all(text_of(f"kuberay/{name}"))}


def check_launched(config: dict[str, Any]) -> None:
    """Ray's own checks, and ours of what they let pass."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(config)))
    kind = config["provider"]["type"]
    unknown = set(config["provider"]) - PROVIDER_KEYS[kind]
    assert not unknown, f"provider: {unknown}"
    for node_type in config["available_node_types"].values():
        if kind == "aws":
            check_ec2(node_type["node_config"])
        elif kind == "gcp":
            check_keys(node_type["node_config"], GCP_NODE_KEYS, "node_config")


def check_ec2(node_config: dict[str, Any]) -> None:
    """Against the shape of the EC2 API's RunInstances, which comes with botocore."""
    import botocore.session
    from botocore.validate import ParamValidator

    model = botocore.session.get_session().get_service_model("ec2")
    shape = model.operation_model("RunInstances").input_shape
    whole = node_config | {"MinCount": 1, "MaxCount": 1}
    unknown = set(whole) - set(shape.members)
    assert not unknown, f"node_config: {unknown}"
    report = ParamValidator().validate(whole, shape)
    assert not report.has_errors(), report.generate_report()
    for mapping in node_config["BlockDeviceMappings"]:
        assert set(mapping["Ebs"]) <= set(model.shape_for("EbsBlockDevice").members)


def check_keys(value: Any, wanted: Any, where: str) -> None:
    if isinstance(value, list) and isinstance(wanted, dict):
        for item in value:
            check_keys(item, wanted, where)
    elif isinstance(wanted, dict):
        assert isinstance(value, dict), where
        for key, inner in value.items():
            assert key in wanted, f"{where}.{key} is no field"
            check_keys(inner, wanted[key], f"{where}.{key}")
    else:
        assert isinstance(value, wanted), f"{where} = {value!r}"


def check_kuberay(value: Any, wanted: Any, where: str) -> None:
    """A manifest's spec against the fields and types of kuberay_fields.yaml."""
    scalars = {"string": str, "integer": int, "boolean": bool, "number": (int, float)}
    if isinstance(wanted, list):
        assert isinstance(value, list), where
        for index, item in enumerate(value):
            check_kuberay(item, wanted[0], f"{where}[{index}]")
    elif isinstance(wanted, dict):
        assert isinstance(value, dict), where
        for key, inner in value.items():
            assert key in wanted or "*" in wanted, f"{where}.{key} is no field of KubeRay's"
            check_kuberay(inner, wanted.get(key, wanted.get("*")), f"{where}.{key}")
    elif wanted == "quantity":
        assert re.fullmatch(r"\d+(m|Mi|Gi)?", str(value)), f"{where} = {value!r}"
    else:
        assert isinstance(value, scalars[wanted]), f"{where} = {value!r} is no {wanted}"
        assert wanted == "boolean" or not isinstance(value, bool), f"{where} = {value!r}"


def fields(kind: str) -> Any:
    return yaml.safe_load((Path(__file__).parent / "kuberay_fields.yaml").read_text())[kind]


def cluster_spec(name: str) -> dict[str, Any]:
    by_kind = documents(name)
    return by_kind["RayCluster" if name == "raycluster" else "RayJob"]["spec"] | (
        by_kind["RayJob"]["spec"]["rayClusterSpec"] if name == "rayjob" else {}
    )


@pytest.mark.parametrize("name", [*LAUNCHED, "local"])
def test_ray_takes_the_configuration(name):
    check_launched(load(name))


@pytest.mark.parametrize("name", LAUNCHED)
@pytest.mark.parametrize(
    "path",
    [("idle_timeout_minute",), ("provider", "regions"), ("docker", "images"),
     ("available_node_types", "gpu_spot", "max_worker"),
     ("available_node_types", "gpu_spot", "node_config", "InstanceTypo")],
    ids=lambda path: path[-1],
)  # fmt: skip
def test_a_mistyped_key_would_be_found(name, path):
    config = load(name)
    place = config
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = "x"
    with pytest.raises(Exception, match=path[-1]):
        check_launched(config)


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_head_only_leads_and_both_markets_have_gpus(name):
    config = load(name)
    groups = config["available_node_types"]
    head = groups.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert head["labels"]["market"] == "on-demand"  # drivers and journals live there
    markets = {}
    for group_name, group in groups.items():
        node = str(group["node_config"])
        is_spot = "'MarketType': 'spot'" in node or "'provisioningModel': 'SPOT'" in node
        instance = group["node_config"].get("InstanceType") or group["node_config"]["machineType"]
        market = "spot" if is_spot else "on-demand"
        assert group["labels"] == {"market": market, "instance-type": instance}, group_name
        assert group["min_workers"] == 0, "nothing is paid while nothing runs"
        if "GPU" in group["resources"]:
            markets[group["labels"]["market"]] = group
    assert set(markets) == {"spot", "on-demand"}
    assert sum(g["max_workers"] for g in groups.values()) == config["max_workers"]


@pytest.mark.parametrize("name", LAUNCHED)
def test_token_on_and_dashboard_on_loopback(name):
    config = load(name)
    options = config["docker"]["run_options"]
    assert "--env RAY_AUTH_MODE=token" in options
    (token_path,) = config["file_mounts"]
    assert f"--env RAY_AUTH_TOKEN_PATH={token_path}" in options
    start = config["head_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in start
    assert "RAY_enable_autoscaler_v2=1" in start, "the first autoscaler knows no labels"


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_has_every_field(name):
    by_kind = documents(name)
    kind = "RayCluster" if name == "raycluster" else "RayJob"
    assert by_kind[kind]["apiVersion"] == "ray.io/v1"
    check_kuberay(by_kind[kind]["spec"], fields(kind), "spec")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("autoscalerOptions", "idleTimeoutSecond"), 60),
        (("gcsFaultToleranceOptions", "redisAdress"), "redis:6379"),
        (("headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("headGroupSpec", "template", "spec", "tollerations"), []),
        (("enableInTreeAutoscaling",), "true"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else None,
)
def test_a_wrong_field_of_kuberays_would_be_found(path, value):
    spec = documents("raycluster")["RayCluster"]["spec"]
    place = spec
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(AssertionError, match=path[-1]):
        check_kuberay(spec, fields("RayCluster"), "spec")


@pytest.mark.parametrize("name", KUBERAY)
def test_kubernetes_token_autoscaling_and_fault_tolerance(name):
    spec = cluster_spec(name)
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    redis = {d["kind"]: d for d in yaml.safe_load_all(text_of("kuberay/redis"))}
    port = redis["Service"]["spec"]["ports"][0]["port"]
    tolerance = spec["gcsFaultToleranceOptions"]
    assert tolerance["redisAddress"] == f"{redis['Service']['metadata']['name']}:{port}"
    (environment,) = redis["Deployment"]["spec"]["template"]["spec"]["containers"][0]["env"]
    assert tolerance["redisPassword"]["valueFrom"] == environment["valueFrom"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    gpu_markets = {
        group["labels"]["market"]
        for group in spec["workerGroupSpecs"]
        if "nvidia.com/gpu" in str(group["template"]["spec"]["containers"])
    }
    assert gpu_markets == {"spot", "on-demand"}


@pytest.mark.parametrize("name", KUBERAY)
def test_only_the_cluster_and_kuberay_reach_the_pods(name):
    by_kind, spec = documents(name), cluster_spec(name)
    policy = by_kind["NetworkPolicy"]["spec"]
    pods = policy["podSelector"]["matchLabels"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        assert pods.items() <= group["template"]["metadata"]["labels"].items()
    first, *others = policy["ingress"]
    assert first == {"from": [{"podSelector": {"matchLabels": pods}}]}
    if name == "raycluster":
        assert spec["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "127.0.0.1"
        assert not others
    else:
        assert [rule["ports"] for rule in others] == [[{"port": 8265}]]


@pytest.mark.parametrize("name", KUBERAY)
def test_what_pods_mount_is_there(name):
    by_kind, spec = documents(name), cluster_spec(name)
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        mounts = {m["name"] for c in pod["containers"] for m in c.get("volumeMounts", [])}
        assert mounts == set(volumes)
    claim = spec["headGroupSpec"]["template"]["spec"]["volumes"][0]["persistentVolumeClaim"]
    assert claim["claimName"] == by_kind["PersistentVolumeClaim"]["metadata"]["name"]


def test_versions_are_those_of_the_lock():
    lock = (ROOT / "requirements.lock").read_text()
    version = re.search(r"^ray\[?.*?==([\d.]+)", lock, re.MULTILINE).group(1)
    for name in KUBERAY:
        assert cluster_spec(name)["rayVersion"] == version


def test_no_file_holds_a_secret_or_opens_a_port_to_all():
    for path in CLUSTERS.rglob("*"):
        if not path.is_file():
            continue
        text = path.read_text()
        assert "0.0.0.0" not in text, path
        assert not re.search(
            r"AKIA[0-9A-Z]{16}|-----BEGIN|(?i:secret_access_key)\s*[:=]\s*\w", text
        )
        if path.suffix == ".yaml":
            left = set(re.findall(r"\$\{(\w+)\}", text)) - set(FILLED_IN)
            assert not left, f"{path} has variables that README.md does not set: {left}"


def test_the_image_is_built_from_what_there_is_and_runs_as_a_user():
    lines = (CLUSTERS / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert "requirements.lock" in copied
    assert all((ROOT / name).exists() for name in copied), copied
    assert [line for line in lines if line.startswith("USER")][-1] == "USER ray"
    assert any("--require-hashes" in line for line in lines)
    assert "RAY_AUTH_MODE=token" in "".join(lines)


def test_the_price_list_waits_for_the_prices_of_the_day_of_every_machine():
    prices = read_prices(str(CLUSTERS / "prices.yaml"))
    assert prices.currency == "USD"
    for machine in prices.machines.values():
        assert (machine.on_demand, machine.spot) == (None, None)
    for name in LAUNCHED:
        for group in load(name)["available_node_types"].values():
            machine = prices.find(group["labels"]["instance-type"])
            assert machine.gpus == group["resources"].get("GPU", 0)
            assert machine.cpus >= group["resources"]["CPU"]
    for name in KUBERAY:
        spec = cluster_spec(name)
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            prices.find(group["labels"]["instance-type"])
