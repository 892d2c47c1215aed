"""What each command does. Results go to standard output, messages about mistakes to standard error."""

from __future__ import annotations

import json
import logging
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

from kdhooks.backend import backend_of, load_backend
from kdhooks.cli import factories, reported
from kdhooks.config import DistillationConf
from kdhooks.config.adaptation import adapted_layers
from kdhooks.config.mappings import taps_of
from kdhooks.config.search_stages import stage_taps
from kdhooks.errors import ConfigError, MissingPackageError, UsageError
from kdhooks.messages import is_rank_zero, logger

WEIGHT_FILES = {"pytorch": (".pt", ".pth", ".safetensors"), "tensorflow": (".weights.h5", ".keras", ".safetensors")}
"""How names of files of weights end, by backend; the first is what `fit` writes by itself."""


def demo(arguments: Namespace) -> int:
    """Run the demonstration."""
    with framework("the demo"):
        main = import_module("kdhooks.demo").main
    with messages():
        main(seeds=arguments.seeds, out=arguments.out, quick=arguments.quick)
    return 0


def init(arguments: Namespace) -> int:
    """Write a starter file."""
    from kdhooks.cli.starter import starter

    path: Path = arguments.path
    if path.exists() and not arguments.force:
        raise UsageError(f"{path} is there already; --force replaces it")
    path.write_text(starter(str(path)), encoding="utf-8")
    print(f"wrote {path}; kdhooks validate {path} checks it after your changes")
    return 0


def validate(arguments: Namespace) -> int:
    """Check configurations."""
    import_modules(arguments.modules)
    code = 0
    for file in arguments.files:
        try:
            DistillationConf(file)
        except ConfigError as error:
            print(error, file=sys.stderr)
            code = 2
        else:
            print(f"{file}: valid")
    return code


def layers(arguments: Namespace) -> int:
    """Print the layers of a model."""
    from kdhooks.check.report import table

    with framework("a model"):
        model = factories.make_model(arguments.model)
        backend = backend_of(model)
        if arguments.tapped is None:
            rows = backend.layers(model, arguments.shape, arguments.tokens)
        else:
            taps = _taps(arguments.tapped, arguments.role)
            rows = backend.tapped(model, taps, arguments.role, arguments.shape, arguments.tokens)
    print(table(rows))
    return 0


def _taps(file: str, role: str) -> list[tuple[str, Any]]:
    """The layers of one model that a configuration names."""
    settings = DistillationConf(file).settings
    criteria = settings.distillation.train.criterion
    taps = [tap for named in criteria for tap in taps_of(named.name, named.options, role)]
    if role == "student" and settings.domain_adaptation is not None:
        taps += adapted_layers(settings.domain_adaptation)
    if settings.auto_distillation is not None:
        taps += stage_taps(settings.auto_distillation, role)
    if not taps:
        raise UsageError(f"{file} names no layer of a {role}")
    return taps


def check(arguments: Namespace) -> int:
    """Print the report of `Distillation.check`; 2 where something is surely wrong."""
    with messages():
        report = distiller_of(arguments).check(batches=arguments.batches)
    print(json.dumps(report.to_dict(), indent=2) if arguments.json else report)
    return 0 if report.ok else 2


def suggest(arguments: Namespace) -> int:
    """Print pairs of layers that see alike, as a configuration, and write a heat map."""
    from kdhooks.check import LayerSimilarity
    from kdhooks.check.report import table
    from kdhooks.check.similarity import mappings_yaml

    if len(arguments.teacher) != 1:
        raise UsageError(f"layers are compared with those of one teacher, and {len(arguments.teacher)} are named")
    distiller = distiller_of(arguments)
    found: LayerSimilarity = distiller.backend.similarity(distiller, arguments.batches)
    chosen = found.suggested(arguments.pairs)
    picture = found.plot(arguments.out / "similarity.png", chosen)
    block = mappings_yaml(chosen)
    (arguments.out / "layer_mappings.yaml").write_text(f"{block}\n", encoding="utf-8")
    rows = [
        {"student": one.student.name, "teacher": one.teacher.name, "CKA": f"{one.value:.3f}"} for one in found.ranked()
    ]
    about = f"{len(found.student)} student and {len(found.teacher)} teacher layers on {found.rows} samples"
    about += "; the most similar:"
    told = [
        about,
        *table(rows).splitlines(),
        f"heat map: {picture}",
        "one pair for each stretch of the student's depth:",
    ]
    print("\n".join(f"# {line}" for line in told))  # comments, so that all of it is a configuration
    print(block)
    return 0


def fit(arguments: Namespace) -> int:
    """Train, and say where everything is."""
    with messages():
        distiller = distiller_of(arguments)
        kinds = WEIGHT_FILES[distiller.backend.name]
        out: Path = arguments.out or distiller.conf.workspace / f"student{kinds[0]}"
        _writable(out, kinds)
        report = _report(distiller, arguments.profile)
        profile: AbstractContextManager[Any] = nullcontext() if report is None else distiller.profile()
        with profile as ledger:
            student = distiller.fit()
        if is_rank_zero():
            distiller.backend.write_weights(student, out)
            page = None if arguments.no_report else reported.page_of(distiller.conf.workspace)
            print(_result(distiller, out, page))
            if report is not None:
                print(f"\n{ledger}\nledger: {ledger.save(report)}")
    return 0


