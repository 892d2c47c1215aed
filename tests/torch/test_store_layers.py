"""Hidden layers and tokens that are stored: selectors, calls, pooled maps, padding, attention maps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdhooks import Distillation
from kdhooks.cache import maintenance
from tests.torch.small_models import made
from tests.torch.stored_runs import IMAGES, LOGITS, Batches, configured, run, student, teacher

VOCABULARY = 11
TOKENS = torch.randint(1, VOCABULARY, (12, 6), generator=torch.Generator().manual_seed(3))
LENGTHS = [6, 2, 3, 5, 4, 6, 1, 3, 6, 2, 5, 4]


def pairs(*mappings: Any, **options: Any) -> dict[str, Any]:
    given = {"layer_mappings": list(mappings), "loss_types": ["MSE"], "add_origin_loss": True, **options}
    return {"IntermediateLayersKnowledgeDistillationLoss": given}


def fields(store: Path) -> dict[str, tuple[list[int], bool]]:
    (space,) = maintenance.info(store).spaces
    return {entry["name"]: (entry["shape"], entry["tokens"]) for entry in (space.record or {})["fields"]}


def test_two_selectors_of_one_layer_and_a_layers_input(tmp_path: Path) -> None:
    criterion = pairs(["twice", "0", "twice", "0"], ["twice", "0", "twice", "1"], ["head:input", "head:input"])
    conf = configured(tmp_path / "store", criterion)
    live, cold, warm = run(configured(None, criterion)), run(conf), run(conf)
    assert fields(tmp_path / "store") == {
        "head:input": ([6], False),
        "twice['0']": ([6, 6, 6], False),
        "twice['1']": ([6, 6, 6], False),
    }
    assert torch.equal(cold.weights, warm.weights)
    torch.testing.assert_close(cold.weights, live.weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("calls", ["first", "mean", "all"])
def test_several_calls_of_a_layer(tmp_path: Path, calls: str) -> None:
    criterion = pairs({"student": "twice.layer", "teacher": "twice.layer", "calls": calls})
    conf = configured(tmp_path / "store", criterion)
    live, cold, warm = run(configured(None, criterion)), run(conf), run(conf)
    assert torch.equal(cold.weights, warm.weights)
    assert warm.forwards == []
    torch.testing.assert_close(cold.weights, live.weights, rtol=1e-5, atol=1e-6)
    assert len(fields(tmp_path / "store")) == (2 if calls == "all" else 1)


def test_a_function_as_a_selector_is_part_of_the_name(tmp_path: Path) -> None:
    from kdhooks.torch import IntermediateLayersKnowledgeDistillationLoss as Layers

    def trained(selector: Callable[[Any], Any]) -> list[int]:
        forwards: list[int] = []
        from tests.torch.stored_runs import watched

        learner, taught = student(), teacher()
        handle = watched(taught, forwards)
        distiller = Distillation(configured(tmp_path / "store"), student_model=learner, teacher_model=taught)
        distiller.criterion = Layers([["twice", "0", "twice", selector]], ["MSE"], add_origin_loss=True)
        with distiller:
            output = learner(IMAGES[:6])
            distiller.on_after_compute_loss(IMAGES[:6], output, output.sum()).backward()
        handle.remove()
        return forwards

    assert trained(lambda maps: maps[1]) == [6]
    assert trained(lambda maps: maps[1]) == []
    assert trained(lambda maps: maps[0]) == [6]


def test_maps_are_averaged_before_they_are_stored(tmp_path: Path) -> None:
    criterion = pairs(["stem", "stem"], ["head:input", "head:input"])
    conf = configured(tmp_path / "store", criterion, pool=[2, 3])
    cold, warm = run(conf), run(conf)
    assert fields(tmp_path / "store") == {"head:input": ([6], False), "stem": ([6, 2, 3], False)}
    assert torch.equal(cold.weights, warm.weights)


def test_features_in_another_dtype_than_logits(tmp_path: Path) -> None:
    conf = configured(tmp_path / "store", {**LOGITS, **pairs(["stem"])}, feature_dtype="float16")
    run(conf)
    (space,) = maintenance.info(tmp_path / "store").spaces
    kinds = {entry["name"]: entry["codec"]["dtype"] for entry in (space.record or {})["fields"]}
    assert kinds == {"logits": "float32", "stem": "float16"}


# ---- tokens ------------------------------------------------------------------------------------------


class Reader(nn.Module):
    """Tokens to logits of each token; padding changes no other position."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.body = nn.Linear(width, width)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        shown = self.embedding(input_ids) * attention_mask.unsqueeze(-1)
        hidden = self.body(shown + shown.sum(1, keepdim=True)).tanh()
        output: Tensor = self.head(hidden)
        return output


