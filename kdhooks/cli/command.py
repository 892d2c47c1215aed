"""What can be typed, and what becomes of errors."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from kdhooks import __version__
from kdhooks.cli import actions, exported, reported, searched, stored, transferred
from kdhooks.errors import ConfigError, KDHooksError

_MODEL = "package.module:factory"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Args:
        argv: the words after ``kdhooks``; None takes those of the process.
    """
    arguments = _parser().parse_args(argv)
    if sys.path[:1] != [""] and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # the user's own modules, as with `python -m`
    try:
        code: int = arguments.action(arguments)
        sys.stdout.flush()
        return code
    except ConfigError as error:  # begins with file, line and column, for editors that jump there
        return _mistake(str(error), arguments.debug)
    except (KDHooksError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # a reader such as `head` has had enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        place = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        text = f"{place}{error.strerror or error}" if isinstance(error, OSError) else str(error)
        return _mistake(f"kdhooks {arguments.command}: {text}", arguments.debug)
    except KeyboardInterrupt:
        print("kdhooks: interrupted", file=sys.stderr)
        return 130


def _mistake(text: str, debug: bool) -> int:
    if debug:
        raise  # the error that is being handled
    print(text, file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kdhooks",
        description="Knowledge distillation for the training loop that you already have.",
        epilog=f"Models are named as {_MODEL}: a function or class that returns the model when called with nothing, "
        "looked for from the present folder on.",
    )
    parser.add_argument("-v", "--version", action="version", version=f"kdhooks {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (_demo, _init, _validate, _layers, _check, _suggest, _transfer, _fit, _report, _export, _search, _cache):
        add(commands)
    return parser


_Commands = argparse._SubParsersAction  # argparse has no public name for it


def _demo(commands: _Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("demo", help="teacher, student alone and student distilled on digits: table and plot")
    parser.add_argument("--seeds", type=_positive, default=5, metavar="N", help="paired seeds (5)")
    parser.add_argument(
        "--out", type=Path, default=Path("kdhooks-demo"), metavar="DIR", help="folder for table and plot"
    )
    parser.add_argument("--quick", action="store_true", help="small settings, to see that it runs")
    parser.set_defaults(action=actions.demo)


def _init(commands: _Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("init", help="write a commented YAML to start from")
    parser.add_argument("path", type=Path, nargs="?", default=Path("kd.yaml"), metavar="PATH", help="kd.yaml")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    parser.set_defaults(action=actions.init)


def _validate(commands: _Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("validate", help="say what is wrong in configurations, all of it, and where")
    parser.add_argument("files", nargs="+", metavar="FILE")
    _imports(parser)
    parser.set_defaults(action=actions.validate)


def _layers(commands: _Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("layers", help="names, types, output shapes and parameters of a model's layers")
    parser.add_argument("model", metavar="MODEL", help=_MODEL)
    parser.add_argument(
        "--shape", type=_shape, action="append", default=[], metavar="1,3,32,32", help="an example input of numbers"
    )
    parser.add_argument(
        "--tokens", type=_shape, action="append", default=[], metavar="1,128", help="an example input of token numbers"
    )
    parser.add_argument(
        "--tapped", metavar="FILE", help="only the layers that a configuration names, with their shapes"
    )
    parser.add_argument(
        "--as", choices=("student", "teacher"), default="student", dest="role", help="which one it is there (student)"
    )
    parser.set_defaults(action=actions.layers)


def _check(commands: _Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("check", help="look for what would waste a night, before a long run")
    _pair(parser)
    parser.add_argument("--batches", type=_positive, default=8, metavar="N", help="how many to look at (8)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(action=actions.check)


def _suggest(commands: _Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("suggest", help="pairs of layers that see alike, as layer_mappings and a heat map")
    _models(parser)
    parser.add_argument(
        "--data", required=True, dest="file", metavar="FILE", help="a configuration with a training dataloader"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("kdhooks-suggest"), metavar="DIR", help="folder for heat map and YAML"
    )
    parser.add_argument("--batches", type=_positive, default=8, metavar="N", help="how many to look at (8)")
    parser.add_argument("--pairs", type=_positive, default=4, metavar="N", help="how many to suggest (4)")
    parser.set_defaults(action=actions.suggest)


def _transfer(commands: _Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("transfer", help="what the section finetune would do, tensor by tensor")
    parser.add_argument("file", metavar="FILE", help="the configuration")
    parser.add_argument("--student", required=True, metavar="MODEL", help=_MODEL)
    parser.add_argument("--pretrained", metavar="MODEL", help=f"{_MODEL}; in place of finetune.pretrained")
    parser.add_argument("--everything", action="store_true", help="also what is transferred under its own name")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(action=transferred.report, teacher=[], teacher_weights=[], student_weights=None)
    _changes(parser)


def _fit(commands: _Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("fit", help="train the student as a configuration says")
    _pair(parser)
    parser.add_argument("--workspace", metavar="DIR", help="the run's folder, in place of tuning.workspace.path")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in the run's folder")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="where the student's weights go: .safetensors, .pt, or of a Keras model .weights.h5 or .keras "
        "(student.pt or student.weights.h5 in the run's folder)",
    )
    parser.add_argument(
        "--profile",
        nargs="?",
        const="",
        metavar="FILE",
        help="show where the time of the steps went, and write it as JSON (ledger.json in the run's folder)",
    )
    parser.add_argument("--no-report", action="store_true", help="write no page of the run into its folder")
    parser.set_defaults(action=actions.fit)


def _report(commands: _Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("report", help="write the page of a run: curves, teacher against student, layers")
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder, or its run.json")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the page goes (report.html beside run.json)")
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    parser.set_defaults(action=reported.report)


def _export(commands: _Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("export", help="write the student for others to run: ONNX, torch.export, SavedModel")
    parser.add_argument("model", metavar="MODEL", help=_MODEL)
    parser.add_argument(
        "--to",
        action="append",
        required=True,
        metavar="FILE",
        help=".safetensors, .pt2, .onnx; of a Keras model .keras, .weights.h5, a folder (SavedModel); several times",
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights, or the checkpoint of a run: its best")
    parser.add_argument("--run", type=Path, metavar="DIR", help="a run's folder, whose best weights are taken")
    parser.add_argument(
        "--shape", type=_input, action="append", default=[], metavar="1,3,32,32", help="an example input of numbers"
    )
    parser.add_argument(
        "--tokens",
        type=_input,
        action="append",
        default=[],
        metavar="[NAME=]1,128",
        help="an example input of token numbers; NAME= for an argument by its name",
    )
    parser.add_argument("--config", metavar="FILE", help="a configuration, for the first batch of its training data")
    parser.add_argument("--fixed-batch", action="store_true", help="only for batches of the examples' size")
    parser.add_argument("--dynamic-length", action="store_true", help="for token inputs of any length")
    parser.add_argument("--opset", type=_positive, metavar="N", help="of ONNX (18)")
    parser.add_argument("--tolerance", type=float, metavar="X", help="how far outputs may differ (1e-5)")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    parser.set_defaults(action=exported.export)
    _changes(parser)


def _search(commands: _Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("search", help="search for the student: build, distil and measure candidates")
    parser.add_argument("file", metavar="FILE", help="the configuration, with a section auto_distillation")
    function = "package.module:function"
    parser.add_argument("--builder", metavar="FUNCTION", help=f"{function}; from an architecture to a model")
    _teachers(parser)
    parser.add_argument("--train", metavar="FUNCTION", help=f"{function}; trains a model (as configured)")
    parser.add_argument("--eval", metavar="FUNCTION", help=f"{function}; returns metrics (as configured)")
    parser.add_argument("--trials", type=_positive, metavar="N", help="candidates in all, in place of max_trials")
    parser.add_argument("--storage", metavar="URL", help="of the study; several machines with one work together")
    parser.add_argument("--study", metavar="NAME", help="of the study in its storage")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder, in place of tuning.workspace.path")
    parser.add_argument("--report", action="store_true", help="only show what the study has found; nothing is trained")
    parser.set_defaults(action=searched.search)
    _changes(parser)


def _cache(commands: _Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("cache", help="store teacher outputs, look at them, check them, write them anew")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    build = verbs.add_parser("build", help="fill the store of a configuration from its training data")
    _pair(build)
    build.add_argument(
        "--epochs",
        type=_positive,
        metavar="N",
        help="epochs of augmented rows to store (dataloader.replays, or 1)",
    )
    build.set_defaults(action=stored.build)
    for name, action, about in (
        ("info", stored.info, "which teachers' outputs are there, and how large they are"),
        ("verify", stored.verify, "check the file and the checksum of every row"),
        ("prune", stored.prune, "write the rows anew, in key order and without bad ones"),
    ):
        verb = verbs.add_parser(name, help=about)
        verb.add_argument("path", type=Path, metavar="DIR", help="the store's folder")
        verb.set_defaults(action=action)
    verb.add_argument("--keep", action="append", default=[], metavar="NAME", help="keep only this teacher's rows")
    verb.add_argument("--older-than", type=float, metavar="DAYS", help="leave out teachers first stored longer ago")


def _pair(parser: argparse.ArgumentParser) -> None:
    """What `check` and `fit` have in common."""
    parser.add_argument("file", metavar="FILE", help="the configuration")
    _models(parser)


def _models(parser: argparse.ArgumentParser) -> None:
    """Two models, and changes of the configuration."""
    parser.add_argument("--student", required=True, metavar="MODEL", help=_MODEL)
    parser.add_argument("--student-weights", type=Path, metavar="FILE", help=".safetensors, .pt, .weights.h5 or .keras")
    _teachers(parser)
    _changes(parser)


def _teachers(parser: argparse.ArgumentParser) -> None:
    """The teacher, or several."""
    parser.add_argument("--teacher", action="append", default=[], metavar="MODEL", help=f"{_MODEL}; one or several")
    parser.add_argument(
        "--teacher-weights",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help=".safetensors, .pt, .weights.h5 or .keras; one for each --teacher",
    )


def _changes(parser: argparse.ArgumentParser) -> None:
    """Changes of the configuration, and modules that it needs."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="changes",
        metavar="KEY=VALUE",
        help="change the configuration: distillation.train.end_epoch=3",
    )
    _imports(parser)


def _imports(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--import",
        action="append",
        default=[],
        dest="modules",
        metavar="MODULE",
        help="a module that registers names of your own",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, not {text!r}")
    return int(text)


def _shape(text: str) -> tuple[int, ...]:
    parts = text.replace("x", ",").split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"expected whole numbers with commas, as in 1,3,32,32, not {text!r}")
    return tuple(int(part) for part in parts)


def _input(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, shape = text.rpartition("=")
    return name.strip(), _shape(shape)