def _report(distiller: Any, named: str | None) -> Path | None:
    """Where the ledger of the run's steps goes, if it is asked for."""
    if named is None:
        return None
    path = Path(named) if named else distiller.conf.workspace / "ledger.json"
    if path.is_dir():
        raise UsageError(f"--profile {path} is a folder: name a file, as in {path / 'ledger.json'}")
    if path.suffix in (".yaml", ".yml"):
        raise UsageError(f"--profile {path} would write over a configuration: write --profile after the other words")
    return path


def distiller_of(arguments: Namespace) -> Any:
    """The `Distillation` that the arguments describe."""
    from kdhooks.distillation import Distillation

    with framework("a model"):
        import_modules([name.partition(":")[0] for name in (arguments.student, *arguments.teacher) if ":" in name])
        import_modules(arguments.modules)
        conf = configuration(arguments)
        seed_first_weights(conf)
        student = factories.make_model(arguments.student)
        teacher = teacher_of(arguments)
    if arguments.student_weights is not None:
        backend_of(student).read_weights(student, arguments.student_weights)
    return Distillation(conf, student_model=student, teacher_model=teacher)


def seed_first_weights(conf: DistillationConf) -> None:
    """Let the same command make the same first weights."""
    seed = conf.settings.tuning.random_seed
    if seed is not None:
        for name in _frameworks(conf):
            load_backend(name).seed(seed)


def teacher_of(arguments: Namespace) -> Any:
    """The teacher, or a list of several, with their weights; None where none is named."""
    weights = arguments.teacher_weights
    if weights and len(weights) != len(arguments.teacher):
        raise UsageError(
            f"--teacher-weights was given {len(weights)} times, and --teacher {len(arguments.teacher)} times"
        )
    teachers = [factories.make_model(name) for name in arguments.teacher]
    for teacher, path in zip(teachers, weights, strict=False):
        backend_of(teacher).read_weights(teacher, path)
    return teachers[0] if len(teachers) == 1 else teachers or None


def _frameworks(conf: DistillationConf) -> list[str]:
    """The framework that the configuration names, or those that the modules of the models have loaded."""
    named = conf.settings.model.framework
    packages = {"pytorch": "torch", "tensorflow": "tensorflow"}
    loaded = [name for name, package in packages.items() if package in sys.modules]
    return [named] if named is not None else loaded or ["pytorch"]


def configuration(arguments: Namespace) -> DistillationConf:
    """The file, with the changes of the command line."""
    conf = DistillationConf(arguments.file)
    for change in arguments.changes:
        key, equals, value = change.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {change}: write KEY=VALUE, as in distillation.train.end_epoch=3")
        conf[key.strip()] = _read(value)
    if getattr(arguments, "workspace", None):
        conf["tuning.workspace.path"] = arguments.workspace
    if getattr(arguments, "resume", False):
        conf["tuning.workspace.resume"] = True
    return conf


def _read(text: str) -> Any:
    """A value as a configuration writes it."""
    from kdhooks.config.loader import parse_yaml

    source = parse_yaml(f"value: {text}", "--set")
    if source.problems:
        raise ConfigError(source.problems)
    return source.data["value"]


def import_modules(modules: list[str]) -> None:
    """Import modules of the user's."""
    for name in modules:
        factories.import_module(name)


def _writable(path: Path, kinds: tuple[str, ...]) -> None:
    """Find out before a long run, not after it, that its result can't be written."""
    if path.is_dir():
        raise UsageError(f"--out {path} is a folder: name a file, as in {path / f'student{kinds[0]}'}")
    if not path.name.endswith(kinds):
        raise UsageError(f"--out {path}: weights are written as {_either(kinds)}")
    if path.suffix == ".safetensors":
        try:
            import_module("safetensors")
        except ImportError:
            raise MissingPackageError("safetensors", "a .safetensors file", "export") from None
    path.parent.mkdir(parents=True, exist_ok=True)


def _either(kinds: tuple[str, ...]) -> str:
    named = [kind for kind in kinds if kind != ".pth"]  # another spelling of .pt
    return f"{', '.join(named[:-1])} or {named[-1]}"


_LEFT_BEHIND = (
    *(("curves", "curves.png"), ("checkpoint", "checkpoint.pt"), ("checkpoint", "checkpoint.npz")),
    *(("events", "tensorboard"), ("record", "run.json")),
)


def _result(distiller: Any, out: Path, page: Path | None) -> str:
    from kdhooks.history import align

    best = next((record for record in reversed(distiller.history) if record["best"]), None)
    rows = []
    if best is not None:
        values = ", ".join(f"{name} {value:.4f}" for name, value in best["metrics"].items())
        rows.append(("best", f"{values} (epoch {best['epoch']})"))
    rows.append(("student", str(out)))
    for title, name in _LEFT_BEHIND:
        path = distiller.conf.workspace / name
        if path.exists():
            rows.append((title, str(path)))
    if page is not None:
        rows.append(("page", str(page)))
    elif rows[-1][0] == "record":
        rows.append(("page", f"kdhooks report {distiller.conf.workspace}"))
    width = max(len(value) for _, value in rows)
    return "\n" + align([(title.ljust(10), value.ljust(width)) for title, value in rows])


@contextmanager
def framework(purpose: str) -> Iterator[None]:
    """A framework that is not installed is named with the line that installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "torchmetrics", "sklearn", "tensorflow", "keras"):
            raise
        package = "scikit-learn" if error.name == "sklearn" else error.name
        extra = "tensorflow" if package in ("tensorflow", "keras") else "torch"
        raise MissingPackageError(package, purpose, extra) from None


@contextmanager
def messages() -> Iterator[None]:
    """Messages and tables of the package go to standard output, as they are, while a command runs."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
