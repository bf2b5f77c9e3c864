import os
import platform
import subprocess
import sys

import pytest

# mallinfo2's ten size_t fields: arena is the first, fordblks (free, but kept) the ninth. glibc's
# own account, because page faults are not counted in every sandbox.
KEPT_FREE = """
import ctypes, sys, torch
from itpn_ray.allocator import keep_pages
class MallInfo(ctypes.Structure):
    _fields_ = [(f"field{i}", ctypes.c_size_t) for i in range(10)]
mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = MallInfo
if sys.argv[1] == "kept":
    keep_pages()
held = [torch.ones(30 * 2**18) for _ in range(4)]  # 30 MiB each: more than any import has freed
held.clear()
print(mallinfo().field8)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc"
    or tuple(map(int, platform.libc_ver()[1].split("."))) < (2, 33),
    reason="mallinfo2 came with glibc 2.33",
)
def test_freed_memory_is_kept_for_the_next_tensors() -> None:
    own = ("LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_")  # what would change the allocator by itself
    plain = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    found = {}
    for how in ("as it is", "kept"):
        command = [sys.executable, "-c", KEPT_FREE, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=plain)
        found[how] = int(done.stdout)
    assert found["kept"] >= 4 * 30 * 2**20
    assert found["as it is"] < 30 * 2**20
