"""Price lists: read from files and URIs, whole or refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from itpn_ray.costs.config import CostConfig
from itpn_ray.costs.prices import Machine, prices_of, read_prices
from itpn_ray.errors import ConfigError
from itpn_ray.storage import open_store

LIST = """
currency: EUR
machines:
  box.8: {cpus: 96, gpus: 8, gpu: X, on_demand: 40, spot: 12.5}
  bare: {cpus: 8, on_demand: null, spot: null}
"""


@pytest.fixture
def place(tmp_path: Path) -> str:
    path = tmp_path / "prices.yaml"
    path.write_text(LIST)
    return str(path)


def test_prices_by_market(place: str) -> None:
    prices = read_prices(place)
    asked = [("box.8", "spot"), ("box.8", "on-demand"), ("box.8", ""), ("bare", "spot"), ("no", "")]
    assert [prices.price(*one) for one in asked] == [12.5, 40, 40, None, None]
    assert prices.currency == "EUR"


@pytest.mark.parametrize(
    ("machine", "workers", "cpus_per_worker", "count"),
    [
        (Machine(name="m", gpus=8, cpus=96), 10, 12.0, 2),
        (Machine(name="m", gpus=1, cpus=4), 3, 1.0, 3),
        (Machine(name="m", cpus=16), 8, 4.0, 2),
        (Machine(name="m", cpus=2), 3, 4.0, 3),
    ],
)
def test_workers_fill_machines(
    machine: Machine, workers: int, cpus_per_worker: float, count: int
) -> None:
    assert machine.count(workers, cpus_per_worker) == count


@pytest.mark.parametrize(
    "text",
    [
        "- a list",
        "machines: {}",
        "currency: EUR",
        "currency: EUR\nmachines: {m: {on_demand: 1}}",
        "currency: EUR\nmachines: {m: {cpus: 1, on_demand: -1}}",
        "currency: EUR\nmachines: {m: {cpus: 1, on_demand: .nan}}",
        "currency: EUR\nmachines: {m: {cpus: 1, on_demand: 1 USD}}",
        "currency: EUR\nmachines: {m: {cpus: 1, ondemand: 1}}",
        "currency: EUR\nmachines: {m: 3}",
        "currency: [",
    ],
)
def test_a_damaged_list_is_told(place: str, text: str) -> None:
    Path(place).write_text(text)
    with pytest.raises(ConfigError, match=r"is no price list .* as clusters/prices\.yaml"):
        read_prices(place)


def test_nothing_in_a_list_is_executed(place: str, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    Path(place).write_text(f"!!python/object/apply:os.mkdir ['{mark}']")
    with pytest.raises(ConfigError, match="is no price list"):
        read_prices(place)
    assert not mark.exists()


def test_a_list_under_a_uri(place: str, s3_uri: str) -> None:
    open_store(s3_uri).put_file(Path(place), "prices.yaml")
    assert read_prices(f"{s3_uri}/prices.yaml").price("box.8", "spot") == 12.5
    with pytest.raises(ConfigError, match="cannot be read"):
        read_prices(f"{s3_uri}/none.yaml")


def test_a_missing_list_is_an_error_where_something_needs_it(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "..")
    assert prices_of(CostConfig()) is None
    for wants in (CostConfig(max_cost=1.0), CostConfig(machine="box.8"), CostConfig(prices="no")):
        with pytest.raises(ConfigError, match="cannot be read"):
            prices_of(wants)
    found = prices_of(CostConfig(prices=place, machine="box.8"))
    assert found is not None
    with pytest.raises(ConfigError, match=r"Did you mean 'box\.8'"):
        prices_of(CostConfig(prices=place, machine="box.9"))


def test_a_negative_cap_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_cost = -1"):
        dataclasses.replace(CostConfig(), max_cost=-1.0)


def test_the_projects_own_list_can_be_read() -> None:
    prices = read_prices(str(Path(__file__).parents[2] / "clusters" / "prices.yaml"))
    assert prices.find("p5.48xlarge").gpus == 8
    assert prices.find("m7i.xlarge").inside == "4 CPUs"
