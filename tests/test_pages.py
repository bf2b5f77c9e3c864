import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from itpn_ray.pages import keep_pages
if sys.argv[1] == "kept":
    keep_pages()
def step():
    held = [torch.ones(2**21) for _ in range(12)]  # 8 MiB each
    held.clear()
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's switch")
def test_freed_memory_is_used_again_without_the_system() -> None:
    found = {}
    for how in ("as it is", "kept"):
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True
        )
        found[how] = int(done.stdout)
    assert found["as it is"] > 10 * (found["kept"] + 1)
