"""The networks that come with the package: whole, as their manifest says, and taken by name."""

from __future__ import annotations

import hashlib

import pytest
import torch

from itpn_ray.errors import CheckpointError
from itpn_ray.experiment import absolute
from itpn_ray.models import create_autoencoder, create_model, load_model, load_weights
from itpn_ray.models.zoo import SCHEME, entries, zoo_file
from itpn_ray.training.exporting import weight_file

MERGE = "merge1.reduce.weight"
NAMES = sorted(entries())


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_the_one_that_the_manifest_names(name: str) -> None:
    entry, file = entries()[name], zoo_file(SCHEME + name)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == entry.sha256
    assert file.stat().st_size < 4_000_000
    assert entry.hours > 0
    assert entry.metrics


@pytest.mark.parametrize("name", NAMES)
def test_a_network_is_loaded_by_its_name(name: str) -> None:
    entry, source = entries()[name], SCHEME + name
    network = load_model(source)
    assert network.image_size == entry.image_size
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}
    classifier = create_model(entry.network, num_classes=3, image_size=96)
    report = load_weights(classifier, source)
    assert report.fraction == 1
    assert torch.equal(classifier.trunk.state_dict()[MERGE], network.trunk.state_dict()[MERGE])
    decoder = network.config
    again = create_autoencoder(
        entry.network,
        image_size=96,
        pyramid_width=decoder.pyramid.width,
        decoder_width=decoder.decoder_width,
        decoder_depth=decoder.decoder_depth,
    )
    assert load_weights(again, source).fraction == 1  # its pre-training can go on, at another size


def test_every_way_into_weights_takes_the_name() -> None:
    source = SCHEME + NAMES[0]
    assert absolute(source) == source
    assert weight_file(source, print) == zoo_file(source)


def test_a_name_that_is_not_in_the_zoo() -> None:
    with pytest.raises(CheckpointError, match=rf"zoo:nano_cloth: is not in the zoo.*{NAMES[0]}"):
        load_model("zoo:nano_cloth")
