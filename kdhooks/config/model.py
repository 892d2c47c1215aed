"""The settings that a configuration becomes: frozen, typed, with every default filled in.

Nothing here reads a file or knows a line number; `DistillationConf.problem` finds a path's line.
A ``Named`` is the YAML's way to choose from a table: ``SGD: {learning_rate: 0.1}``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from kdhooks.adaptation import WarmStart
from kdhooks.config.finetune_settings import FinetuneSettings
from kdhooks.config.logger_settings import LoggerSettings

if TYPE_CHECKING:
    from kdhooks.config.search_settings import AutoDistillationSettings

Precision = Literal["fp32", "bf16", "fp16"]
"""What a model computes in."""

AskedPrecision = Literal["fp32", "bf16", "fp16", "auto"]
"""What it shall compute in, or that it is chosen by timing a few batches."""

Switch = bool | Literal["auto"]
"""On, off, or chosen by timing a few batches."""

Schedulable = float | Mapping[str, Any] | Callable[[int], float]
"""A number, a schedule as the YAML writes it (``{linear: {...}}``), or a function of the step."""


@dataclass(frozen=True)
class Named:
    """A name from a table with its options.

    Attributes:
        name: as the user spelled it; tables are case-insensitive.
        options: keyword arguments; empty where the YAML has none. A bare value (``topk: 1``) stands
            under the key ``""``.
        path: where it stands in the configuration, for messages.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    path: str = ""


@dataclass(frozen=True)
class ModelSettings:
    """``model``: a name for the run's folder, the framework, and what to pick from batches and outputs.

    Attributes:
        name: names the folder of the run.
        framework: None until a model is set, which then decides.
        inputs: the fields of a mapping batch that go to the model; all but the target where empty.
        outputs: the key or attribute of a model's output that holds its logits; the first given is
            used, and ``logits`` or the first tensor where empty.
    """

    name: str = "distillation"
    framework: Literal["pytorch", "tensorflow"] | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataloaderSettings:
    """``dataloader``: batches from a dataset by name.

    Attributes:
        batch_size: rows a batch.
        shuffle: another order every epoch, the same for the same seed.
        last_batch: ``keep`` serves a short last batch, ``discard`` drops it, ``rollover`` puts its
            rows at the start of the next epoch.
        num_workers: processes that make batches; 0 makes them in the loop's own process.
        distributed: each rank sees its own share.
        dataset: name and options.
        transform: in order, applied to each row or batch.
        replays: random transforms of an epoch are those of epoch modulo this; None draws anew in every epoch.
        filter: in order, applied once to the dataset.
        input_columns: what the columns of a batch are: indices of the model's positional inputs
            (the last other column is the target), or a name for each column (`target`, `mask`,
            `sample_ids`, `teacher_output` are ours, the others are keyword arguments of the model).
    """

    batch_size: int = 32
    shuffle: bool = False
    last_batch: Literal["keep", "discard", "rollover"] = "keep"
    num_workers: int = 0
    distributed: bool = False
    dataset: Named | None = None
    transform: tuple[Named, ...] = ()
    replays: int | None = None
    filter: tuple[Named, ...] = ()
    input_columns: tuple[int, ...] | tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainSettings:
    """``distillation.train``: the built-in loop.

    Attributes:
        start_epoch: the number of the first epoch.
        end_epoch: the number after the last epoch.
        steps: of the whole run, whatever `end_epoch` says: epochs follow until so many batches were trained on, and the
            last one may be short; None for whole epochs.
        iteration: steps an epoch at most; None for the whole loader.
        frequency: evaluate every so many epochs (the last one always).
        strategy: how several processes train one student: ``ddp`` or ``fsdp2``; ``auto`` is ``ddp`` where the
            dataloader is ``distributed``, and otherwise each process trains by itself.
        execution_mode: ``graph`` compiles the student's forward; in TensorFlow a step is a graph unless the
            configuration says ``eager``.
        optimizer: any class of the framework by name.
        scheduler: of the learning rate; None keeps it.
        criterion: one or more, summed.
        dataloader: None where the program sets ``train_dataloader``.
        postprocess: transforms of (output, target) before the student's loss.
        precision: of the student's autocast, or ``auto``; None is full precision.
        channels_last: whether the student's maps lie in memory as [N, H, W, C].
        ipex: whether student and optimizer are optimized by Intel's extension.
        gradient_accumulation: batches an optimizer step.
        gradient_clipping: the largest norm of the student's gradient; None for no clipping.
        checkpoint_steps: write a checkpoint every so many steps, besides every epoch.
    """

    start_epoch: int = 0
    end_epoch: int = 1
    steps: int | None = None
    iteration: int | None = None
    frequency: int = 1
    strategy: Literal["auto", "ddp", "fsdp2"] = "auto"
    execution_mode: Literal["eager", "graph"] = "eager"
    optimizer: Named = field(default_factory=lambda: Named("SGD", {"learning_rate": 0.001}))
    scheduler: Named | None = None
    criterion: tuple[Named, ...] = (Named("KnowledgeDistillationLoss"),)
    dataloader: DataloaderSettings | None = None
    postprocess: tuple[Named, ...] = ()
    precision: AskedPrecision | None = None
    channels_last: Switch = False
    ipex: Switch = False
    gradient_accumulation: int = 1
    gradient_clipping: float | None = None
    checkpoint_steps: int | None = None


