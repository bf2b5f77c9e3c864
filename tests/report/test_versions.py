import os
import subprocess
import sys

from itpn_ray.report.versions import hardware, versions


def test_versions_are_found_without_importing_anything_heavy() -> None:
    code = (
        "import sys\n"
        "from itpn_ray.report.versions import hardware, versions\n"
        "versions(), hardware()\n"
        "sys.exit(str({'torch', 'ray', 'timm', 'mlflow'} & set(sys.modules) or 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() in ("", "0")
    found = versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"itpn-ray", "torch", "timm", "ray"} <= set(found)


def test_the_machine_is_described() -> None:
    found = hardware()
    assert int(found["cores"]) >= 1
    assert found["memory"].endswith(" GiB")
    assert found["processor"]


def test_cores_are_counted_where_the_system_knows_no_affinity(monkeypatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    assert hardware()["cores"] == str(os.cpu_count())
