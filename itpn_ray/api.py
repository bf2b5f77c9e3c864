"""The verbs as Python functions: the same work, settings and errors as on the command line.

Settings are keyword arguments, groups of them mappings: ``finetune("nano", data="data/mine",
optim={"lr": 1e-3})`` is ``itpn-ray finetune nano --data data/mine --optim.lr 1e-3``. Each function
takes ``quiet=True`` to show warnings and summaries alone. Nothing heavy is imported before a call.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itpn_ray import keywords

if TYPE_CHECKING:
    from torch import nn

    from itpn_ray.models.weights.export import ExportReport
    from itpn_ray.terminal.console import Console

PathLike = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Run(os.PathLike[str]):
    """A run that has ended. It stands for its folder wherever a path is asked for.

    Attributes:
        path: its folder on this machine.
    """

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of each metric on held-out images, by name, e.g. ``top1`` in 0..1.

        Raises:
            DataError: a file of the run is damaged.
        """
        from itpn_ray.runs.listing import newest_metrics
        from itpn_ray.runs.reader import read_run

        return newest_metrics(read_run(self.path))

    @property
    def results(self) -> dict[str, Any]:
        """``results.json``: what was found at the end, tables too, such as accuracy by class.

        Raises:
            DataError: a file of the run is damaged.
        """
        from itpn_ray.runs.reader import read_run

        return read_run(self.path).results

    @property
    def report(self) -> Path:
        """``report.html``."""
        from itpn_ray.runs.folder import REPORT

        return self.path / REPORT

    def load_model(self) -> nn.Module:
        """The trained network, in eval mode on the CPU, see `itpn_ray.models.load_model`.

        Raises:
            CheckpointError: the run has exported no weights.
        """
        from itpn_ray.models import load_model

        return load_model(str(self.path))


def prepare(source: PathLike, out: PathLike, *, quiet: bool = False, **settings: Any) -> Path:
    """Turn raw images into shards with a manifest, as `itpn-ray prepare` does.

    Args:
        source: raw images in any layout.
        out: folder or URI for the prepared data.
        quiet: show warnings and summaries alone.
        settings: fields of `itpn_ray.data.prepare.config.PrepareConfig`.

    Returns:
        ``out``.

    Raises:
        ItpnError: settings or data that cannot be used.
    """
    from itpn_ray.commands.prepare import prepare_data
    from itpn_ray.data.prepare.config import PrepareConfig

    given = {"source": source, "out": out, **settings}
    prepare_data(keywords.settings(PrepareConfig, given), _console(quiet))
    return Path(out)


def pretrain(recipe: str, *, quiet: bool = False, **settings: Any) -> Run:
    """Pre-train by masked image and feature modelling; arguments as of `finetune`."""
    return _train("pretrain", recipe, quiet, settings)


def finetune(recipe: str, *, quiet: bool = False, **settings: Any) -> Run:
    """Fine-tune a classifier, or resume the run of that name.

    Args:
        recipe: a name that `itpn-ray finetune --help` lists, such as ``nano``.
        quiet: show warnings and summaries alone.
        settings: fields of `itpn_ray.experiment.ExperimentConfig` that the recipe has otherwise,
            such as ``data``, ``run``, and ``optim={"lr": 1e-3}``.

    Returns:
        The run, ended.

    Raises:
        ItpnError: settings or data that cannot be used, or an error within the run.
    """
    return _train("finetune", recipe, quiet, settings)


def detect(recipe: str, *, quiet: bool = False, **settings: Any) -> Run:
    """Train a detector; arguments as of `finetune`."""
    return _train("detect", recipe, quiet, settings)


def segment(recipe: str, *, quiet: bool = False, **settings: Any) -> Run:
    """Train a segmenter; arguments as of `finetune`."""
    return _train("segment", recipe, quiet, settings)


def tune(recipe: str, *, quiet: bool = False, **settings: Any) -> Run:
    """Sweep settings, as `itpn-ray tune` does.

    Args:
        recipe: a name that `itpn-ray tune --help` lists.
        quiet: show warnings and summaries alone.
        settings: fields of `itpn_ray.tuning.config.SweepConfig`; ``space`` is a list of texts such
            as ``"optim.lr log 1e-4 3e-3"``.

    Returns:
        The sweep; ``results`` has its trials and its answer.

    Raises:
        ItpnError: settings or data that cannot be used, or no trial came to its end.
    """
    from itpn_ray.recipes import named, recipes_of
    from itpn_ray.tuning.config import SweepConfig

    config = keywords.settings(SweepConfig, settings, named(recipes_of("tune"), recipe))
    from itpn_ray.tuning.sweep import sweep

    command = keywords.call("tune", recipe, **settings)
    return Run(sweep(config, command=command, console=_console(quiet)))


