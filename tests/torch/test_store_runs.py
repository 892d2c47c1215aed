"""A run from an empty store, one from a full one, and one without: the same student, and fewer forwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdhooks import Distillation
from kdhooks.cache import maintenance
from kdhooks.errors import UsageError
from tests.torch.small_models import made
from tests.torch.stored_runs import (
    IMAGES,
    LABELS,
    LAYERS,
    LOGITS,
    ROWS,
    Batches,
    configured,
    run,
    shuffled,
    student,
    teacher,
)

BOTH = {**LOGITS, **LAYERS}


@pytest.mark.parametrize("criterion", [LOGITS, LAYERS, BOTH], ids=["logits", "layers", "both"])
def test_an_empty_and_a_full_store_train_the_same_student(tmp_path: Path, criterion: dict[str, Any]) -> None:
    conf = configured(tmp_path / "store", criterion)
    live, cold, warm = run(configured(None, criterion)), run(conf), run(conf)
    assert torch.equal(cold.weights, warm.weights)
    assert cold.losses == warm.losses
    torch.testing.assert_close(cold.weights, live.weights, rtol=1e-5, atol=1e-6)
    assert live.forwards == [8] * 6
    assert cold.forwards == [8] * 3  # the first epoch
    assert warm.forwards == []


@pytest.mark.parametrize(
    "options",
    [{"dtype": "float16"}, {"dtype": "bfloat16"}, {"dtype": "int8"}, {"top_k": 3}, {"dtype": "float16", "top_k": 2}],
    ids=["float16", "bfloat16", "int8", "top-k", "both"],
)
def test_the_same_with_codecs_that_lose_something(tmp_path: Path, options: dict[str, Any]) -> None:
    conf = configured(tmp_path / "store", BOTH, **options)
    cold, warm = run(conf), run(conf)
    assert torch.equal(cold.weights, warm.weights)
    assert cold.losses == warm.losses
    assert warm.forwards == []


def test_batch_size_order_and_a_short_batch_do_not_matter(tmp_path: Path) -> None:
    conf = configured(tmp_path / "store")
    run(conf, epochs=1)

    def others(epoch: int) -> Batches:
        return shuffled(epoch + 9, size=5)

    assert run(conf, epochs=2, batches=others).forwards == []


def test_rows_that_were_left_out_are_the_only_ones_to_be_computed(tmp_path: Path) -> None:
    conf = configured(tmp_path / "store", BOTH)

    def all_but_the_last(epoch: int) -> Batches:
        return shuffled(0, size=10)[:2]

    def in_order(epoch: int) -> Batches:
        return [(some, labels, {}) for some, labels in zip(IMAGES.split(12), LABELS.split(12), strict=True)]

    assert run(conf, epochs=1, batches=all_but_the_last).forwards == [10, 10]
    mixed = run(conf, epochs=2, batches=in_order)
    assert sum(mixed.forwards) == 4 and max(mixed.forwards) < 12
    live = run(configured(None, BOTH), epochs=2, batches=in_order)
    torch.testing.assert_close(mixed.weights, live.weights, rtol=1e-4, atol=1e-5)


def test_an_augmented_sample_that_was_not_seen_is_computed(tmp_path: Path) -> None:
    conf = configured(tmp_path / "store")

    def half_of_them_flipped(epoch: int) -> Batches:
        flipped = torch.cat([IMAGES[:4].flip(3), IMAGES[4:8]])
        return [(flipped, LABELS[:8], {})]

    run(conf, epochs=1)
    mixed = run(conf, epochs=1, batches=half_of_them_flipped)
    assert mixed.forwards == [4]
    live = run(configured(None), epochs=1, batches=half_of_them_flipped)
    torch.testing.assert_close(mixed.weights, live.weights, rtol=1e-5, atol=1e-6)


def test_a_sample_that_comes_twice_in_a_batch_is_computed_once(tmp_path: Path) -> None:
    conf = configured(tmp_path / "store")
    twice = torch.cat([IMAGES[:3], IMAGES[:3]])

    def batches(epoch: int) -> Batches:
        return [(IMAGES[6:8], LABELS[6:8], {}), (twice, LABELS[:6], {})]

    assert run(conf, epochs=1, batches=batches).forwards == [2, 3]


def test_sample_ids_are_the_keys_where_they_are_handed_in(tmp_path: Path) -> None:
    conf = configured(tmp_path / "store")

    def numbered(epoch: int) -> Batches:
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(epoch))
        return [(IMAGES[some] + 0.001 * epoch, LABELS[some], {"sample_ids": some}) for some in order.split(8)]

    assert run(conf, epochs=3, batches=numbered).forwards == [8, 8, 8]  # the user's word: the pixels may differ
    assert run(conf, epochs=1).forwards == [8, 8, 8]  # and a hash is another key

    def named(epoch: int) -> Batches:
        return [(IMAGES[:3], LABELS[:3], {"sample_ids": ["a", "b", "c"]})]

    assert run(conf, epochs=2, batches=named).forwards == [3]


def test_fewer_ids_than_rows_are_an_error(tmp_path: Path) -> None:
    def too_few(epoch: int) -> Batches:
        return [(IMAGES[:4], LABELS[:4], {"sample_ids": [1, 2, 3]})]

    with pytest.raises(UsageError) as caught:
        run(configured(tmp_path / "store"), batches=too_few)
    assert str(caught.value) == "sample_ids holds 3 ids for a batch of 4 rows: hand in one a row"


def test_several_teachers_share_a_store(tmp_path: Path) -> None:
    def two() -> tuple[nn.Module, list[nn.Module]]:
        return student(), [teacher(2), teacher(3)]

    conf = configured(tmp_path / "store")
    live, cold = run(configured(None), models=two()), run(conf, models=two())
    warm = run(conf, models=two())
    assert sorted(cold.forwards) == [8] * 6
    assert warm.forwards == []
    assert torch.equal(cold.weights, warm.weights)
    torch.testing.assert_close(cold.weights, live.weights, rtol=1e-5, atol=1e-6)
    assert [space.rows for space in maintenance.info(tmp_path / "store").spaces] == [ROWS, ROWS]
    assert run(conf, models=(student(), teacher(3))).forwards == []  # each of them has rows of its own


def test_inputs_as_tuples_and_mappings(tmp_path: Path) -> None:
    class Sum(Net2):
        def forward(self, left: torch.Tensor, right: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
            return super().forward(left + scale * right)

    def pair() -> tuple[nn.Module, nn.Module]:
        return made(1, Sum), made(2, Sum).eval()

    values = torch.randn(12, 5)
    scale = torch.tensor([[0.5]])

    def named(epoch: int) -> Batches:
        order = torch.randperm(12, generator=torch.Generator().manual_seed(epoch))
        return [
            ({"left": values[some], "right": values[some.flip(0)][:, :], "scale": scale}, LABELS[some], {})
            for some in order.split(6)
        ]

    conf = configured(tmp_path / "store")
    cold = run(conf, epochs=1, batches=named, models=pair())
    assert cold.forwards == [6, 6]
    assert run(conf, epochs=1, batches=named, models=pair()).forwards == []
    distiller = Distillation(conf, student_model=pair()[0], teacher_model=(taught := pair()[1]))
    with distiller:
        steps = distiller._run.teachers["teacher"]  # type: ignore[union-attr]
        from kdhooks.criterion import Step

        value = (values[:4], values[4:8], 2.0)
        first = steps(value, Step(0, value, None))
        steps.on_after_compute_loss()
        swapped = (values[[1, 8, 0]], values[[5, 9, 4]], 2.0)
        second = steps(swapped, Step(1, swapped, None))
    with torch.no_grad():
        torch.testing.assert_close(first, taught(*value), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(second, taught(*swapped), rtol=1e-5, atol=1e-6)


class Net2(nn.Module):
    """Rows to logits."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(x.tanh())
        return output


