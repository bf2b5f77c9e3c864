from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from itpn_ray.errors import ConfigError
from itpn_ray.models import create_autoencoder, create_model, load_model, save_model
from itpn_ray.models.acceleration.config import REDUCTIONS, Acceleration
from itpn_ray.models.acceleration.migration import Tokens, similarity
from itpn_ray.models.acceleration.reduction import Reducer
from itpn_ray.models.acceleration.stage3 import departures, run_blocks
from itpn_ray.models.networks.layer_decay import layer_ids, no_weight_decay
from tests.models.nets import classifier, dense, make_images, stir

THINNING = [kind for kind in REDUCTIONS if kind != "none"]
PROPERTY = settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

accelerations = st.builds(
    Acceleration,
    reduction=st.sampled_from(THINNING),
    ratio=st.floats(0.0, 0.5),
    window=st.integers(0, 5),
)
maps = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))


def reducer_of(kind: str, places: int, counts: tuple[int, ...], front: int = 0) -> Reducer:
    return Reducer(kind, counts, places, front=front)


@torch.no_grad()
@PROPERTY
@given(maps, st.sampled_from(THINNING))
def test_ratio_zero_is_the_plain_network_to_the_bit(size: tuple[int, int, int], kind: str) -> None:
    net = dense()
    images = make_images(size[0], 16 * size[1], 16 * size[2])
    expected = net(images)
    net.set_reduction(kind, 0.4)
    net.set_reduction(kind, 0.0)
    for stride, found in net(images).items():
        assert torch.equal(found, expected[stride])


@torch.no_grad()
@PROPERTY
@given(maps, accelerations, st.booleans())
def test_every_token_comes_back_at_its_place(
    size: tuple[int, int, int], acceleration: Acceleration, gathering: bool
) -> None:
    """Blocks without effect leave every token as it was, so the whole stage must be the identity.

    ToMe is left out: it averages.
    """
    if acceleration.reduction == "tome":
        acceleration = dataclasses.replace(acceleration, reduction="migration")
    if gathering and acceleration.window:
        acceleration = dataclasses.replace(acceleration, gathering=True)
    net = dense()
    for block in net.trunk.stage3:
        nn.init.zeros_(block.scale1)
        nn.init.zeros_(block.scale2)
    net.set_acceleration(acceleration)
    tokens = torch.randn(size[0], size[1] * size[2], 32)
    found, _ = net.trunk.late(tokens, size[1:])
    assert torch.equal(found, tokens)


@torch.no_grad()
@PROPERTY
@given(maps, accelerations, st.booleans())
def test_an_image_does_not_depend_on_its_batch_mates(
    size: tuple[int, int, int], acceleration: Acceleration, gathering: bool
) -> None:
    if gathering and acceleration.window:
        acceleration = dataclasses.replace(
            acceleration, gathering=True, relative_position="windows+cross"
        )
    net = classifier()
    net.set_acceleration(acceleration)
    stir(net)
    one = make_images(3, 16 * size[1], 16 * size[2])
    two = torch.stack([-3.0 * one[2], one[1], one[0].flip(0)])
    assert torch.equal(net(one)[1], net(two)[1])


@pytest.mark.parametrize("kind", THINNING)
@pytest.mark.parametrize("window", [0, 3])
def test_gradients_reach_every_patch(kind: str, window: int) -> None:
    net = dense()
    net.set_acceleration(Acceleration(reduction=kind, ratio=0.5, window=window))
    images = make_images(2, 64, 80).requires_grad_()
    maps_ = net(images)
    # One map of the last stage only: nothing flows around stage 3.
    (maps_[16] * torch.randn(maps_[16].shape)).sum().backward()
    by_patch = images.grad.unfold(2, 16, 16).unfold(3, 16, 16).abs().sum((1, 4, 5))
    assert bool((by_patch > 0).all())
    assert all(p.grad is not None for p in net.trunk.stage3.parameters())


def test_gradients_reach_migrated_tokens_directly() -> None:
    """A token that left before the last block still has a share in the map at its place."""
    net = dense()
    net.set_migration(0.5)
    tokens = torch.randn(1, 16, 32, requires_grad=True)
    plan = net.trunk.plan((4, 4))
    found, state = run_blocks(net.trunk.stage3, tokens, plan, [None] * 4, net.trunk.run)
    left = departures(state, plan).flatten() >= 0
    assert int(left.sum()) == 8
    found[0, left].sum().backward()
    assert bool((tokens.grad[0, left].abs().sum(-1) > 0).all())


