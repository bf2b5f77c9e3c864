"""What people see of a long run: a live display in a terminal, plain lines anywhere else.

The driver follows the run's folder; ``train.log`` always gets the plain lines.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from itpn_ray.formatting import show_duration, show_metric, show_value
from itpn_ray.runs.folder import LOG, REPORT
from itpn_ray.runs.journal import METRICS, RESULTS
from itpn_ray.terminal.run_progress import RunFolder, RunProgress
from itpn_ray.tracking.redact import redact

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

Verbosity = Literal["quiet", "normal", "verbose"]
_POLL_SECONDS = 0.25
_PATIENCE = 5.0
"""Seconds after which it is said that workers have not come yet."""
_THINGS = (
    ("report", REPORT),
    ("weights", "exported/model.safetensors"),
    ("checkpoint", "checkpoints/last"),
    ("results", RESULTS),
    ("curves", METRICS),
    ("log", LOG),
)


class Console:
    """Where messages and progress go.

    Args:
        verbosity: ``quiet`` shows warnings and summaries, ``verbose`` details as well.
        stream: where to write; standard output by default.
        log: a file that gets every line, whatever the verbosity.
        plain_seconds: time between two progress lines where there is no live display.
    """

    def __init__(
        self,
        *,
        verbosity: Verbosity = "normal",
        stream: TextIO | None = None,
        log: str | Path | None = None,
        plain_seconds: float = 5.0,
    ) -> None:
        self.verbosity = verbosity
        self._stream = sys.stdout if stream is None else stream
        self._log = None if log is None else Path(log)
        self._plain_seconds = plain_seconds
        self._live: Live | None = None
        self._unread = False
        self._lock = threading.Lock()

    @property
    def is_live(self) -> bool:
        """Whether the stream is a terminal that shows a moving display."""
        return self._stream.isatty() and self.verbosity != "quiet"

    def log_to(self, path: str | Path) -> None:
        """Append every line to this file from now on."""
        self._log = Path(path)
        self._log.parent.mkdir(parents=True, exist_ok=True)

    def say(self, text: str) -> None:
        """A message; not shown when quiet."""
        self._write(text, shown=self.verbosity != "quiet")

    def detail(self, text: str) -> None:
        """A message shown only when verbose."""
        self._write(text, shown=self.verbosity == "verbose")

    def warn(self, text: str) -> None:
        """A message shown always."""
        self._write(f"warning: {text}", shown=True)

    @contextmanager
    def follow(self, run_dir: str | Path, *, title: str = "") -> Iterator[None]:
        """Show the progress of a run for the length of a ``with`` block, from a thread.

        Args:
            run_dir: the run's folder, whose records are followed.
            title: what runs; the folder's name by default.
        """
        progress = RunProgress()
        folder = RunFolder(run_dir, progress)
        stopped = threading.Event()
        thread = threading.Thread(
            target=self._show, args=(folder, progress, stopped, title or Path(run_dir).name)
        )
        thread.daemon = True
        with self._live_display() as live:
            self._live = live
            thread.start()
            try:
                yield
            finally:
                stopped.set()
                thread.join()
                self._live = None

    def summary(
        self,
        run_dir: str | Path,
        lines: Sequence[str] = (),
        *,
        metrics: Mapping[str, str] | None = None,
        where: Mapping[str, str] | None = None,
    ) -> None:
        """Say where the results are and how to load them; shown even when quiet.

        Args:
            run_dir: the run's folder; of its usual files, those that exist are named.
            lines: the lines of Python that load the result.
            metrics: the result in a few metrics, as text by name.
            where: more places by name, e.g. the tracker's.
        """
        folder = Path(run_dir)
        places = {name: str(folder / file) for name, file in _THINGS if (folder / file).exists()}
        rows = {**(metrics or {}), **places, **{n: w for n, w in (where or {}).items() if w}}
        width = max(map(len, rows), default=0)
        text = [f"  {name:<{width}}  {value}" for name, value in rows.items()]
        code = ["", "Load it in Python:", *(f"    {line}" for line in lines)] if lines else []
        for line in ["", f"{folder.name} is done.", *text, *code, ""]:
            self._write(line, shown=True)

    def table(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows as aligned columns, one for each name that turns up; not shown when quiet."""
        names = list(dict.fromkeys(name for row in rows for name in row))
        lines = [names, *([show_value(name, row.get(name)) for name in names] for row in rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
        for line in lines:
            cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            self.say("  ".join(cells).rstrip())

    def _live_display(self) -> AbstractContextManager[Live | None]:
        if not self.is_live:
            return nullcontext()
        from rich.console import Console as Terminal
        from rich.live import Live

        # Ray and libraries print as they like; redirected, they land above the display.
        return Live(console=Terminal(file=self._stream), auto_refresh=False, transient=True)

    def _show(
        self, folder: RunFolder, progress: RunProgress, stopped: threading.Event, title: str
    ) -> None:
        begun = time.monotonic()
        last, next_line = "", begun + self._plain_seconds
        running = True
        while running:
            running = not stopped.wait(_POLL_SECONDS)
            for line in folder.poll():
                self.say(line)
            now, line = time.monotonic(), progress.line(time.time())
            if self._live is not None:
                self._live.update(render(progress, title, now - begun), refresh=True)
            if not progress.workers:
                line = f"{line}: {show_duration(now - begun)}"
            due = now >= next_line or not running
            if line != last and due and (progress.workers or now - begun >= _PATIENCE):
                last, next_line = line, now + self._plain_seconds
                self._write(line, shown=self.verbosity != "quiet" and not (running and self._live))

    def _write(self, text: str, *, shown: bool) -> None:
        text = redact(text)
        with self._lock:
            if self._log is not None:
                stamp = time.strftime("%Y-%m-%d %H:%M:%S")
                with self._log.open("a") as log:
                    log.writelines(f"{stamp}  {line}\n" for line in text.splitlines() if line)
            if not shown:
                return
            if self._live is not None:
                self._live.console.print(text, markup=False, highlight=False)
            elif not self._unread:
                try:
                    print(text, file=self._stream, flush=True)
                except BrokenPipeError:  # who read along has gone, which is no end of the work
                    self._unread = True


def render(progress: RunProgress, title: str, elapsed: float) -> Group:
    """The live display: a bar, the metrics below it, and a line a worker."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    first = progress.first
    head = Table.grid(padding=(0, 2))
    steps = f"{first['step']}/{first.get('steps', '?')}" if "step" in first else "starting"
    bar = ProgressBar(total=1.0, completed=progress.fraction, width=32)
    head.add_row(Text(title, "bold"), bar, f"{100 * progress.fraction:3.0f} %", steps)
    shown = [
        f"{name} {form.format(first[name])}"
        for name, form in (("epoch", "{:.2f}"), ("loss", "{:.4f}"))
        if first.get(name) is not None
    ]
    if first.get("images_per_s") is not None:
        shown.append(f"images/s {show_metric('images_per_s', first['images_per_s'])}")
    eta = "…" if progress.eta is None else show_duration(progress.eta)
    shown += [f"ETA {eta}", f"elapsed {show_duration(elapsed)}"]
    workers = progress.worker_lines(time.time()) or ["waiting for the workers"]
    return Group(
        head, Text("   ".join(shown)), *(Text(f"  {line}", style="dim") for line in workers)
    )