def evaluate(weights: PathLike, data: PathLike, *, quiet: bool = False, **settings: Any) -> Run:
    """Accuracy and images/s from weights alone, at any migration ratio.

    Args:
        weights: a run, its folder, or a weight file.
        data: prepared data.
        quiet: show warnings and summaries alone.
        settings: fields of `itpn_ray.commands.evaluate.config.EvaluateConfig`.

    Returns:
        The evaluation; ``results["migration"]`` has a row for each ratio.

    Raises:
        ItpnError: settings, weights or data that cannot be used.
    """
    from itpn_ray.commands.evaluate.config import EvaluateConfig

    given = {"weights": weights, "data": data, **settings}
    config = keywords.settings(EvaluateConfig, given)
    from itpn_ray.commands.evaluate.run import evaluate as measure

    command = keywords.call("evaluate", **given)
    return Run(measure(config, command=command, console=_console(quiet)))


def predict(weights: PathLike, folder: PathLike, *, quiet: bool = False, **settings: Any) -> Path:
    """What a network says of an image, or of each one of a folder.

    Args:
        weights: a run, its folder, or a weight file.
        folder: with images, in folders or not; or one image.
        quiet: show warnings and summaries alone.
        settings: fields of `itpn_ray.commands.predict.config.PredictConfig`.

    Returns:
        The folder of the results, with ``results.json`` and ``drawn/``.

    Raises:
        ItpnError: settings, weights or images that cannot be used.
    """
    from itpn_ray.commands.predict.config import PredictConfig

    given = {"weights": weights, "folder": folder, **settings}
    config = keywords.settings(PredictConfig, given)
    from itpn_ray.commands.predict.run import predict as ask

    ask(config, console=_console(quiet))
    return Path(config.out)


def features(weights: PathLike, images: PathLike, *, quiet: bool = False, **settings: Any) -> Run:
    """Embeddings of images, and how well they tell classes apart.

    Args:
        weights: a run, its folder, or a weight file.
        images: a folder of images, or prepared data.
        quiet: show warnings and summaries alone.
        settings: fields of `itpn_ray.commands.features.config.FeaturesConfig`.

    Returns:
        The run; its folder holds ``features.parquet``.

    Raises:
        ItpnError: settings, weights or images that cannot be used.
    """
    from itpn_ray.commands.features.config import FeaturesConfig

    given = {"weights": weights, "images": images, **settings}
    config = keywords.settings(FeaturesConfig, given)
    from itpn_ray.commands.features.run import extract

    command = keywords.call("features", **given)
    return Run(extract(config, command=command, console=_console(quiet)))


def export(
    weights: PathLike, out: PathLike, *, quiet: bool = False, **settings: Any
) -> ExportReport:
    """Write a network for other programs: safetensors, torch.export, ONNX, the Hugging Face Hub.

    Args:
        weights: a run, its folder, or a weight file.
        out: the file to write; its ending names the format. With ``format="huggingface"`` a folder.
        quiet: show warnings and summaries alone.
        settings: fields of `itpn_ray.models.weights.config.ExportConfig`.

    Returns:
        What was written.

    Raises:
        ItpnError: settings or weights that cannot be used.
    """
    from itpn_ray.commands.export import export_shown
    from itpn_ray.models.weights.config import ExportConfig

    given = {"file": weights, "out": out, **settings}
    return export_shown(keywords.settings(ExportConfig, given), _console(quiet))


def _train(verb: str, recipe: str, quiet: bool, settings: dict[str, Any]) -> Run:
    from itpn_ray.experiment import ExperimentConfig
    from itpn_ray.recipes import named, recipes_of

    config = keywords.settings(ExperimentConfig, settings, named(recipes_of(verb), recipe))
    from itpn_ray.training.launch.driver import run

    command = keywords.call(verb, recipe, **settings)
    return Run(run(config, command=command, console=_console(quiet)))


def _console(quiet: bool) -> Console:
    from itpn_ray.terminal.console import Console

    return Console(verbosity="quiet" if quiet else "normal")
