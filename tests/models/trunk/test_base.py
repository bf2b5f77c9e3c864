from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter

from itpn_ray.errors import DataError
from itpn_ray.models import build, create_autoencoder, create_distiller, create_model
from itpn_ray.models.config import ClassifierConfig, TrunkConfig
from itpn_ray.models.networks.build import build_trunk


def small(family="fast_itpn", **changes) -> TrunkConfig:
    fields = {
        "width": 32,
        "heads": 2,
        "depths": (1, 2, 3),
        "image_size": 64,
        "patch_norm": family == "itpn",
        "relative_position": family == "itpn",
    }
    return TrunkConfig(family=family, **{**fields, **changes})


FAMILIES = pytest.mark.parametrize("family", ["fast_itpn", "itpn"])


@FAMILIES
def test_stages_have_the_promised_shapes(family):
    trunk = build_trunk(small(family))
    u1, u2, u3 = trunk.stages(torch.randn(2, 3, 32, 48))
    assert u1.shape == (2, 6, 4, 4, 8)
    assert u2.shape == (2, 6, 2, 2, 16)
    assert u3.shape == (2, 6, 1, 1, 32)
    assert trunk.widths == (8, 16, 32)


@FAMILIES
def test_visible_patches_alone_decide(family):
    """Masked pixels change nothing, and early stages are those of the whole image."""
    torch.manual_seed(0)
    trunk = build_trunk(small(family)).eval()
    images, visible = torch.randn(2, 3, 64, 64), torch.tensor([[3, 9, 0], [15, 1, 2]])
    seen = trunk.stages(images, visible)
    whole = trunk.stages(images)
    row = torch.arange(2)[:, None]
    for stage in (0, 1):
        torch.testing.assert_close(seen[stage], whole[stage][row, visible])
    other = torch.randn(2, 16, 3, 16, 16)
    patches = images.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
    other[row, visible] = patches[row, visible]
    changed = other.view(2, 4, 4, 3, 16, 16).permute(0, 3, 1, 4, 2, 5).reshape(2, 3, 64, 64)
    for ours, again in zip(seen, trunk.stages(changed, visible), strict=True):
        torch.testing.assert_close(ours, again)


@FAMILIES
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(1, 16))
def test_the_order_of_visible_patches_does_not_matter(family, seed, count):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    trunk = build_trunk(small(family)).eval()
    images = torch.randn(1, 3, 64, 64, generator=generator)
    visible = torch.randperm(16, generator=generator)[None, :count]
    order = torch.randperm(count, generator=generator)
    with torch.no_grad():
        u3 = trunk.stages(images, visible)[2]
        shuffled = trunk.stages(images, visible[:, order])[2]
    torch.testing.assert_close(shuffled, u3[:, order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(40, 64), (64, 8), (0, 16)])
def test_sizes_that_are_no_whole_patches_are_refused(size):
    with pytest.raises(DataError, match="multiples of 16"):
        build_trunk(small()).stages(torch.zeros(1, 3, *size))


@FAMILIES
def test_drop_noise_decides_for_each_image(family):
    torch.manual_seed(0)
    trunk = build_trunk(small(family, drop_path=0.5)).train()
    images = torch.randn(3, 3, 32, 32)
    nothing = torch.full((3, trunk.num_drops), 0.999)
    noise = nothing.clone()
    noise[1, -1] = 0.4  # the last branch has rate 0.5
    kept = trunk.stages(images, drop_noise=nothing)[2]
    dropped = trunk.stages(images, drop_noise=noise)[2]
    torch.testing.assert_close(kept[[0, 2]], dropped[[0, 2]])
    assert not torch.allclose(kept[1], dropped[1])
    noise[:, -2:] = 0.4  # both branches of the last block
    dropped = trunk.stages(images, drop_noise=noise)[2]
    del trunk.stage3[-1]
    torch.testing.assert_close(trunk.stages(images, drop_noise=nothing)[2], dropped)
    trunk.eval()
    assert torch.equal(trunk.stages(images, drop_noise=noise)[2], trunk.stages(images)[2])


