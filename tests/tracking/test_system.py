import threading

from itpn_ray.tracking.system import SystemSampler, parse_gpu_table, system_metrics


def test_the_machine_is_measured_in_the_units_named() -> None:
    metrics = system_metrics()
    assert 0 <= metrics["system/cpu_utilization_percentage"] <= 100
    assert 0 < metrics["system/system_memory_usage_percentage"] <= 100
    assert metrics["system/system_memory_usage_megabytes"] > 10


def test_gpu_table_leaves_out_what_a_device_does_not_tell() -> None:
    table = "37, 1024, 81559, 210.5\n0, 3, 81559, [N/A]\n"
    assert parse_gpu_table(table) == {
        "system/gpu_0_utilization_percentage": 37.0,
        "system/gpu_0_memory_usage_megabytes": 1024.0,
        "system/gpu_0_memory_total_megabytes": 81559.0,
        "system/gpu_0_power_usage_watts": 210.5,
        "system/gpu_1_utilization_percentage": 0.0,
        "system/gpu_1_memory_usage_megabytes": 3.0,
        "system/gpu_1_memory_total_megabytes": 81559.0,
    }


def test_the_sampler_samples_until_it_is_stopped() -> None:
    samples, came, failed = [], threading.Event(), []

    def log(metrics: dict[str, float]) -> None:
        if not failed:
            failed.append(ConnectionError("the tracker does not answer"))
            raise failed[0]
        samples.append(metrics)
        came.set()

    sampler = SystemSampler(log, interval=0.01)
    sampler.start()
    assert came.wait(120)
    sampler.stop()
    count = len(samples)
    assert not came.wait(0) or len(samples) == count
    assert all("system/cpu_utilization_percentage" in sample for sample in samples)
