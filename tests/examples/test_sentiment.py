"""The parts of the sentiment example: augmentation, batches, students, stored hidden states."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.sentiment.augment import Augmentation, cut_out, make_more
from examples.sentiment.corpus import LONGEST, MASK, Vocabulary, batches, numbers_of, read, write_made_up
from examples.sentiment.preparation import Size, layers_of, prepare, standardised, store
from examples.sentiment.students import BiLSTM, BlendCNN, Transformer
from examples.sentiment.teacher import cut, logits_of, small
from examples.sentiment.training import UNLABELLED, Recipe, Texts, joined, make, quiet, run, train
from kdhooks import Distillation

SENTENCE = ["a", "b", "c", "d", "e", "f", "g", "h"]
OTHER = ["r", "s", "t", "u", "v", "w"]


def contains(words: list[str], part: list[str]) -> bool:
    return any(words[at : at + len(part)] == part for at in range(len(words) - len(part) + 1))


def test_masking_and_dropping_keep_the_order_and_as_many_words_as_they_say() -> None:
    how, rng, words = Augmentation(mask=0.2, drop=0.3), random.Random(0), [str(number) for number in range(5000)]
    found = how.disturb(words, rng)
    left = [int(word) for word in found if word != MASK]
    assert left == sorted(left)
    assert len(found) == pytest.approx(0.7 * 5000, rel=0.05)
    assert found.count(MASK) == pytest.approx(0.2 * 5000, rel=0.1)


def test_a_word_is_left_where_all_would_be_dropped() -> None:
    assert Augmentation(mask=0.0, drop=1.0).disturb(["a"], random.Random(0)) == ["a"]


@pytest.mark.parametrize("seed", range(20))
def test_ngrams_are_parts_of_the_sentence_within_their_bounds(seed: int) -> None:
    part = cut_out(SENTENCE, 5, random.Random(seed))
    assert 1 <= len(part) <= 5
    assert contains(SENTENCE, part)
    assert 3 <= len(cut_out(SENTENCE, 5, random.Random(seed), at_least=3)) <= 5
    assert cut_out(["a"], 5, random.Random(seed), at_least=3) == ["a"]


@pytest.mark.parametrize("seed", range(20))
def test_recombination_joins_a_part_of_each(seed: int) -> None:
    how = Augmentation(mask=0.0, drop=0.0, ngram=0.0, recombine=1.0)
    found = how.vary(SENTENCE, OTHER, random.Random(seed))
    first = [word for word in found if word in SENTENCE]
    second = [word for word in found if word in OTHER]
    assert first and second and found == first + second
    assert contains(SENTENCE, first) and contains(OTHER, second)


def test_new_sentences_are_new_all_different_and_the_same_for_a_seed() -> None:
    given = [SENTENCE, OTHER, ["one"]]
    made = make_more(given, 10, seed=3)
    assert make_more(given, 10, seed=3) == made
    assert make_more(given, 10, seed=4) != made
    assert len({tuple(words) for words in [*given, *made]}) == len(given) + len(made)
    assert len(made) > 15


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    write_made_up(tmp_path, train=30, dev=10, test=10)
    train = read(tmp_path / "train.tsv")
    assert len(train) == 30
    assert set(train.labels.tolist()) == {0, 1}
    line = (tmp_path / "train.tsv").read_text(encoding="utf-8").splitlines()[0]
    assert line == f"{' '.join(train.words[0])}\t{int(train.labels[0])}"


def test_a_vocabulary_numbers_known_unknown_and_masked_words() -> None:
    vocabulary = Vocabulary([["b", "a"], ["a"]])
    numbers = vocabulary.encode([["a", "b", "c", MASK], ["a"] * 100])
    assert numbers.shape == (2, LONGEST)
    assert numbers[0, :5].tolist() == [3, 4, 1, 2, 0]
    assert (numbers[1] == 3).all()


def test_batches_hold_every_row_once_and_sentences_of_similar_length() -> None:
    lengths = torch.randint(1, 40, (1000,), generator=torch.Generator().manual_seed(0))
    made = list(batches(lengths, 50, torch.Generator().manual_seed(1)))
    assert sorted(torch.cat(made).tolist()) == list(range(1000))
    assert max(int(lengths[rows].max() - lengths[rows].min()) for rows in made) <= 6
    assert not torch.equal(torch.cat(made), torch.cat(list(batches(lengths, 50, torch.Generator().manual_seed(2)))))


@pytest.mark.parametrize("student", [BiLSTM(20), BlendCNN(20)], ids=["BiLSTM", "BlendCNN"])
def test_padding_has_no_influence_on_readers_of_words(student: nn.Module) -> None:
    student.eval()
    words = torch.tensor([[3, 4, 5, 6, 7, 8], [9, 10, 0, 0, 0, 0]])
    together = student(words)
    torch.testing.assert_close(together[1:], student(words[1:, :2]))
    assert not torch.allclose(together[:1], student(words[:1].flip(1))), "order counts"


def test_padding_has_no_influence_on_the_transformer() -> None:
    student = Transformer(20).eval()
    tokens, mask = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    torch.testing.assert_close(student(tokens, mask)[1:], student(tokens[1:, :2], mask[1:, :2]))


@pytest.mark.parametrize(("at_least", "numbers"), [(1, [0, 1, 1, 2, 1, 1, 1, 3]), (2, [0, 1, 1, 1, 1, 1, 1, 2])])
def test_students_number_the_words_that_the_training_sentences_have_often_enough(
    at_least: int, numbers: list[int]
) -> None:
    assert numbers_of(torch.tensor([[7, 3, 0], [7, 0, 0]]), 8, at_least).tolist() == numbers


@pytest.mark.parametrize("kind", [BiLSTM, BlendCNN])
def test_words_of_one_number_are_one_word_to_a_student(kind: Callable[[Tensor], nn.Module]) -> None:
    student = kind(torch.tensor([0, 1, 1, 2, 3])).eval()
    torch.testing.assert_close(student(torch.tensor([[3, 1]])), student(torch.tensor([[3, 2]])), rtol=0, atol=0)
    assert not torch.allclose(student(torch.tensor([[3, 1]])), student(torch.tensor([[4, 1]])))


def made_up(tmp_path: Path) -> tuple[nn.Module, Texts]:
    write_made_up(tmp_path, train=40, dev=20, test=20)
    train_part = read(tmp_path / "train.tsv")
    torch.manual_seed(0)
    teacher, tokenizer = small(train_part)
    tokens = tokenizer(train_part.words)
    words = Vocabulary(train_part.words).encode(train_part.words)
    return teacher, Texts(words, tokens, train_part.labels, logits_of(teacher, tokens))


def student_of(recipe: Recipe, texts: Texts) -> nn.Module:
    pieces = int(texts.tokens["input_ids"].max()) + 1
    return make(recipe, texts, words=int(texts.words.max()) + 1, pieces=pieces)


def test_stored_hidden_states_are_those_of_the_teacher_standardised(tmp_path: Path) -> None:
    teacher, texts = made_up(tmp_path)
    stored = store(teacher, texts.tokens, layers_of(teacher))
    rows, seen = torch.arange(len(texts)), {}
    part = cut(texts.tokens, rows)
    for model, names in ((stored, ("states.0", "states.2")), (teacher, ("norm", "layers.3"))):
        for name in names:
            hook = functools.partial(lambda name, *call: seen.__setitem__(name, call[2]), name)
            model.get_submodule(name).register_forward_hook(hook)
    mean = stored(rows)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        teacher.eval()(**part)
    counts = part["attention_mask"].bool()
    for ours, theirs in (("states.0", "norm"), ("states.2", "layers.3")):
        states = seen[theirs][counts].float()
        expected = (states - states.mean(0)) / states.std(0)
        torch.testing.assert_close(seen[ours][counts], expected, atol=0.15, rtol=0.05)
        assert not seen[ours][~counts].any()
    torch.testing.assert_close(mean[3], seen["states.2"][3][counts[3]].mean(0))


def test_a_constant_channel_is_standardised_to_zero() -> None:
    states = torch.tensor([[1.0, 7.0], [3.0, 7.0]])
    torch.testing.assert_close(standardised(states), torch.tensor([[-1.0, 0.0], [1.0, 0.0]]) / 2**0.5)


def test_a_pair_of_weight_0_is_left_out_of_the_configuration() -> None:
    name = "IntermediateLayersKnowledgeDistillationLoss"
    criteria = Recipe("Transformer", features=(0.0, 2.0, 0.0, 3.0)).conf()["distillation"]["train"]["criterion"]
    told = {"layer_mappings": [["layers.0", "states.1"], ["mean", "mean"]], "loss_types": "MSE"}
    assert criteria[name] == {**told, "loss_weights": [2.0, 3.0]}
    assert name not in Recipe("Transformer", features=(0.0,)).conf()["distillation"]["train"]["criterion"]


def test_the_transformer_follows_stored_features(tmp_path: Path) -> None:
    teacher, texts = made_up(tmp_path)
    hidden = store(teacher, texts.tokens, layers_of(teacher))
    recipe = Recipe("Transformer", dropout=0.0, features=(1.0, 1.0, 1.0, 1.0))
    student, rows, seen = student_of(recipe, texts), torch.arange(len(texts)), []
    optimizer = torch.optim.Adam(student.parameters(), lr=5e-3)
    with Distillation(recipe.conf(), student_model=student, teacher_model=hidden) as distiller:
        distiller.on_train_begin(optimizer=optimizer)
        for _ in range(40):
            x = texts.batch(student, rows)
            output = run(student, x)
            loss = F.cross_entropy(output, texts.labels)
            loss = distiller.on_after_compute_loss(x, output, loss, teacher_output=texts.taught, teacher_input=rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(distiller.losses)
    for name in ("MSE[norm]", "MSE[layers.0]", "MSE[layers.1]", "MSE[mean]"):
        assert seen[-1][name] < 0.6 * seen[0][name], name


@pytest.mark.parametrize("name", ["BiLSTM", "BlendCNN", "Transformer"])
def test_a_student_follows_the_teacher_on_sentences_without_labels(name: str, tmp_path: Path) -> None:
    quiet()
    _, texts = made_up(tmp_path)
    taught = torch.where(texts.labels[:, None] == torch.arange(2), 2.0, -2.0)
    unlabelled = replace(texts, labels=torch.full_like(texts.labels, UNLABELLED), taught=taught)
    both = joined(unlabelled, unlabelled)
    assert len(both) == 2 * len(texts)
    recipe = Recipe(name, epochs=20, rate=5e-3, dropout=0.0, size=16, loss="MSE", weights=(0.0, 1.0))
    torch.manual_seed(0)
    student = student_of(recipe, texts)
    assert train(recipe, student, both, texts, seed=0).dev > 90


def test_alone_is_the_plain_loop(tmp_path: Path) -> None:
    quiet()
    _, texts = made_up(tmp_path)
    recipe = Recipe("BlendCNN", epochs=2, size=16)
    weights = []
    for taught in (texts.taught, -100 * texts.taught):
        torch.manual_seed(0)
        student = student_of(recipe, texts)
        done = train(recipe, student, replace(texts, taught=taught), texts, seed=0)
        assert done.losses["total"] == done.losses["CE"]
        weights.append(torch.cat([p.flatten() for p in done.student.parameters()]))
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_what_was_prepared_is_kept(tmp_path: Path) -> None:
    write_made_up(tmp_path, train=40, dev=20, test=20)
    size, said = Size(minilm=False, teacher_epochs=1, teacher_rate=1e-3, times=1), []
    first = prepare(tmp_path, size, keep=tmp_path / "kept", watch=said.append)
    count = len(said)
    again = prepare(tmp_path, size, keep=tmp_path / "kept", watch=said.append)
    assert len(said) == count > 0
    assert torch.equal(first.more.taught, again.more.taught)
    assert (first.more.labels == -100).all()