@dataclass(frozen=True)
class TeacherSettings:
    """``distillation.teacher``: how the teacher runs.

    Attributes:
        precision: of its own forward, or ``auto``; None follows the autocast that surrounds the call.
        channels_last: whether its maps lie in memory as [N, H, W, C].
        compile: whether its forward is compiled.
        ipex: whether it is optimized by Intel's extension.
        ema: makes the teacher an exponential average of the student: after each of its steps
            teacher = ema * teacher + (1 - ema) * student; None leaves the teacher alone.
        sharded: whether the ranks that train together share out its weights, and gather them block by block.
    """

    precision: AskedPrecision | None = None
    channels_last: Switch = False
    compile: bool = False
    ipex: Switch = False
    ema: float | None = None
    sharded: bool = False


@dataclass(frozen=True)
class CacheSettings:
    """``distillation.cache``: where and how the teacher's outputs are stored.

    Attributes:
        path: the store's folder.
        dtype: of stored logits: float32, float16, bfloat16 or int8.
        top_k: so many of the largest logits and the mass of the rest; None keeps all.
        feature_dtype: of stored features; None takes `dtype`.
        pool: the size to which maps of features are averaged; None leaves them.
        size_bound: GiB of the store's file.
        read_only: whether nothing is stored.
    """

    path: str = ".kdhooks/cache"
    dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float32"
    top_k: int | None = None
    feature_dtype: Literal["float32", "float16", "bfloat16", "int8"] | None = None
    pool: tuple[int, ...] | None = None
    size_bound: float = 64
    read_only: bool = False


@dataclass(frozen=True)
class DistillationSettings:
    """``distillation``: the loop, the criterion, the teacher, and its stored outputs (None: nothing is stored)."""

    train: TrainSettings = field(default_factory=TrainSettings)
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    cache: CacheSettings | None = None


@dataclass(frozen=True)
class MetricSettings:
    """One metric of ``evaluation.accuracy``.

    Attributes:
        metric: name and options.
        weight: its share of the score when there are several.
        higher_is_better: None takes what the metric itself says.
    """

    metric: Named
    weight: float = 1.0
    higher_is_better: bool | None = None


@dataclass(frozen=True)
class ThreadSettings:
    """``evaluation.accuracy.configs``: threads during evaluation; None leaves them alone."""

    intra_num_of_threads: int | None = None
    inter_num_of_threads: int | None = None


