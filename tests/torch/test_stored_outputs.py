"""A dataset that brings the stored outputs along: other loops than ours, workers, layers, tokens, and no teacher."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from kdhooks import Distillation
from kdhooks.cache import StoreError, maintenance
from kdhooks.errors import DataError, UsageError
from kdhooks.torch import StoredOutputs
from tests.torch.stored_runs import IMAGES, LABELS, LAYERS, LOGITS, ROWS, Batches, configured, run, student, teacher
from tests.torch.test_store_layers import LENGTHS, TOKEN_LOGITS, TOKENS, padded, readers


class Images(Dataset[Any]):
    """Images and labels, row by row."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return IMAGES[index], LABELS[index]


class Named(Images):
    """The same as mappings."""

    def __getitem__(self, index: int) -> Any:
        return {"x": IMAGES[index].numpy(), "labels": int(LABELS[index])}


def space(store: Path) -> str:
    return maintenance.info(store).spaces[0].name


@pytest.fixture
def store(tmp_path: Path) -> Path:
    run(configured(tmp_path / "store"), epochs=1)
    return tmp_path / "store"


def without_teacher(data: Dataset[Any], criterion: dict[str, Any] = LOGITS) -> Tensor:
    """A loop of a user's that hands in what the dataset brings."""
    learner = student()
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    with Distillation(configured(None, criterion), student_model=learner) as distiller:
        for x, y, *said in DataLoader(data, batch_size=8):
            output = learner(x)
            given = {"teacher_features": said[-1]} if isinstance(said[-1], dict) else {}
            logits = said[0] if isinstance(said[0], Tensor) else None
            loss = distiller.on_after_compute_loss(x, output, F.cross_entropy(output, y), logits, target=y, **given)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return torch.cat([weight.detach().flatten() for weight in learner.parameters()])


def in_order(epoch: int) -> Batches:
    return [(x, y, {}) for x, y in DataLoader(Images(), batch_size=8)]


def test_a_loop_without_a_teacher_trains_the_student_of_a_warm_run(store: Path) -> None:
    warm = run(configured(store), epochs=1, batches=in_order)
    assert warm.forwards == []
    assert torch.equal(without_teacher(StoredOutputs(Images(), store)), warm.weights)
    assert torch.equal(without_teacher(StoredOutputs(TensorDataset(IMAGES, LABELS), store)), warm.weights)


def test_hidden_layers_come_along(tmp_path: Path) -> None:
    layers = {
        "IntermediateLayersKnowledgeDistillationLoss": {
            "layer_mappings": [["stem"], ["twice", "0", "twice", "1"]],
            "loss_types": ["MSE"],
            "add_origin_loss": True,
        }
    }
    for number, criterion in enumerate((layers, {**LOGITS, **layers})):
        conf = configured(tmp_path / str(number), criterion)
        warm = [run(conf, epochs=1, batches=in_order) for _ in range(2)][1]
        data = StoredOutputs(Images(), tmp_path / str(number))
        assert torch.equal(without_teacher(data, criterion), warm.weights)
        assert set(data[0].teacher_features) == {"stem", "twice"}


def test_two_values_of_one_layer_are_an_error(tmp_path: Path) -> None:
    run(configured(tmp_path / "store", LAYERS), epochs=1)
    with pytest.raises(UsageError) as caught:
        StoredOutputs(Images(), tmp_path / "store")
    assert str(caught.value) == ("the store holds twice['0'] and twice['1'], and teacher_features takes one a layer")


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_open_the_store_themselves(store: Path, start: str) -> None:
    data = StoredOutputs(Images(), store)
    data[0]  # the parent has it open
    loader = DataLoader(data, batch_size=6, num_workers=2, multiprocessing_context=start)
    said = torch.cat([batch.teacher_output for batch in loader])
    with torch.no_grad():
        torch.testing.assert_close(said, teacher()(IMAGES), rtol=1e-5, atol=1e-6)


def test_it_is_pickled_without_what_is_open(store: Path) -> None:
    data = StoredOutputs(Images(), store)
    first = data[3].teacher_output
    assert torch.equal(pickle.loads(pickle.dumps(data))[3].teacher_output, first)


def test_mappings_get_further_keys(store: Path) -> None:
    sample = StoredOutputs(Named(), store, input=lambda sample: torch.from_numpy(sample["x"]))[2]
    assert list(sample) == ["x", "labels", "teacher_output"]
    with torch.no_grad():
        torch.testing.assert_close(sample["teacher_output"], teacher()(IMAGES[2:3])[0], rtol=1e-5, atol=1e-6)


