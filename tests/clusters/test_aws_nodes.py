"""clusters/aws.yaml through Ray's own AWS provider, with moto's EC2 in the place of Amazon's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from tests.clusters.test_configs import load

REGION = "eu-west-1"


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Amazon without machines, and the two roles that README.md has made."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray keeps the key that it makes
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("token")
    with mock_aws():
        iam = boto3.client("iam", region_name=REGION)
        for name in ("itpn-ray-head", "itpn-ray-node"):
            iam.create_instance_profile(InstanceProfileName=name)
        yield boto3.client("ec2", region_name=REGION)


@pytest.fixture
def provider(ec2: Any) -> Iterator[Any]:
    """What Ray's autoscaler starts and ends machines with, for the file as `ray up` reads it."""
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.instance_manager.node_provider import NodeProviderAdapter

    plain = load("aws")
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    for group in plain["available_node_types"].values():
        group["node_config"]["ImageId"] = image
    config = AutoscalingConfig(bootstrap_aws(prepare_config(plain)), skip_content_hash=True)
    v1 = AWSNodeProvider(config.get_provider_config(), plain["cluster_name"])

    class Reader:
        def get_cached_autoscaling_config(self) -> Any:
            return config

    adapter = NodeProviderAdapter(v1, Reader())
    yield adapter
    adapter._node_launcher_executors.shutdown()
    adapter._main_executor.shutdown()


def machines(ec2: Any, **filters: str) -> list[dict[str, Any]]:
    """Instances with these tags, whatever their state."""
    wanted = [
        {"Name": f"tag:{name.replace('_', '-')}", "Values": [v]} for name, v in filters.items()
    ]
    found = ec2.describe_instances(Filters=wanted)["Reservations"]
    return [instance for reservation in found for instance in reservation["Instances"]]


def until(condition: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_machines_of_each_group_start_as_they_should_and_end(ec2: Any, provider: Any) -> None:
    groups = {n: g for n, g in load("aws")["available_node_types"].items() if n != "head"}
    # One of each: asked for at most two, moto starts the one that is the least.
    provider.launch(dict.fromkeys(groups, 1), request_id="first")
    until(lambda: len(machines(ec2)) == len(groups) or provider._errors_queue.qsize())
    assert provider.poll_errors() == []
    for name, group in groups.items():
        (machine,) = machines(ec2, ray_user_node_type=name)
        assert machine["InstanceType"] == group["labels"]["instance-type"]
        market = machine.get("InstanceLifecycle", "on-demand")
        assert market == group["labels"]["market"]
        assert machine["IamInstanceProfile"]["Arn"].endswith("/itpn-ray-node")
        tags = {tag["Key"]: tag["Value"] for tag in machine["Tags"]}
        assert tags["ray-cluster-name"] == "itpn-ray"
        assert tags["ray-node-type"] == "worker"
        assert machine["SecurityGroups"][0]["GroupName"] == "itpn-ray"
        assert machine["Placement"]["AvailabilityZone"] == f"{REGION}a"
    provider.v1_provider.non_terminated_nodes({})
    running = provider.get_non_terminated()
    assert len(running) == len(groups)
    provider.terminate(list(running), request_id="last")
    until(lambda: {m["State"]["Name"] for m in machines(ec2)} <= {"shutting-down", "terminated"})
    provider.v1_provider.non_terminated_nodes({})
    assert provider.get_non_terminated() == {}


def test_a_nodes_labels_reach_its_ray(provider: Any) -> None:
    """The autoscaler hands them to the node in a variable that `ray start` reads."""
    from ray.autoscaler._private.constants import LABELS_ENVIRONMENT_VARIABLE

    config = provider._config_reader.get_cached_autoscaling_config()
    for name, group in load("aws")["available_node_types"].items():
        assert config.get_node_labels(name) == group["labels"]
    assert LABELS_ENVIRONMENT_VARIABLE == "RAY_OVERRIDE_LABELS"
