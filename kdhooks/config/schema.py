"""The tree of rules: every key of a configuration, what its value must be, its default and its meaning.

Declarations only. The defaults are those of `model`, once more, because a starter file and a reader
of single keys need them by path; a test holds both together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

from kdhooks.config import laws
from kdhooks.config import leaves as a
from kdhooks.config.adaptation import domain_adaptation
from kdhooks.config.criteria import CRITERION
from kdhooks.config.finetune import FINETUNE
from kdhooks.config.loggers import LOGGERS
from kdhooks.config.model import CacheSettings, DistillationSettings, ModelSettings, Settings, TeacherSettings
from kdhooks.config.rules import Report
from kdhooks.config.search import auto_distillation
from kdhooks.config.sections import Key, Law, Names, Section
from kdhooks.config.source import Source, join
from kdhooks.errors import ConfigError

_MODEL = Section(
    (
        Key("name", a.RUN_NAME, "distillation", "names the folder of the run"),
        Key("framework", a.FRAMEWORK, None, "pytorch or tensorflow; the first model that is set decides without it"),
        Key(
            "inputs",
            a.WORDS,
            [],
            "fields of a mapping batch that go to the model; empty: all but the target",
        ),
        Key("outputs", a.WORDS, [], "key or attribute of a model's output that holds its logits"),
    ),
    ModelSettings,
)

_POSTPROCESS = Section(
    (Key("transform", Names("transform", many=True), [], "in order"),),
    lambda transform=(): transform,
)

_DATALOADER = Section(
    (
        Key("batch_size", a.FROM_ONE, 32, "rows a batch"),
        Key("shuffle", a.BOOLEAN, False, "another order every epoch, the same for the same seed"),
        Key("last_batch", a.LAST_BATCH, "keep", "a short last batch: keep, discard, or rollover to the next epoch"),
        Key("drop_last", a.BOOLEAN, None, "another word for last_batch: discard"),
        Key("num_workers", a.FROM_ZERO, 0, "processes that make batches; 0 makes them in the loop's own"),
        Key("distributed", a.BOOLEAN, False, "each rank sees its own share"),
        Key("dataset", Names("dataset"), None, "name and options, as in FashionMNIST: {train: true}"),
        Key("transform", Names("transform", many=True), [], "in order, applied to each row or batch"),
        Key("replays", a.FROM_ONE, None, "random transforms repeat every so many epochs, for stored teacher outputs"),
        Key("filter", Names("filter", many=True), [], "in order, applied once to the dataset"),
        Key("input_columns", a.INPUT_COLUMNS, [], "what the columns of a batch are: numbers or names"),
    ),
    laws.dataloader,
    laws=(Law(("last_batch", "drop_last"), laws.last_batch_agrees),),
)

_TRAIN = Section(
    (
        Key("start_epoch", a.FROM_ZERO, 0, "the number of the first epoch"),
        Key("end_epoch", a.FROM_ONE, laws.last_epoch, "the number after the last epoch"),
        Key("epoch", a.FROM_ONE, laws.epochs, "the number of epochs, in place of end_epoch"),
        Key("steps", a.FROM_ONE, None, "steps of the whole run, in place of end_epoch; the last epoch may be short"),
        Key("iteration", a.ITERATION, None, "steps an epoch at most; empty: the whole loader"),
        Key("frequency", a.FROM_ONE, 1, "evaluate every so many epochs, and after the last"),
        Key("strategy", a.STRATEGY, "auto", "how several processes train one student: ddp or fsdp2; auto: ddp"),
        Key("execution_mode", a.MODE, "eager", "graph compiles the student's forward"),
        Key("optimizer", Names("optimizer"), {"SGD": {"learning_rate": 0.001}}, "any class of the framework by name"),
        Key("scheduler", Names("scheduler"), None, "of the learning rate, as in CosineAnnealing: {warmup_epochs: 1}"),
        Key("criterion", CRITERION, {"KnowledgeDistillationLoss": {}}, "one, or several that are summed"),
        Key("dataloader", _DATALOADER, None, "the training data; empty: the program sets train_dataloader"),
        Key("postprocess", _POSTPROCESS, {}, "transforms of output and target before the student's loss"),
        Key(
            "precision",
            a.PRECISION_OR_AUTO,
            None,
            "fp32, bf16 or fp16 of the student's autocast, or auto; empty: full precision",
        ),
        Key("channels_last", a.SWITCH, False, "the student's maps lie in memory as [N, H, W, C], or auto"),
        Key("ipex", a.SWITCH, False, "optimize student and optimizer by Intel's extension, or auto"),
        Key("gradient_accumulation", a.FROM_ONE, 1, "batches an optimizer step"),
        Key("gradient_clipping", a.POSITIVE, None, "the largest norm of the student's gradient"),
        Key("checkpoint_steps", a.FROM_ONE, None, "a checkpoint every so many steps, besides every epoch"),
    ),
    laws.train,
    laws=(
        Law(("start_epoch", "end_epoch", "epoch"), laws.epochs_agree),
        Law(("steps", "end_epoch", "epoch"), laws.steps_or_epochs),
        Law(("strategy", "channels_last", "ipex"), laws.shards_fit),
    ),
)

_CACHE = Section(
    (
        Key("path", a.TEXT, ".kdhooks/cache", "the store's folder, on a local disk"),
        Key("dtype", a.STORED, "float32", "of stored logits: float32, float16, bfloat16, or int8 with a scale"),
        Key("top_k", a.FROM_ONE, None, "keep so many of the largest logits, and the mass of the rest; empty: all"),
        Key("feature_dtype", a.STORED, None, "of stored features; empty: that of logits"),
        Key("pool", a.POOL, None, "average the maps of stored features to this size, as in [1, 1]; empty: whole"),
        Key("size_bound", a.POSITIVE, 64, "GiB that the store's file may take; at the bound nothing more is stored"),
        Key("read_only", a.BOOLEAN, False, "read only, and store nothing"),
    ),
    CacheSettings,
)

_DISTILLATION = Section(
    (
        Key("train", _TRAIN, {}, "the built-in loop, and the criterion"),
        Key(
            "teacher",
            Section(
                (
                    Key("precision", a.PRECISION_OR_AUTO, None, "fp32, bf16, fp16 or auto; empty: that of the loop"),
                    Key(
                        "channels_last",
                        a.SWITCH,
                        False,
                        "its maps lie in memory as [N, H, W, C], or auto",
                    ),
                    Key("compile", a.BOOLEAN, False, "compile its forward"),
                    Key("ipex", a.SWITCH, False, "optimize it by Intel's extension, or auto"),
                    Key("ema", a.FRACTION, None, "the teacher is an average of the student with this decay"),
                    Key("sharded", a.BOOLEAN, False, "the ranks share out its weights, and gather them block by block"),
                ),
                TeacherSettings,
                laws=(Law(("sharded", "ema", "ipex"), laws.shared_out_alone),),
            ),
            {},
            "how the teacher runs",
        ),
        Key("cache", _CACHE, None, "the teacher's outputs are stored on disk, and read where they are there"),
    ),
    DistillationSettings,
)

_MULTI_METRICS = Section(
    (
        Key("weight", a.WEIGHTS, None, "each metric's share of the score; empty: all alike"),
        Key("higher_is_better", a.SIGNS, None, "for each metric; empty: what the metric itself says"),
    ),
    laws.metrics,
    laws=(Law(("weight", "higher_is_better", "rest"), laws.metrics_agree),),
    rest=Names("metric", many=True, least=1),
)
_THREADS = Section(
    (
        Key("intra_num_of_threads", a.FROM_ONE, None, "threads inside an operation"),
        Key("inter_num_of_threads", a.FROM_ONE, None, "operations at a time"),
        Key("cores_per_instance", a.FROM_ONE, None, "another word for intra_num_of_threads"),
    ),
    laws.threads,
    laws=(Law(("intra_num_of_threads", "cores_per_instance"), laws.threads_agree),),
)
_ONE_METRIC = Names("metric", advice="Write several below multi_metrics.")
_ACCURACY = Section(
    (
        Key("metric", _ONE_METRIC, None, "name and options; topk: 1 where neither this nor multi_metrics stands"),
        Key("multi_metrics", _MULTI_METRICS, None, "several, with an optional weight and higher_is_better"),
        Key("configs", _THREADS, {}, "threads during evaluation"),
        Key("iteration", a.ITERATION, None, "batches at most; empty: the whole loader"),
        Key("dataloader", _DATALOADER, None, "the evaluation data; empty: the program sets eval_dataloader"),
        Key("postprocess", _POSTPROCESS, {}, "transforms of output and target before the metrics"),
    ),
    laws.accuracy,
    laws=(Law(("metric", "multi_metrics"), laws.one_kind_of_metrics),),
)
_EVALUATION = Section(
    (Key("accuracy", _ACCURACY, None, "what is measured after an epoch, on which data"),),
    lambda accuracy=None: accuracy,
)
_WORKSPACE = Section(
    (
        Key("path", a.TEXT, None, "the run's folder; empty: .kdhooks/ and the model's name"),
        Key("resume", a.RESUME, False, "continue from the folder's checkpoint, or from this file"),
    ),
    lambda **values: values,
)

ROOT = Section(
    (
        Key("model", _MODEL, {}, "names and framework"),
        Key("device", a.DEVICE, "auto", "auto, cpu, gpu, or one by number as in cuda:1"),
        Key("distillation", _DISTILLATION, {}, "the student learns from the teacher"),
        Key("finetune", FINETUNE, None, "the student begins with the weights of a pretrained model"),
        Key("domain_adaptation", domain_adaptation(_DATALOADER), None, "the student learns from an unlabelled domain"),
        Key("auto_distillation", auto_distillation(_TRAIN, _EVALUATION), None, "search for the student"),
        Key("evaluation", _EVALUATION, None, "measure the student"),
        Key(
            "tuning",
            Section(
                (
                    Key(
                        "random_seed",
                        a.SEED,
                        1978,
                        "of the built-in loop; empty: leaves the generators alone",
                        null=True,
                    ),
                    Key(
                        "tensorboard", a.SWITCH, "auto", "event files in the run's folder; auto: where it is installed"
                    ),
                    Key("report", a.BOOLEAN, True, "compare student and teacher at the end, for the run's page"),
                    Key("loggers", LOGGERS, None, "who else is told what the run finds"),
                    Key("workspace", _WORKSPACE, {}, "the run's folder"),
                ),
                laws.tuning,
            ),
            {},
            "the seed and the run's folder",
        ),
    ),
    Settings,
)
"""The whole configuration."""


def check(source: Source) -> Settings:
    """The settings of a source.

    Raises:
        ConfigError: with all problems, in the order of the file.
    """
    report = Report(source)
    settings = ROOT.check(source.data, "", report)
    if report.problems:
        raise ConfigError(report.in_order())
    return cast(Settings, settings)


class Described(NamedTuple):
    """A key of the configuration, for people.

    Attributes:
        path: for example ``distillation.train.end_epoch``.
        doc: one line.
        default: what holds without it, as the YAML writes it; a mapping for a section.
    """

    path: str
    doc: str
    default: Any


def describe() -> Iterator[Described]:
    """Every key, depth first, in the order in which a starter file has them."""
    yield from _described(ROOT, "")


def _described(section: Section, path: str) -> Iterator[Described]:
    for key in section.keys:
        where = join(path, key.name)
        yield Described(where, key.doc, key.default_in({}))
        if isinstance(key.rule, Section):
            yield from _described(key.rule, where)
        elif isinstance(key.rule, Names):
            for name, options in key.rule.options.items():
                yield from _described(options, join(where, name))
