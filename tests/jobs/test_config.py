from __future__ import annotations

import pytest

from itpn_ray.errors import ConfigError
from jobs.config import SubmitConfig

HERE = "http://127.0.0.1:8265"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "the one cluster"),
        ({"address": HERE, "kubernetes": "job.yaml"}, "the one cluster"),
        ({"address": "127.0.0.1:8265"}, "http://127.0.0.1:8265"),
        ({"address": "ray://10.0.0.1:10001"}, "http://10.0.0.1:10001"),
        ({"address": HERE, "name": "My Job"}, "submit.name = 'My Job'"),
        ({"address": HERE, "name": "a" * 48}, "submit.name"),
        ({"address": HERE, "connect_timeout_s": 0.0}, "submit.connect_timeout_s"),
    ],
)
def test_a_wrong_field_is_named(options, named):
    with pytest.raises(ConfigError, match="submit") as caught:
        SubmitConfig(**options)
    assert named in str(caught.value)


def test_a_secret_given_as_a_value_is_refused_and_not_repeated():
    with pytest.raises(ConfigError, match="never its value") as caught:
        SubmitConfig(address=HERE, env=("AWS_SECRET_ACCESS_KEY=canary",))
    assert "AWS_SECRET_ACCESS_KEY" in str(caught.value)
    assert "canary" not in str(caught.value)