def test_rows_by_their_numbers(tmp_path: Path) -> None:
    def numbered(epoch: int) -> Batches:
        return [(IMAGES[some], LABELS[some], {"sample_ids": some}) for some in torch.arange(ROWS).split(8)]

    run(configured(tmp_path / "store"), epochs=1, batches=numbered)
    augmented = TensorDataset(IMAGES + 1, LABELS)
    said = StoredOutputs(augmented, tmp_path / "store", by="index")
    with torch.no_grad():
        torch.testing.assert_close(said[5].teacher_output, teacher()(IMAGES[5:6])[0], rtol=1e-5, atol=1e-6)
        assert torch.equal(said[-1].teacher_output, said[ROWS - 1].teacher_output)
    with pytest.raises(DataError) as caught:
        StoredOutputs(augmented, tmp_path / "store")[5]
    assert str(caught.value) == (
        f"sample 5 is not in the store {tmp_path / 'store'}, in {space(tmp_path / 'store')}: it was stored with "
        "another content or another number, or not at all"
    )


@pytest.mark.parametrize("options", [{}, {"top_k": 3, "dtype": "float16"}], ids=["whole", "top-k"])
def test_tokens_of_texts(tmp_path: Path, options: dict[str, Any]) -> None:
    run(configured(tmp_path / "store", TOKEN_LOGITS, **options), epochs=1, batches=padded(4), models=readers())
    samples = [
        {"input_ids": TOKENS[row, :length].tolist(), "attention_mask": [1] * length, "labels": 0}
        for row, length in enumerate(LENGTHS)
    ]
    data = StoredOutputs(samples, tmp_path / "store")
    shapes = [list(data[row]["teacher_output"].shape) for row in range(len(samples))]
    assert shapes == [[length, 11] for length in LENGTHS]
    if not options:
        ids = TOKENS[2:3, : LENGTHS[2]]
        with torch.no_grad():
            expected = readers()[1](ids, torch.ones_like(ids))[0]
        torch.testing.assert_close(data[2]["teacher_output"], expected, rtol=1e-5, atol=1e-6)


def test_which_teacher_is_meant(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with pytest.raises(StoreError) as absent:
        StoredOutputs(Images(), store)
    assert str(absent.value) == f"{store}: there is no store"
    run(configured(store), epochs=1, models=(student(), [teacher(2), teacher(3)]))
    first, second = sorted(entry.name for entry in maintenance.info(store).spaces)
    with pytest.raises(UsageError) as several:
        StoredOutputs(Images(), store)
    assert str(several.value) == (
        f"the store {store} holds outputs of 2 teachers: say which with teacher\n"
        f"  {first} (Net, fp32; 24 rows)\n  {second} (Net, fp32; 24 rows)"
    )
    assert StoredOutputs(Images(), store, teacher=second[:8]).space.name == second
    with pytest.raises(UsageError) as none:
        StoredOutputs(Images(), store, teacher="zz")
    assert str(none.value) == (
        f"the store {store} holds no teachers whose name begins with 'zz'\n"
        f"  {first} (Net, fp32; 24 rows)\n  {second} (Net, fp32; 24 rows)"
    )


def test_what_it_can_stand_before(store: Path) -> None:
    class Endless(IterableDataset[Any]):
        """Samples without numbers."""

        def __iter__(self) -> Any:
            return iter(())

    with pytest.raises(UsageError) as caught:
        StoredOutputs(Endless(), store)
    assert str(caught.value) == ("StoredOutputs needs a dataset whose samples have numbers: __getitem__ and __len__")
    with pytest.raises(UsageError) as by:
        StoredOutputs(Images(), store, by="name")  # type: ignore[arg-type]
    assert str(by.value) == "by must be 'content' or 'index', not 'name'"


def test_the_built_in_loop_takes_it(store: Path) -> None:
    def fitted(loader: Any, taught: Any) -> Tensor:
        learner = student()
        distiller = Distillation(configured(None), student_model=learner, teacher_model=taught)
        distiller.conf["distillation.train.end_epoch"] = 2
        distiller.optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
        distiller.train_dataloader = loader
        distiller.conf["tuning.workspace.path"] = str(store.parent / "run")
        distiller.fit()
        return torch.cat([weight.detach().flatten() for weight in learner.parameters()])

    live = fitted(DataLoader(Images(), batch_size=8), teacher())
    stored = fitted(DataLoader(StoredOutputs(Images(), store), batch_size=8), None)
    torch.testing.assert_close(stored, live, rtol=1e-5, atol=1e-6)