@torch.no_grad()
@pytest.mark.parametrize("kind", THINNING)
def test_switches_work_on_a_trained_network(kind: str) -> None:
    net, images = classifier(), make_images(2, 64)
    expected = net(images)
    net.set_reduction(kind, 0.4)
    assert net.acceleration == Acceleration(reduction=kind, ratio=0.4)
    thinned = net(images)
    assert not torch.allclose(thinned, expected, atol=1e-4)
    net.set_gathering(2)
    assert net.acceleration.ratio == 0.4
    assert not torch.allclose(net(images), thinned, atol=1e-4)
    net.set_acceleration(Acceleration())
    assert torch.equal(net(images), expected)


@torch.no_grad()
def test_construction_and_switching_agree() -> None:
    made, switched = classifier(migration=0.3), classifier()
    switched.load_state_dict(made.state_dict())
    switched.set_migration(0.3)
    assert made.config == switched.config
    assert torch.equal(made(make_images(1, 64)), switched(make_images(1, 64)))


def test_the_token_survives_other_switches() -> None:
    net = classifier()
    net.set_gathering(2)
    token = net.trunk.gathering.token
    net.set_migration(0.3)
    net.set_gathering(4)
    assert net.trunk.gathering.token is token


@torch.no_grad()
@settings(deadline=None, max_examples=30)
@given(st.integers(4, 24), st.integers(0, 1), st.integers(0, 999), st.data())
def test_tome_averages_what_it_merges(
    places: int, front: int, seed: int, data: st.DataObject
) -> None:
    """Against a loop that carries, for each token, the set of places merged into it."""
    generator = torch.Generator().manual_seed(seed)
    counts = (data.draw(st.integers(1, places // 2)),)
    counts += (data.draw(st.integers(0, (places - counts[0]) // 2)),)
    values = torch.randn(1, front + places, 3, generator=generator)
    reducer = reducer_of("tome", places, counts, front)
    state = reducer.start(values)
    groups = [{place} for place in range(front + places)]
    for block, count in enumerate(counts):
        keys = torch.randn(1, 2, len(groups), 4, generator=generator)
        state = reducer.reduce(state, keys, block)
        best, match = similarity(keys[:, :, front:]).max(-1)
        order = best[0].argsort(descending=True)[:count].tolist()
        for a in order:
            groups[front + 2 * int(match[0, a]) + 1] |= groups[front + 2 * a]
        groups = [
            group for i, group in enumerate(groups) if i not in [front + 2 * a for a in order]
        ]
    restored = reducer.restore(state)[0]
    assert restored.shape == (places, 3)
    assert state.merged.sizes[0].tolist() == [len(group) for group in groups]
    for group in groups:
        mean = values[0, sorted(group)].mean(0)
        for place in group:
            if place >= front:
                assert torch.allclose(restored[place - front], mean, atol=1e-5)
    if counts[1]:
        assert torch.allclose(
            reducer.key_bias(state)[0, 0, 0].exp(), state.merged.sizes[0], atol=1e-5
        )


@torch.no_grad()
def test_tome_keeps_padding_out_of_averages() -> None:
    """A 5 x 3 grid in windows of 3: the lower window has three places outside."""
    net = dense()
    net.set_acceleration(Acceleration(reduction="tome", ratio=0.45, window=3))
    plan = net.trunk.plan((5, 3))
    rows = plan.windows.split(torch.full((1, 15, 2), 4.0))
    state = plan.reducer.start(rows)
    for block in range(4):
        keys = torch.randn(2, 2, state.tokens.values.shape[1], 4)
        state = plan.reducer.reduce(state, keys, block)
    assert state.merged.sizes.sum(1).tolist() == [9.0, 6.0]
    restored = plan.windows.join(plan.reducer.restore(state))
    assert torch.allclose(restored, torch.full((1, 15, 2), 4.0))


def test_random_draws_depend_on_place_and_block_alone() -> None:
    reducer = reducer_of("random", 64, (16, 16))
    values = torch.randn(3, 64, 2)
    first = reducer.reduce(reducer.start(values), torch.randn(3, 2, 64, 4), 0)
    again = reducer.reduce(reducer.start(-values), torch.randn(3, 2, 64, 4), 0)
    assert torch.equal(first.store[0].positions, again.store[0].positions)
    assert torch.equal(first.store[0].positions[0], first.store[0].positions[2])
    other = reducer.reduce(reducer.start(values), torch.randn(3, 2, 64, 4), 1)
    assert not torch.equal(first.store[0].positions, other.store[0].positions)
    odd = first.store[0].positions[0] % 2
    assert 0 < int(odd.sum()) < 16  # from both halves, unlike migration


@torch.no_grad()
def test_migration_prefers_what_resembles() -> None:
    """In an image that is flat but for one quarter, the flat patches leave."""
    net = classifier(depths=(1, 1, 4))
    net.trunk.position.zero_()
    net.set_migration(0.25)
    images = torch.zeros(1, 3, 64, 64)
    images[:, :, :32, :32] = make_images(1, 32)
    plan = net.trunk.plan((4, 4))
    x = net.trunk.early(images, None, None)[2]
    _, state = run_blocks(net.trunk.stage3, x, plan, [None] * 4, net.trunk.run)
    when = departures(state, plan)[0]
    assert sorted(when[when >= 0].tolist()) == [0, 1, 2, 3]
    assert bool((when[:2, :2] == -1).all())


@torch.no_grad()
def test_departures_count_every_block_and_window() -> None:
    net = dense()
    net.set_acceleration(Acceleration(reduction="migration", ratio=0.5, window=4, gathering=True))
    plan = net.trunk.plan((8, 8))
    tokens = torch.randn(2, 64, 32)
    _, state = run_blocks(net.trunk.stage3, tokens, plan, [None] * 4, net.trunk.run)
    when = departures(state, plan)
    assert when.shape == (2, 8, 8)
    for window in when.unfold(1, 4, 4).unfold(2, 4, 4).reshape(8, 16):
        assert [int((window == block).sum()) for block in (-1, 0, 1, 2, 3)] == [8, 2, 2, 2, 2]


def test_a_saved_network_keeps_its_acceleration(tmp_path: Path) -> None:
    net, images = dense(), make_images(1, 64)
    net.set_gathering(2, relative_position="windows+cross")
    net.set_migration(0.3)
    stir(net)
    save_model(net, tmp_path / "net.safetensors")
    again = load_model(tmp_path / "net.safetensors")
    assert again.config == net.config
    with torch.no_grad():
        assert torch.equal(again(images)[16], net(images)[16])


def gradients(net: nn.Module, images: Tensor, noise: Tensor) -> dict[str, Tensor]:
    net.zero_grad()
    net(images, drop_noise=noise).square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in net.named_parameters()}


@pytest.mark.parametrize("kind", THINNING)
def test_checkpointing_gives_the_same_gradients(kind: str) -> None:
    net = classifier(drop_path=0.3).train()
    net.set_acceleration(Acceleration(reduction=kind, ratio=0.3, window=3, gathering=True))
    images, noise = make_images(2, 64, 80), torch.rand(2, net.num_drops)
    expected = gradients(net, images, noise)
    net.set_grad_checkpointing()
    for name, found in gradients(net, images, noise).items():
        assert torch.allclose(found, expected[name], rtol=1e-4, atol=1e-4), name


def test_drop_path_drops_images_not_windows() -> None:
    """With every branch of the second image dropped, its tokens pass stage 3 unchanged."""
    net = dense(drop_path=0.5).train()
    net.set_gathering(2)
    net.set_migration(0.3)
    tokens = torch.randn(2, 16, 32)
    keep = [torch.tensor([1.0, 0.0])] * net.num_drops
    found, _ = net.trunk.late(tokens, (4, 4), keep=keep)
    assert torch.equal(found[1], tokens[1])
    assert not torch.equal(found[0], tokens[0])


@pytest.mark.programs
@pytest.mark.parametrize("kind", THINNING)
def test_compiles_whole_and_once(kind: str) -> None:
    torch.compiler.reset()
    net = dense(depths=(1, 1, 2)).train()
    net.set_acceleration(
        Acceleration(
            reduction=kind,
            ratio=0.3,
            window=3,
            gathering=True,
            relative_position="windows+cross",
        )
    )
    stir(net)
    late = net.trunk.late
    compiled = torch.compile(late, fullgraph=True, backend="aot_eager", dynamic=False)
    for number in range(3):
        tokens = torch.randn(2, 16, 32)
        with torch.compiler.set_stance("default" if number == 0 else "fail_on_recompile"):
            found, _ = compiled(tokens, (4, 4))
        found.mean().backward()
        assert torch.allclose(found, late(tokens, (4, 4))[0], atol=1e-4)


@torch.no_grad()
def test_exports_with_a_dynamic_batch() -> None:
    net = classifier(depths=(1, 1, 2))
    net.set_migration(0.4)
    images = make_images(2, 64)
    exported = torch.export.export(
        net,
        (images,),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    more = make_images(5, 64, seed=1)
    assert torch.allclose(exported.module()(more), net(more), atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", THINNING)
def test_runs_in_bfloat16_under_autocast(kind: str) -> None:
    net, images = classifier(), make_images(2, 64)
    net.set_acceleration(Acceleration(reduction=kind, ratio=0.3, window=3, gathering=True))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = net(images)
    assert cast.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(cast.float(), net(images)).min() > 0.9
    half = net.bfloat16()(images.bfloat16())
    assert bool(half.isfinite().all())


@torch.no_grad()
def test_fewer_tokens_are_less_work() -> None:
    """Multiply-adds as executed, against the sum over blocks of what each one sees."""
    net = classifier(depths=(1, 1, 4))
    tokens = torch.randn(1, 64, 32)

    def work() -> int:
        # As matrix products: PyTorch 2.11 does not count its fused attention on a CPU.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            net.trunk.late(tokens, (8, 8))
        return counter.get_total_flops() // 2

    plain = work()
    linear, quadratic, mlp = 4 * 32 * 32, 2 * 32, 9 * 32 * 32
    assert plain == 4 * (64 * (linear + mlp) + 64 * 64 * quadratic)
    net.set_migration(0.5)  # 32 of 64: 8 in each block
    expected = 0
    for seen in (64, 56, 48, 40):
        search = (seen // 2) ** 2 * 16  # keys of 16 channels
        expected += seen * linear + seen**2 * quadratic + (seen - 8) * mlp + search
    assert work() == expected


def test_new_parameters_count_as_neck_and_their_tables_do_not_decay() -> None:
    net = classifier()
    net.set_gathering(2, relative_position="windows+cross")
    ids = layer_ids(net)
    for name in ("token", "window_bias", "cross_bias"):
        assert ids[f"trunk.gathering.{name}"] == max(ids.values())
        assert f"trunk.gathering.{name}" in no_weight_decay(net)


@pytest.mark.parametrize(
    ("changes", "subject"),
    [
        ({"reduction": "merge"}, "reduction"),
        ({"reduction": "migration", "ratio": 1.0}, "ratio"),
        ({"ratio": 0.3}, "ratio"),
        ({"window": -1}, "window"),
        ({"gathering": True}, "gathering"),
        ({"relative_position": "windows"}, "relative_position"),
        ({"window": 4, "relative_position": "rows"}, "relative_position"),
        ({"window": 4, "relative_position": "windows+cross"}, "relative_position"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object], subject: str) -> None:
    with pytest.raises(ConfigError) as error:
        Acceleration(**changes)
    assert error.value.subject == subject


def test_a_ratio_too_large_for_the_depth_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="smaller ratio"):
        create_model("nano", migration=0.95)


def test_pre_training_is_not_accelerated() -> None:
    net = create_autoencoder("nano", image_size=64)
    net.trunk.set_migration(0.3)
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[:, :12] = True
    with pytest.raises(ConfigError, match="pre-training"):
        net(make_images(1, 64), mask)


def test_positions_of_a_fresh_state() -> None:
    state = reducer_of("migration", 3, (0,), front=1).start(torch.randn(2, 4, 5))
    assert isinstance(state.tokens, Tokens)
    assert state.tokens.positions.tolist() == [[3, 0, 1, 2]] * 2
