"""What is asked of transformers: modules, arguments, and that they mean what they seem to."""

from __future__ import annotations

import inspect
import socket
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch
from torch import nn

from itpn_ray.models.detection.dino.parts import Mlp, make_decoder_layers, part_config
from tests.models.detection.dinos import config, dino
from tests.models.detection.made import alone, images, sizes, targets

HOME = "transformers.models.deformable_detr"


def test_version_is_one_that_was_tried():
    major, minor = (int(part) for part in version("transformers").split(".")[:2])
    assert major == 5
    assert minor >= 23


def test_modules_take_what_they_are_given():
    from transformers.models.deformable_detr import modeling_deformable_detr as parts

    encoder = inspect.signature(parts.DeformableDetrEncoder.forward).parameters
    assert {
        "inputs_embeds",
        "attention_mask",
        "spatial_position_embeddings",
        "spatial_shapes",
        "spatial_shapes_list",
        "level_start_index",
        "valid_ratios",
    } <= set(encoder)
    layer = list(inspect.signature(parts.DeformableDetrDecoderLayer.forward).parameters)
    assert layer[1:] == [  # given by place, but for what the self-attention takes
        "hidden_states",
        "object_queries_position_embeddings",
        "reference_points",
        "spatial_shapes",
        "spatial_shapes_list",
        "level_start_index",
        "encoder_hidden_states",
        "encoder_attention_mask",
        "kwargs",
    ]
    attention = inspect.signature(parts.DeformableDetrSelfAttention.forward).parameters
    assert "attention_mask" in attention
    sine = inspect.signature(parts.DeformableDetrSinePositionEmbedding.__init__).parameters
    assert list(sine)[1:4] == ["num_position_features", "temperature", "normalize"]
    assert issubclass(parts.DeformableDetrMultiscaleDeformableAttention, nn.Module)


def test_config_says_what_was_meant():
    described = part_config(config(levels=4, mlp_width=96))
    assert described._attn_implementation == "sdpa"
    assert described.num_feature_levels == 4
    assert described.d_model == 64
    assert (described.encoder_attention_heads, described.decoder_attention_heads) == (2, 2)
    assert (described.encoder_ffn_dim, described.decoder_ffn_dim) == (96, 96)
    assert (described.encoder_layers, described.decoder_layers) == (1, 3)
    assert described.dropout == described.attention_dropout == described.activation_dropout == 0
    assert described.activation_function == "relu"
    assert described.backbone_config.model_type == "resnet"  # not one that timm would be asked for


def test_layers_have_no_parts_but_those_that_are_drawn():
    layer = make_decoder_layers(config())[0]
    kinds = {type(part).__name__ for part in layer.modules() if not list(part.children())}
    assert kinds == {"Linear", "LayerNorm", "MultiScaleDeformableAttention", "ReLU"}


def test_mlp():
    mlp = Mlp(8, 6, 4, 3)
    assert [type(part).__name__ for part in mlp] == ["Linear", "ReLU"] * 2 + ["Linear"]
    assert mlp(torch.zeros(2, 5, 8)).shape == (2, 5, 4)


def test_nothing_is_fetched(monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked for something")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    image = [[(0, (8, 8, 40, 40))]]
    net = dino()
    net.losses(images(image), sizes(1), targets(image), alone)


@pytest.mark.parametrize(
    "module", ["itpn_ray.models.detection.dino.network", "itpn_ray.models.detection.dino.config"]
)
def test_transformers_is_imported_when_it_is_needed(module):
    light = "torch" if module.endswith("config") else "transformers"
    code = f"import sys, {module}; print({light!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
