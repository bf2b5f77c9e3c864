from itpn_ray.tracking import MemoryTracker, NoopTracker, flatten


def test_flatten_joins_names_with_dots_and_keeps_empty_groups() -> None:
    nested = {"optim": {"lr": 0.1, "betas": (0.9, 0.95)}, "ray": {}, "seed": 1}
    assert flatten(nested) == {
        "optim.lr": 0.1, "optim.betas": (0.9, 0.95), "ray": {}, "seed": 1
    }  # fmt: skip


def test_memory_continues_the_run_of_a_key() -> None:
    first = MemoryTracker()
    first.start("run", {"lr": 1, "uri": "s3://a:b@c"}, key="k")
    first.log_metrics({"loss": 2.0}, 0)
    first.finish("FAILED")
    second = MemoryTracker(first.runs)
    second.start("run", {"lr": 1, "epochs": 3}, key="k")
    assert second.run.status == "RUNNING"
    second.log_metrics({"loss": 9.0}, 0)
    second.log_metrics({"loss": 1.0}, 1)
    second.log_artifact("/x/config.json", "config")
    second.log_artifact("/x/config.json", "config")
    second.finish()
    assert len(second.runs) == 1
    run = second.runs["k"]
    assert run.params == {"lr": "1", "uri": "s3://***@c", "epochs": "3"}
    assert run.metrics == {"loss": {0: 2.0, 1: 1.0}}
    assert run.artifacts == ["config/config.json"]
    assert run.status == "FINISHED"


def test_noop_has_nowhere_to_look() -> None:
    tracker = NoopTracker()
    tracker.start("run", {}, key="k")
    tracker.log_metrics({"loss": 1.0}, 0)
    tracker.finish()
    assert tracker.where == ""