@dataclass(frozen=True)
class EvaluationSettings:
    """``evaluation.accuracy``: what is measured after an epoch, on which data."""

    metrics: tuple[MetricSettings, ...] = (MetricSettings(Named("topk", {"": 1})),)
    configs: ThreadSettings = field(default_factory=ThreadSettings)
    iteration: int | None = None
    dataloader: DataloaderSettings | None = None
    postprocess: tuple[Named, ...] = ()


@dataclass(frozen=True)
class TuningSettings:
    """``tuning``: the seed and the run's folder.

    Attributes:
        random_seed: seeds the built-in loop: order of the data and augmentation, and Python's,
            NumPy's and the framework's generators when `fit()` begins; None leaves them as they are.
        tensorboard: write event files into the run's folder; ``auto`` in `fit()`, where TensorBoard is installed.
        report: compare student and teacher on the evaluation data when the run ends, for its page.
        loggers: who else is told what the run finds; None tells nobody.
        workspace: the run's folder; None is ``.kdhooks/<model.name>``.
        resume: continue from the workspace's checkpoint where there is one, or from this file.
    """

    random_seed: int | None = 1978
    tensorboard: bool | str = "auto"
    workspace: str | None = None
    resume: bool | str = False
    report: bool = True
    loggers: LoggerSettings | None = None


@dataclass(frozen=True)
class AdversarySettings:
    """``domain_adaptation.adversary``: the adversary's own steps where ``alternating`` is true."""

    steps: int = 1
    optimizer: Named = field(default_factory=lambda: Named("Adam", {"learning_rate": 0.001}))


@dataclass(frozen=True)
class AdaptationSettings:
    """``domain_adaptation``: what aligns the student's source and target domain.

    Attributes:
        criterion: adapters; the options of each are ``rules``, ``layers`` (of `LayerTap`), ``weight``, ``encoder``,
            ``head`` and ``options``, those that are its own.
        joint_forward: whether both domains go through the student in one batch.
        alternating: whether adversaries take steps of their own.
        adversary: these steps.
        reversal: the warm start of the reversed gradient.
        gather: whether ranks that train together see the features of all of them.
        target_label_weight: of the cross-entropy of labelled target rows.
        target_labels: whether labels that the target's training data have train the student, in `fit()`.
        ignore_index: the label of target rows without one.
        a_distance: whether discriminators report the proxy A-distance.
        validator: by name; the first one chooses the best epoch.
        validator_rows: of the target domain that they look at, at most.
        dataloader: the target domain's training data; None where the program sets ``target_dataloader``.
        eval_dataloader: its data for validators; None where the program sets ``target_eval_dataloader``.
    """

    criterion: tuple[Named, ...] = ()
    joint_forward: bool = False
    alternating: bool = False
    adversary: AdversarySettings = field(default_factory=AdversarySettings)
    reversal: WarmStart = field(default_factory=WarmStart)
    gather: bool = True
    target_label_weight: Schedulable = 1.0
    target_labels: bool = False
    ignore_index: int = -100
    a_distance: bool = False
    validator: tuple[str, ...] = ()
    validator_rows: int = 4096
    dataloader: DataloaderSettings | None = None
    eval_dataloader: DataloaderSettings | None = None


@dataclass(frozen=True)
class Settings:
    """A whole configuration, checked.

    Attributes:
        domain_adaptation, auto_distillation: None where the section is not there.
    """

    model: ModelSettings = field(default_factory=ModelSettings)
    device: str = "auto"
    distillation: DistillationSettings = field(default_factory=DistillationSettings)
    finetune: FinetuneSettings | None = None
    domain_adaptation: AdaptationSettings | None = None
    auto_distillation: AutoDistillationSettings | None = None
    evaluation: EvaluationSettings | None = None
    tuning: TuningSettings = field(default_factory=TuningSettings)
