"""`Trainer`: AutoDistillation out of the box, for programs that have no `Trainer` of transformers.

Rules: nothing of torch or transformers is imported before it is needed; which rows a batch has is a function of
(seed, epoch, batch).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from kdhooks.errors import DataError, UsageError, shown
from kdhooks.search.trainers.builder import transformers
from kdhooks.search.trainers.fields import CommonFields
from kdhooks.search.trainers.trainer_mixin import ROWS, Conf, TrainerMixin


class Trainer(TrainerMixin):
    """What `autodistillation` needs, under the names that transformers' `Trainer` has for it.

    It is no subclass of that class, and does not train a model by itself: put `TrainerMixin` in front of transformers'
    own for both. Batches are a function of `seed`, epoch and row, so that all candidates see the same.

    Args:
        config: what candidates are built from: a configuration class of transformers, a configuration, a checkpoint's
            folder or its name on the hub, or a model.
        args: ``TrainingArguments``, or an object with some of their attributes; None is `DefaultArguments`.
        data_collator: from a list of rows to a batch; None pads with `processing_class`, or stacks tensors.
        train_dataset, eval_dataset: anything with ``len`` whose rows are mappings with ``label`` or ``labels``.
        processing_class: a tokenizer or the like, whose ``pad`` makes batches; `tokenizer` is an older name of it.
        compute_metrics: from ``EvalPrediction`` to metrics by name; None takes the configuration's evaluation.
        model: another name of `config`.
        train_dataloader, eval_dataloader: batches as mappings with ``labels``, or pairs, in place of datasets.
        batch_size: rows a batch; None is that of `args`.
        seed: of the batches, and of the search where the configuration has none; None is that of `args`.
        preprocess_logits_for_metrics: from logits and labels to what `compute_metrics` gets as predictions.

    Example::

        trainer = Trainer(MobileBertConfig, train_dataset=train, eval_dataset=dev, processing_class=tokenizer)
        trainer.autodistillation_config = {"search": {"search_space": {"hidden_size": [128, 256]}}, ...}
        best_model_arch = trainer.autodistillation(teacher, model_cls=AutoModelForSequenceClassification)
    """

    def __init__(
        self,
        config: Any = None,
        args: Any = None,
        data_collator: Callable[[list[Any]], Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *,
        model: Any = None,
        tokenizer: Any = None,
        compute_metrics: Callable[[Any], Any] | None = None,
        preprocess_logits_for_metrics: Callable[[Any, Any], Any] | None = None,
        train_dataloader: Any = None,
        eval_dataloader: Any = None,
        batch_size: int | None = None,
        seed: int | None = None,
        autodistillation_config: Conf | None = None,
        pretrained_model: Any = None,
    ) -> None:
        if config is not None and model is not None:
            raise UsageError("config and model are two names of one thing, what candidates are built from: give one")
        self.config, self.args = model if config is None else config, args
        self.data_collator = data_collator
        self.processing_class = tokenizer if processing_class is None else processing_class
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.train_dataloader, self.eval_dataloader = train_dataloader, eval_dataloader
        self.compute_metrics = compute_metrics
        self.preprocess_logits_for_metrics = preprocess_logits_for_metrics
        self.batch_size, self.seed = batch_size, seed
        self.autodistillation_config, self.pretrained_model = autodistillation_config, pretrained_model

    def get_train_dataloader(self) -> Any:
        """The batches of training; UsageError where there are no data."""
        given = self._given("train")
        return self._rows("train", shuffle=True) if given is None else given

    def get_eval_dataloader(self) -> Any:
        """The batches that candidates are judged by; UsageError where there are no data."""
        given = self._given("eval")
        return self._rows("eval", shuffle=False) if given is None else given

    def _batches(self, which: str) -> Any:
        if self._given(which) is not None:
            return super()._batches(which)
        return getattr(self, f"get_{which}_dataloader")()  # whose rows are filtered before they are collated

    def _seed(self) -> int:
        return super()._seed() if self.seed is None else self.seed

    def _given(self, which: str) -> Any:
        return getattr(self, f"{which}_dataloader")

    def _rows(self, which: str, *, shuffle: bool) -> Any:
        """A loader of a dataset."""
        dataset, args = getattr(self, f"{which}_dataset"), self._arguments()
        if dataset is None:
            raise UsageError(f"the trainer has no {which}_dataset and no {which}_dataloader")
        keeps_all = not getattr(args, "remove_unused_columns", True)
        return import_module(ROWS).row_loader(
            dataset,
            _Collator(self._collator(), None if keeps_all else self._fields),
            batch_size=self.batch_size or getattr(args, f"per_device_{which}_batch_size", 32),
            shuffle=shuffle,
            shared=shuffle,
            seed=self._seed(),
            drop_last=shuffle and bool(getattr(args, "dataloader_drop_last", False)),
            num_workers=int(getattr(args, "dataloader_num_workers", 0)),
        )

    def _collator(self) -> Callable[[list[Any]], Any]:
        if self.data_collator is not None:
            return self.data_collator
        found: Callable[[list[Any]], Any]
        if hasattr(self.processing_class, "pad"):
            found = transformers().DataCollatorWithPadding(self.processing_class)
        else:
            found = transformers().default_data_collator
        return found


class _Collator:
    """Takes from rows what no model takes, collates them, and names the labels as the built-in loop does.

    Args:
        collate: from a list of rows to a batch.
        fields: what passes; None passes all.
    """

    def __init__(self, collate: Callable[[list[Any]], Any], fields: CommonFields | None) -> None:
        self._collate, self._fields = collate, fields

    def __call__(self, rows: list[Any]) -> Any:
        if not all(isinstance(row, Mapping) for row in rows):
            odd = next(row for row in rows if not isinstance(row, Mapping))
            raise DataError(
                f"the rows of a dataset must be mappings by the names of the model's inputs, not {shown(odd)}"
            )
        batch = self._collate(rows if self._fields is None else [self._fields(row) for row in rows])
        if not isinstance(batch, Mapping):
            return batch
        named = dict(batch if self._fields is None else self._fields(batch))
        for name in ("label", "label_ids"):
            if name in named and "labels" not in named:
                named["labels"] = named.pop(name)
        return named