class Judge(Reader):
    """Tokens to logits of the whole text."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        shown = self.embedding(input_ids) * attention_mask.unsqueeze(-1)
        output: Tensor = self.head(self.body(shown).tanh().mul(attention_mask.unsqueeze(-1)).sum(1))
        return output


def readers(kind: type[nn.Module] = Reader) -> tuple[nn.Module, nn.Module]:
    return made(1, kind), made(2, kind).eval()


def padded(size: int, *, masked: bool = False, left: bool = False, whole: bool = False) -> Callable[[int], Batches]:
    """Batches of texts, padded to the longest of each; with the mask handed in where it is asked for."""

    def batches(epoch: int) -> Batches:
        order = torch.randperm(12, generator=torch.Generator().manual_seed(epoch))
        found = []
        for some in order.split(size):
            longest = 6 if whole else max(LENGTHS[row] for row in some)
            ids, mask = torch.zeros(len(some), longest, dtype=torch.int64), torch.zeros(len(some), longest).long()
            for place, row in enumerate(some.tolist()):
                where = slice(longest - LENGTHS[row], longest) if left else slice(0, LENGTHS[row])
                ids[place, where], mask[place, where] = TOKENS[row, : LENGTHS[row]], 1
            target = torch.where(mask == 1, ids, -100)
            more = {"mask": mask == 1} if masked else {}
            found.append(({"input_ids": ids, "attention_mask": mask}, target, more))
        return found

    return batches


TOKEN_LOGITS = {
    "KnowledgeDistillationLoss": {"loss_types": ["CE", "KL"], "loss_weights": [0.5, 0.5], "ignore_index": None}
}
TOKEN_PAIRS = pairs(["body"], feature_mask="attention_mask")


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_padding_counts_in_no_loss_though_nothing_says_so(tmp_path: Path, left: bool) -> None:
    criterion = {**TOKEN_LOGITS, **pairs(["body"])}
    told = {**TOKEN_LOGITS, **TOKEN_PAIRS}
    conf = configured(tmp_path / "store", criterion)
    live = run(configured(None, told), batches=padded(4, masked=True, left=left), models=readers())
    cold = run(conf, batches=padded(4, left=left), models=readers())
    warm = run(conf, batches=padded(4, left=left), models=readers())
    assert torch.equal(cold.weights, warm.weights)
    assert warm.forwards == []
    torch.testing.assert_close(cold.weights, live.weights, rtol=1e-5, atol=1e-6)
    assert fields(tmp_path / "store") == {"body": ([4], True), "logits": ([VOCABULARY], True)}


def test_a_mask_that_is_handed_in_counts_as_well(tmp_path: Path) -> None:
    def half(epoch: int) -> Batches:
        for value, target, _ in padded(4)(epoch):
            mask = value["attention_mask"].bool()
            mask[:, ::2] = False
            yield value, target, {"mask": mask}

    conf = configured(tmp_path / "store", TOKEN_LOGITS)
    live = run(configured(None, TOKEN_LOGITS), batches=half, models=readers())
    run(conf, batches=padded(4), models=readers())
    warm = run(conf, batches=half, models=readers())
    assert warm.forwards == []
    torch.testing.assert_close(warm.weights, live.weights, rtol=1e-5, atol=1e-6)


def test_other_batches_of_tokens_and_other_padding(tmp_path: Path) -> None:
    conf = configured(tmp_path / "store", {**TOKEN_LOGITS, **TOKEN_PAIRS}, dtype="float16", top_k=3)
    run(conf, epochs=1, batches=padded(4), models=readers())
    assert run(conf, batches=padded(5), models=readers()).forwards == []
    assert run(conf, batches=padded(3, whole=True), models=readers()).forwards == []
    left = run(conf, epochs=1, batches=padded(3, left=True), models=readers())  # positions may be counted from there
    assert 0 < sum(left.forwards) < 12


def test_logits_of_whole_texts_beside_features_of_tokens(tmp_path: Path) -> None:
    criterion = {**LOGITS, **pairs(["body"])}

    def labelled(epoch: int) -> Batches:
        return [(value, target.clamp(min=0).amax(1), {}) for value, target, _ in padded(4)(epoch)]

    live = run(configured(None, {**LOGITS, **TOKEN_PAIRS}), batches=labelled, models=readers(Judge))
    cold = run(configured(tmp_path / "store", criterion), batches=labelled, models=readers(Judge))
    torch.testing.assert_close(cold.weights, live.weights, rtol=1e-5, atol=1e-6)
    assert fields(tmp_path / "store") == {"body": ([4], True), "logits": ([VOCABULARY], False)}


def test_tokens_without_a_mask_may_have_several_lengths(tmp_path: Path) -> None:
    class Plain(Reader):
        def forward(self, input_ids: Tensor) -> Tensor:
            return super().forward(input_ids, torch.ones_like(input_ids))

    def lengths(epoch: int) -> Batches:
        return [(TOKENS[:4], TOKENS[:4], {}), (TOKENS[4:8, :3], TOKENS[4:8, :3], {})]

    conf = configured(tmp_path / "store", TOKEN_LOGITS)
    live = run(configured(None, TOKEN_LOGITS), batches=lengths, models=readers(Plain))
    cold, warm = (run(conf, batches=lengths, models=readers(Plain)) for _ in range(2))
    assert cold.forwards == [4, 4] and warm.forwards == []
    torch.testing.assert_close(warm.weights, live.weights, rtol=1e-5, atol=1e-6)


class Attending(Reader):
    """Returns attention maps [N, heads, T, T] besides logits."""

    def __init__(self, width: int = 4) -> None:
        super().__init__(width)
        self.maps = nn.Identity()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.body(self.embedding(input_ids))
        scores = (hidden @ hidden.transpose(1, 2)).masked_fill(attention_mask.unsqueeze(1) == 0, -9.0)
        maps = self.maps(scores.softmax(-1).unsqueeze(1))
        output: Tensor = self.head(maps[:, 0] @ hidden)
        return output


def test_attention_maps_belong_to_their_padding(tmp_path: Path) -> None:
    criterion = pairs(["maps"], feature_mask="attention_mask")
    conf = configured(tmp_path / "store", criterion)
    live = run(configured(None, criterion), batches=padded(4, whole=True), models=readers(Attending))
    cold = run(conf, batches=padded(4, whole=True), models=readers(Attending))
    warm = run(conf, batches=padded(6, whole=True), models=readers(Attending))
    torch.testing.assert_close(cold.weights, live.weights, rtol=1e-5, atol=1e-6)
    assert cold.forwards == [4, 4, 4] and warm.forwards == []
    left = run(conf, epochs=1, batches=padded(4, whole=True, left=True), models=readers(Attending))
    assert sum(left.forwards) == sum(length < 6 for length in LENGTHS)  # whole texts have no padding to lie elsewhere


def test_a_batch_of_another_shape_runs_without_the_store(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    criterion = pairs(["maps"], feature_mask="attention_mask")
    conf = configured(tmp_path / "store", criterion)
    live = run(configured(None, criterion), batches=padded(3), models=readers(Attending))
    cold = run(conf, batches=padded(3), models=readers(Attending))
    torch.testing.assert_close(cold.weights, live.weights, rtol=1e-5, atol=1e-6)
    assert len(cold.forwards) == len(live.forwards)  # what was computed of such a batch is used
    told = [record.getMessage() for record in caplog.records if "leaves batches out" in record.getMessage()]
    assert told == [
        f"the cache {tmp_path / 'store'} leaves batches out: the output 'maps' has rows of shape (1, 4, 4), and the "
        "stored ones (1, 6, 6)"
    ]


@pytest.mark.parametrize("shift", [False, True])
def test_a_large_vocabulary_follows_stored_hidden_states(tmp_path: Path, shift: bool) -> None:
    criterion = {"LargeVocabularyDistillationLoss": {"student_head": "head", "temperature": 2.0, "shift": shift}}
    conf = configured(tmp_path / "store", criterion)
    live = run(configured(None, criterion), batches=padded(4, masked=True), models=readers())
    cold, warm = (run(conf, batches=padded(4), models=readers()) for _ in range(2))
    assert torch.equal(cold.weights, warm.weights)
    assert warm.forwards == []
    torch.testing.assert_close(cold.weights, live.weights, rtol=1e-5, atol=1e-6)
    assert fields(tmp_path / "store") == {"head:input": ([4], True)}