def test_bfloat16_inputs_have_keys_of_their_own(tmp_path: Path) -> None:
    def low(epoch: int) -> Batches:
        return [(IMAGES[:8].bfloat16(), LABELS[:8], {})]

    def same_bits(epoch: int) -> Batches:
        return [(IMAGES[:8].bfloat16().view(torch.float16), LABELS[:8], {})]

    def pair(dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
        return student().to(dtype), teacher()

    conf = configured(tmp_path / "store")
    assert run(conf, batches=low, models=pair(torch.bfloat16)).forwards == [8]
    assert run(conf, epochs=1, batches=same_bits, models=pair(torch.float16)).forwards == [8]


def test_weights_of_zero_touch_neither_teacher_nor_store(tmp_path: Path) -> None:
    criterion = {"KnowledgeDistillationLoss": {"loss_types": ["CE", "KL"], "loss_weights": [1.0, 0.0]}}
    plain, stored = run(configured(None, criterion)), run(configured(tmp_path / "store", criterion))
    assert torch.equal(plain.weights, stored.weights)
    assert stored.forwards == []
    assert not (tmp_path / "store").exists()


def test_a_row_is_complete_whatever_the_schedules_say(tmp_path: Path) -> None:
    later = {"linear": {"from": 0.0, "to": 1.0, "steps": 3}}
    criterion = {
        "KnowledgeDistillationLoss": {"loss_types": ["CE", "KL"], "loss_weights": [1.0, later]},
        "IntermediateLayersKnowledgeDistillationLoss": {"layer_mappings": [["stem"]], "loss_types": ["MSE"]},
    }
    ran = run(configured(tmp_path / "store", criterion), epochs=3)
    assert ran.forwards == [8, 8, 8]  # the first step looks at the layer alone, and stores the logits as well
    live = run(configured(None, criterion), epochs=3)
    torch.testing.assert_close(ran.weights, live.weights, rtol=1e-5, atol=1e-6)


def test_where_no_term_looks_at_the_output_the_teacher_ends_early(tmp_path: Path) -> None:
    criterion = {
        "IntermediateLayersKnowledgeDistillationLoss": {
            "layer_mappings": [["stem"]],
            "loss_types": ["MSE"],
            "add_origin_loss": True,
        }
    }
    models = student(), teacher()
    ends: list[int] = []
    handle = models[1].head.register_forward_hook(Ends(ends))
    ran = run(configured(tmp_path / "store", criterion), models=models)
    handle.remove()
    assert ran.forwards == [8, 8, 8]
    assert len(ends) == 1  # the first forward runs whole, to learn the order of the layers
    (space,) = maintenance.info(tmp_path / "store").spaces
    assert [entry["name"] for entry in (space.record or {})["fields"]] == ["stem"]


class Ends:
    """Notes that a layer ran."""

    def __init__(self, ends: list[int]) -> None:
        self._note = ends.append

    def __call__(self, *_: Any) -> None:
        self._note(1)