def test_drop_rates_rise_evenly_and_branches_keep_their_mean():
    trunk = build_trunk(small(drop_path=0.5))
    expected = [0.0, 0.1, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5]
    torch.testing.assert_close(trunk.drop_rates, torch.tensor(expected))
    noise = torch.rand(20_000, trunk.num_drops, generator=torch.Generator().manual_seed(0))
    weights = torch.stack(list(trunk.train().keep(20_000, noise)), dim=1)
    torch.testing.assert_close(weights.mean(0), torch.ones(9), rtol=0.03, atol=0)


@FAMILIES
def test_checkpointing_gives_the_same_gradients(family):
    torch.manual_seed(0)
    trunk = build_trunk(small(family, drop_path=0.3)).train()
    again = copy.deepcopy(trunk)
    again.set_grad_checkpointing(True)
    images, noise = torch.randn(2, 3, 64, 64), torch.rand(2, trunk.num_drops)
    for network in (trunk, again):
        network.stages(images, drop_noise=noise)[2].square().sum().backward()
    for ours, theirs in zip(trunk.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_checkpointing_saves_memory():
    saved = []
    for enable in (False, True):
        model = create_model("nano", num_classes=2, image_size=64).train()
        model.set_grad_checkpointing(enable)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: (sizes.append(t.numel()), t)[1], lambda t: t
        ):
            model(torch.randn(2, 3, 64, 64))
        saved.append(sum(sizes))
    assert saved[1] < saved[0] / 2


@FAMILIES
def test_a_relative_position_changes_the_result_and_learns(family):
    torch.manual_seed(0)
    trunk = build_trunk(small(family, relative_position=True))
    images = torch.randn(1, 3, 64, 64)
    before = trunk.stages(images)[2]
    torch.nn.init.normal_(trunk.stage3[0].attention.relative)
    after = trunk.stages(images)[2]
    assert not torch.allclose(before, after)
    after.sum().backward()
    assert trunk.stage3[0].attention.relative.grad.abs().sum() > 0
    assert trunk.stages(torch.randn(1, 3, 32, 96))[2].shape == (1, 12, 1, 1, 32)


@FAMILIES
def test_bfloat16_autocast_stays_close(family):
    torch.manual_seed(0)
    model = build(ClassifierConfig(trunk=small(family), num_classes=0)).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            coarse = model(images)
    assert (coarse - exact).abs().max() < 0.05 * exact.std()


@FAMILIES
def test_classifiers_compile_to_one_graph_and_once(family):
    torch._dynamo.reset()
    model = build(ClassifierConfig(trunk=small(family, drop_path=0.1), num_classes=3)).train()
    counter = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for _ in range(3):
        noise = torch.rand(2, model.num_drops)
        compiled(torch.randn(2, 3, 64, 64), drop_noise=noise).sum().backward()
    assert counter.frame_count == 1


def compiles_once(model, *arguments, **options):
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(model.train(), fullgraph=True, backend=counter)
    for _ in range(3):
        outputs = compiled(*arguments, **options)
        sum(v.mean() for v in outputs.values() if isinstance(v, torch.Tensor)).backward()
    assert counter.frame_count == 1


@pytest.mark.programs
@pytest.mark.parametrize(
    ("name", "relative", "checkpointing"),
    [("nano", False, False), ("nano", True, True), ("itpn_base", True, False)],
)
def test_pretraining_networks_compile_to_one_graph_and_once(name, relative, checkpointing):
    trunk = {"image_size": 64, "relative_position": relative, "drop_path": 0.1}
    if name != "nano":
        trunk |= {"width": 32, "heads": 2, "depths": (1, 1, 2)}
    visible = torch.rand(2, 16).argsort(1)[:, :4]
    mask = torch.ones(2, 16, dtype=torch.bool).scatter(1, visible, False)
    images = torch.randn(2, 3, 64, 64)

    autoencoder = create_autoencoder(name, decoder_width=32, decoder_depth=1, **trunk)
    autoencoder.set_grad_checkpointing(checkpointing)
    noise = torch.rand(2, autoencoder.num_drops)
    compiles_once(autoencoder, images, mask, visible=visible, drop_noise=noise)

    distiller = create_distiller(name, teacher_dim=24, **trunk)
    distiller.set_grad_checkpointing(checkpointing)
    noise = torch.rand(2, distiller.num_drops)
    compiles_once(distiller, images, mask, drop_noise=noise)
