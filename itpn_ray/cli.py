"""The command line: one verb a command, heavy imports only once a verb runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from itpn_ray import checks
from itpn_ray.errors import ConfigError, ItpnError

if TYPE_CHECKING:
    from itpn_ray.terminal.console import Console

T = TypeVar("T")
USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb; exit with 0, 1 for a defect, 2 for a mistake in the input, 130 for Ctrl-C."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run a verb and return its exit code."""
    verbose = "-v" in arguments or "--verbose" in arguments
    rest = [argument for argument in arguments if argument not in ("-v", "--verbose")]
    if not rest or rest[0] in ("-h", "--help"):
        print(overview())
        return 0
    verb, *rest = rest
    try:
        checks.one_of("verb", verb, VERBS)
        return VERBS[verb][0](rest, verbose)
    except ItpnError as error:
        print(f"itpn-ray {verb}: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print(f"itpn-ray {verb}: interrupted; repeat the command to go on", file=sys.stderr)
        return 130


def overview() -> str:
    """What `itpn-ray --help` prints."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:{width}}  {help_line}" for verb, (_, help_line) in VERBS.items()]
    return "\n".join(
        [
            "usage: itpn-ray VERB [...] [-v]",
            "",
            "Pre-train, fine-tune and tune Fast-iTPN on your own images with Ray.",
            "",
            *lines,
            "",
            "itpn-ray VERB --help lists a verb's options; -v shows what Ray prints.",
        ]
    )


def parse(cls: Callable[..., T], arguments: list[str], prog: str, default: T | None = None) -> T:
    """Parse options into a settings class; a mistyped one names the nearest right one.

    Raises:
        SystemExit: 0 after --help, 2 after a mistake.
    """
    import tyro

    options: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(
        cls,
        prog=f"itpn-ray {prog}",
        args=arguments,
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
        **options,
    )


def split_recipe(arguments: list[str], verb: str, recipes: Any) -> tuple[str, list[str]]:
    """The recipe's name and the rest.

    Raises:
        ConfigError: no recipe is named.
        SystemExit: after --help.
    """
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    if "-h" in arguments or "--help" in arguments:
        print(f"usage: itpn-ray {verb} RECIPE [OPTIONS]\n\nrecipes:")
        width = max(map(len, recipes))
        for name, recipe in recipes.items():
            print(f"  {name:{width}}  {(recipe.__doc__ or '').splitlines()[0]}")
        print(f"\nitpn-ray {verb} RECIPE --help lists the options.")
        raise SystemExit(0)
    raise ConfigError("recipe", None, "is missing", f"Known: {', '.join(recipes)}")


def _train(verb: str, arguments: list[str], verbose: bool) -> int:
    import importlib

    from itpn_ray.experiment import ExperimentConfig
    from itpn_ray.recipes import named

    recipes = importlib.import_module(f"itpn_ray.recipes.{verb}").RECIPES
    name, rest = split_recipe(arguments, verb, recipes)
    config = parse(ExperimentConfig, rest, f"{verb} {name}", named(recipes, name))
    from itpn_ray.training.launch.driver import run as train

    train(config, command=_command(verb, arguments), console=_console(verbose))
    return 0


def _pretrain(arguments: list[str], verbose: bool) -> int:
    return _train("pretrain", arguments, verbose)


def _finetune(arguments: list[str], verbose: bool) -> int:
    return _train("finetune", arguments, verbose)


def _detect(arguments: list[str], verbose: bool) -> int:
    return _train("detect", arguments, verbose)


def _console(verbose: bool) -> Console:
    from itpn_ray.terminal.console import Console

    return Console(verbosity="verbose" if verbose else "normal")


def _command(verb: str, arguments: list[str]) -> str:
    import shlex

    return shlex.join(["itpn-ray", verb, *arguments])


def _synthesize(arguments: list[str], verbose: bool) -> int:
    from itpn_ray.data.prepare.config import SynthesizeConfig

    config = parse(SynthesizeConfig, arguments, "synthesize")
    from itpn_ray.data.synthetic.layouts import generate
    from itpn_ray.terminal.item_progress import progress_bar

    console = _console(verbose)
    with progress_bar(console, "drawing images") as count:
        folder = generate(config, count)
    console.say(f"{config.train} + {config.val} images lie in {folder}")
    return 0


def _prepare(arguments: list[str], verbose: bool) -> int:
    from itpn_ray.data.prepare.config import PrepareConfig

    config = parse(PrepareConfig, arguments, "prepare")
    from itpn_ray.data.prepare.driver import prepare
    from itpn_ray.terminal.item_progress import progress_bar

    console = _console(verbose)
    with progress_bar(console, "preparing images") as count:
        manifest = prepare(config, lambda now: count(now.images, now.total_images))
    for split, info in manifest.splits.items():
        console.say(
            f"{split}: {info.count:,} images of {len(manifest.classes)} classes in "
            f"{len(info.shards)} shards"
        )
    if manifest.quarantined:
        console.warn(
            f"{manifest.quarantined:,} images or objects cannot be used: "
            f"see {config.out}/quarantine.csv"
        )
    console.say(f"the prepared data lie in {config.out}")
    return 0


def _plan(arguments: list[str], verbose: bool) -> int:
    from itpn_ray.commands.plan.config import PlanConfig
    from itpn_ray.recipes import detect, finetune, named, pretrain

    recipes = {**finetune.RECIPES, **pretrain.RECIPES}
    verb, rest = "plan", arguments
    for kind, own in (("finetune", finetune.RECIPES), ("detect", detect.RECIPES)):
        if arguments[:1] == [kind]:  # some networks have a recipe of the same name in several
            verb, rest, recipes = f"plan {kind}", arguments[1:], own
    name, rest = split_recipe(rest, verb, recipes)
    config = parse(PlanConfig, rest, f"{verb} {name}", PlanConfig(experiment=named(recipes, name)))
    from itpn_ray.commands.plan.run import plan

    plan(config, name=name, console=_console(verbose))
    return 0


def _cache_teacher(arguments: list[str], verbose: bool) -> int:
    from itpn_ray.commands.cache_teacher.config import CacheTeacherConfig
    from itpn_ray.recipes import named
    from itpn_ray.recipes.pretrain import RECIPES

    name, rest = split_recipe(arguments, "cache-teacher", RECIPES)
    default = CacheTeacherConfig(experiment=named(RECIPES, name))
    config = parse(CacheTeacherConfig, rest, f"cache-teacher {name}", default)
    from itpn_ray.commands.cache_teacher.run import cache_teacher

    cache_teacher(config, console=_console(verbose))
    return 0


def _evaluate(arguments: list[str], verbose: bool) -> int:
    from itpn_ray.commands.config import EvaluateConfig

    config = parse(EvaluateConfig, arguments, "evaluate")
    from itpn_ray.commands.evaluate.run import evaluate

    evaluate(config, command=_command("evaluate", arguments), console=_console(verbose))
    return 0


def _predict(arguments: list[str], verbose: bool) -> int:
    from itpn_ray.commands.predict.config import PredictConfig

    config = parse(PredictConfig, arguments, "predict")
    from itpn_ray.commands.predict.run import predict

    predict(config, console=_console(verbose))
    return 0


def _tune(arguments: list[str], verbose: bool) -> int:
    from itpn_ray.recipes import named
    from itpn_ray.recipes.tune import RECIPES
    from itpn_ray.tuning.config import SweepConfig

    name, rest = split_recipe(arguments, "tune", RECIPES)
    config = parse(SweepConfig, rest, f"tune {name}", named(RECIPES, name))
    from itpn_ray.tuning.sweep import sweep

    sweep(config, command=_command("tune", arguments), console=_console(verbose))
    return 0


def _inspect(arguments: list[str], verbose: bool) -> int:
    from itpn_ray.models.weights.config import InspectConfig

    config = parse(InspectConfig, _file_first(arguments), "inspect FILE")
    from itpn_ray.models.weights.inspect import inspect_file

    rows = inspect_file(config).rows()
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        _console(verbose).say(f"{name:{width}}  {value}")
    return 0


def _export(arguments: list[str], verbose: bool) -> int:
    from itpn_ray.models.weights.config import ExportConfig

    config = parse(ExportConfig, _file_first(arguments), "export FILE")
    from itpn_ray.models.weights.export import export

    report = export(config)
    console = _console(verbose)
    console.say(f"{report.path}: {report.size_bytes / 1e6:.1f} MB, {', '.join(report.outputs)}")
    if report.difference is not None:
        worst = f"{report.difference:.2e} of values up to {report.scale:.3g}"
        console.say(f"largest difference {worst}")
    return 0


def _visualize(arguments: list[str], verbose: bool) -> int:
    from itpn_ray.models.weights.config import VisualizeConfig

    config = parse(VisualizeConfig, _file_first(arguments), "visualize FILE")
    from itpn_ray.models.networks.visualize import visualize

    _console(verbose).say(f"the map: {visualize(config)}")
    return 0


def _file_first(arguments: list[str]) -> list[str]:
    """`FILE --option ...` as `--file FILE --option ...`."""
    named = arguments[:1] and not arguments[0].startswith("-")
    return ["--file", *arguments] if named else arguments


def _verify_resume(arguments: list[str], verbose: bool) -> int:
    from itpn_ray.commands.config import VerifyConfig

    config = parse(VerifyConfig, arguments, "verify-resume")
    from itpn_ray.commands.verify_resume.run import verify_resume

    verdict = verify_resume(config)
    console = _console(verbose)
    console.say(f"left alone  {verdict.whole}")
    console.say(f"killed      {verdict.killed}")
    for (step, rank), seconds in zip(verdict.kills, verdict.restart_s, strict=False):
        console.say(f"  rank {rank} near step {step}; next step {seconds:.1f} s later")
    console.say("bit-equal" if verdict.equal else "NOT EQUAL")
    return 0 if verdict.equal else 1


def _chaos(arguments: list[str], verbose: bool) -> int:
    from itpn_ray.commands.config import ChaosConfig

    config = parse(ChaosConfig, arguments, "chaos")
    from itpn_ray.commands.chaos.run import chaos

    chaos(config, _console(verbose))
    return 0


def _doctor(arguments: list[str], verbose: bool) -> int:
    from itpn_ray.data.doctor.config import DoctorConfig

    config = parse(DoctorConfig, arguments, "doctor")
    from itpn_ray.data.doctor.annotations import annotated, source_doctor
    from itpn_ray.data.doctor.fault_list import FaultList
    from itpn_ray.data.doctor.prepared import doctor
    from itpn_ray.terminal.item_progress import progress_bar

    console = _console(verbose)
    source = annotated(config.data, config.format)
    examine = partial(doctor, config.data) if source is None else partial(source_doctor, source)
    with FaultList(config.out) as faults, progress_bar(console, "examining images") as count:
        health = examine(faults, threads=config.threads, count=count)
    for line in health.lines():
        console.say(line)
    return 0 if health.sound else 1


def _preview(arguments: list[str], verbose: bool) -> int:
    from itpn_ray.data.config import LoaderConfig, PreviewConfig

    data, rest = _place(arguments, "preview")
    config = parse(
        PreviewConfig, rest, "preview DATA", PreviewConfig(loader=LoaderConfig(transport="threads"))
    )
    from itpn_ray.report.preview import preview
    from itpn_ray.tasks.pixel_pretraining.masking import hidden_patches

    hide = hidden_patches(seed=config.seed, epoch=config.epoch, image_size=config.image_size)
    _console(verbose).say(
        f"the contact sheet: {preview(data, 'preview.html', config=config, hide=hide)}"
    )
    return 0


def _place(arguments: list[str], verb: str) -> tuple[str, list[str]]:
    """The data set that a verb looks at, and the rest.

    Raises:
        ConfigError: none is named.
    """
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    if "-h" in arguments or "--help" in arguments:
        print(f"usage: itpn-ray {verb} DATA [OPTIONS]\n\n{VERBS[verb][1]}")
        raise SystemExit(0)
    raise ConfigError("data", None, "is missing", f"Write itpn-ray {verb} DATA")


def _submit(arguments: list[str], verbose: bool) -> int:
    from jobs.config import SubmitConfig

    options, verb = _at_separator(arguments)
    config = parse(SubmitConfig, options, "submit")
    if not verb:
        raise ConfigError(
            "submit", None, "names no verb", "Write itpn-ray submit [OPTIONS] -- pretrain nano ..."
        )
    from jobs.submit import submit

    return submit(config, verb)


def _demo(arguments: list[str], verbose: bool) -> int:
    from itpn_ray.commands.demo.config import DemoConfig

    config = parse(DemoConfig, arguments, "demo")
    from itpn_ray.commands.demo.run import demo

    demo(config, console=_console(verbose))
    return 0


def _at_separator(arguments: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in arguments:
        return arguments, []
    place = arguments.index("--")
    return arguments[:place], arguments[place + 1 :]


VERBS: dict[str, tuple[Callable[[list[str], bool], int], str]] = {
    "demo": (_demo, "the whole main job on embedded images, in minutes on a laptop"),
    "synthesize": (_synthesize, "draw the embedded labelled images in a data set's true format"),
    "prepare": (_prepare, "turn raw images into shards with a manifest"),
    "plan": (_plan, "what a run would take: parameters, memory, seconds a step, hours, money"),
    "cache-teacher": (
        _cache_teacher,
        "write a CLIP teacher's features once, for runs to read back",
    ),
    "pretrain": (_pretrain, "pre-train by masked image and feature modelling"),
    "finetune": (_finetune, "fine-tune a classifier from pre-trained weights"),
    "detect": (_detect, "train a detector from pre-trained weights, trunk and pyramid"),
    "evaluate": (_evaluate, "accuracy and images/s from weights alone, at any migration ratio"),
    "predict": (_predict, "a folder of images -> what is in them, as JSON and drawn"),
    "tune": (_tune, "sweep λ, layer decay and r: accuracy against images/s"),
    "inspect": (_inspect, "what a weight file holds"),
    "export": (_export, "weights for other programs: safetensors, torch.export, ONNX"),
    "visualize": (_visualize, "attention or migration drawn over an image"),
    "doctor": (_doctor, "look annotations or prepared data over: faults, balance, duplicates"),
    "preview": (_preview, "a contact sheet of prepared images as the network sees them"),
    "verify-resume": (_verify_resume, "the kill test on a run's own configuration"),
    "chaos": (_chaos, "faults on request: killed workers, a full disk, a flaky S3"),
    "submit": (_submit, "run any verb as a job on a Ray cluster"),
}
"""Verb -> what runs it, and its line in the overview."""


if __name__ == "__main__":
    main()
