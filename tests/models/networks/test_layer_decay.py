from __future__ import annotations

import pytest
import torch

from itpn_ray.models import (
    create_autoencoder,
    create_dense,
    create_model,
    layer_ids,
    no_weight_decay,
)


@pytest.fixture(autouse=True)
def _meta():
    with torch.device("meta"):
        yield


def test_fast_itpn_counts_merges_in_the_list_of_blocks():
    ids = layer_ids(create_model("base"))
    assert ids["trunk.position"] == ids["trunk.embed.weight"] == 0
    assert ids["trunk.stage1.0.mlp.fc1.weight"] == 1
    assert ids["trunk.stage1.2.mlp.fc1.weight"] == 3
    assert ids["trunk.merge1.reduce.weight"] == 4
    assert ids["trunk.stage2.0.norm2.bias"] == 5
    assert ids["trunk.merge2.norm.weight"] == 8
    assert ids["trunk.stage3.0.scale1"] == 9
    assert ids["trunk.stage3.23.mlp.w3.weight"] == 32
    assert ids["norm.weight"] == ids["head.weight"] == 33


def test_itpn_groups_merges_with_the_block_before():
    ids = layer_ids(create_model("itpn_base", relative_position=True))
    assert ids["trunk.position"] == ids["trunk.embed_norm.weight"] == 0
    assert ids["trunk.stage1.2.mlp.fc1.weight"] == ids["trunk.merge1.reduce.weight"] == 3
    assert ids["trunk.stage2.0.mlp.fc1.weight"] == 4
    assert ids["trunk.merge2.reduce.weight"] == 6
    assert ids["trunk.stage3.0.attention.relative"] == 7
    assert ids["trunk.stage3.23.norm1.weight"] == 30
    assert ids["head.bias"] == 31


@pytest.mark.parametrize(("name", "last", "top"), [("itpn_base", 24, 31), ("large", 40, 45)])
def test_dense_networks_count_stage_3_only(name, last, top):
    ids = layer_ids(create_dense(name))
    assert ids["trunk.stage2.0.mlp.fc1.weight"] == ids["trunk.merge2.reduce.weight"] == 0
    assert ids["trunk.stage3.0.norm1.weight"] == 1
    assert ids[f"trunk.stage3.{last - 1}.norm1.weight"] == last
    assert ids["pyramid.lateral1.weight"] == top


def test_pre_training_networks_count_as_their_trunk():
    model = create_autoencoder("nano")
    ids = layer_ids(model)
    assert set(ids) == {name for name, _ in model.named_parameters()}
    assert ids["mask_token"] == ids["decoder.0.norm1.weight"] == ids["pyramid.out1.norm2.bias"] == 9


def test_vectors_and_positions_do_not_decay():
    model = create_model("itpn_base", relative_position=True)
    spared = no_weight_decay(model)
    assert {"trunk.position", "trunk.stage3.0.attention.relative", "head.bias"} <= spared
    assert "trunk.stage3.0.norm1.weight" in spared
    assert "head.weight" not in spared
    assert "trunk.stage3.0.attention.qkv.weight" not in spared
