"""What a part works with: the device, the sizes, the time left, and the lines it writes.

A case that fails or comes too late is a line of the results too, so that one that a card refuses
costs the others nothing; the command ends with exit code 1 where any failed.
"""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.gpu.results import PartResult
from benchmarks.gpu.scale import Scale
from benchmarks.lib.interleave import Case, interleave
from itpn_ray.training.mfu import peak_flops

Line = dict[str, Any]
"""One line of the results: what was measured, and what came out."""


@dataclass(kw_only=True)
class Bench:
    """One run of one part.

    Attributes:
        device: where everything runs.
        scale: how large it is.
        scratch: a folder for files that are thrown away.
        result: where lines go.
        deadline: `time.monotonic` after which no further case begins.
    """

    device: torch.device
    scale: Scale
    scratch: Path
    result: PartResult
    deadline: float

    @property
    def on_card(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def peak(self) -> float:
        """The card's bf16 operations a second by its data sheet; 0 if unknown, or on a CPU."""
        return peak_flops(torch.cuda.get_device_name(self.device)) if self.on_card else 0.0

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16, as training has it on a GPU."""
        return torch.autocast(self.device.type, torch.bfloat16)

    def compile(self, call: Any) -> Any:
        """A network or a function through torch.compile, for one shape."""
        return torch.compile(call, dynamic=False, backend=self.scale.backend)

    def batch(self, height: int, width: int) -> int:
        """Images of a batch of this size."""
        return max(1, self.scale.pixels // (height * width))

    def attempt(self, line: Line, case: Callable[[], Line | None]) -> bool:
        """Run a case and write its line, with what it returns; whether it came to its end.

        Args:
            line: what is measured.
            case: measures it; None writes no line yet.
        """
        found: Line | None
        if time.monotonic() > self.deadline:
            found = {"skipped": "the part's time was over"}
        else:
            try:
                found = case()
            except Exception as error:  # the whole trace goes to the log, the line says which
                traceback.print_exc()
                found = {"failed": f"{type(error).__name__}: {str(error).splitlines()[:1]}"}
        if found is not None:
            self.result.add({**line, **found})
        self.tidy()
        return found is None or not {"failed", "skipped"} & found.keys()

    def time(self, cases: Mapping[str, tuple[Line, Callable[[], Case]]]) -> dict[str, float]:
        """Median seconds of one call of each case, timed in turn; those that fail are left out.

        Args:
            cases: name -> its line, written where the case fails; and what makes the call.
        """
        made: dict[str, Case] = {}

        def prepare(name: str, make: Callable[[], Case]) -> None:
            call = make()
            call()  # compiles, and chooses kernels
            made[name] = call

        for name, (line, make) in cases.items():
            self.attempt(line, lambda name=name, make=make: prepare(name, make))
        if not made:
            return {}
        repeats, least = self.scale.repeats, self.scale.least
        return interleave(made, self.device, repeats=repeats, least=least)

    def memory_gb(self, call: Case) -> float | None:
        """Most memory of the card during a call, 10^9 bytes; None on a CPU."""
        if not self.on_card:
            return None
        torch.cuda.reset_peak_memory_stats(self.device)
        call()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) / 1e9

    def tidy(self) -> None:
        """Give memory that nobody holds back to the card."""
        if self.on_card:
            gc.collect()  # a quarter of the time of a dry run, which has nothing to give back
            torch.cuda.empty_cache()


def rates(bench: Bench, batch: int, seconds: float, multiply_adds: float) -> Line:
    """Images, operations and model FLOPs utilisation of a call; two operations a multiply-add.

    Args:
        bench: whose card it is.
        batch: images a call.
        seconds: of a call.
        multiply_adds: of an image in the call.
    """
    flops = 2 * multiply_adds * batch / seconds
    return {
        "batch": batch,
        "images_per_s": batch / seconds,
        "tflops": flops / 1e12,
        "mfu": flops / bench.peak if bench.peak else None,
    }


def training_step(
    bench: Bench, network: nn.Module, loss: Callable[[], torch.Tensor], lr: float = 1e-5
) -> Case:
    """Forward under autocast, backward, fused AdamW: a step on float32 weights."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, fused=True)

    def step() -> None:
        with bench.autocast():
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def captured(bench: Bench, call: Case) -> Case:
    """A call as one CUDA graph; on a CPU the call itself."""
    if not bench.on_card:
        return call
    stream = torch.cuda.Stream(bench.device)
    stream.wait_stream(torch.cuda.current_stream(bench.device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream(bench.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = call()

    def replay() -> object:
        graph.replay()
        return kept  # what the graph writes stays allocated

    return replay
