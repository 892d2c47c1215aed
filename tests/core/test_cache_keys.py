"""Keys know a row's own content, and fingerprints a teacher's."""

from __future__ import annotations

import numpy as np
import pytest

from kdhooks.cache import Codec, Weight, fingerprint, id_keys, row_keys
from kdhooks.errors import DataError

DRAW = np.random.default_rng(5)


def test_batch_composition_and_order_do_not_matter() -> None:
    images = DRAW.standard_normal((6, 3, 4, 4), dtype=np.float32)
    keys = row_keys(images)
    assert row_keys(images[::-1]) == keys[::-1]
    assert [row_keys(images[i : i + 1])[0] for i in range(6)] == keys
    assert row_keys(np.asfortranarray(images)) == keys
    assert len(set(keys)) == 6 and {len(key) for key in keys} == {16}


def test_dtype_shape_and_place_count() -> None:
    zeros = [np.zeros((1, 4), np.float32), np.zeros((1, 4), np.int32), np.zeros((1, 2, 2), np.float32)]
    keys = [row_keys(value)[0] for value in zeros]
    a, b = zeros[0], zeros[0] + 1
    keys += [row_keys((a, b))[0], row_keys((b, a))[0], row_keys({"x": a, "y": b})[0]]
    keys += [row_keys({"x": a, "y": b, "deep": True})[0]]
    assert len(set(keys)) == len(keys)


def tokens(ids: list[int], left: int, right: int) -> dict[str, np.ndarray]:
    padded = [7] * left + ids + [9] * right
    mask = [0] * left + [1] * len(ids) + [0] * right
    kinds = [4] * left + [0] * len(ids) + [5] * right
    return {"input_ids": np.array([padded]), "attention_mask": np.array([mask]), "kinds": np.array([kinds])}


def test_padding_does_not_matter() -> None:
    plain = row_keys(tokens([1, 2, 3], 0, 0))
    assert row_keys(tokens([1, 2, 3], 0, 5)) == row_keys(tokens([1, 2, 3], 2, 1)) == plain
    assert row_keys(tokens([1, 2, 4], 0, 0)) != plain
    assert row_keys(tokens([1, 2, 3, 3], 0, 0)) != plain
    gap = tokens([1, 8, 2, 3], 0, 0)
    gap["attention_mask"][0, 1] = 0
    assert row_keys(gap) != plain  # a gap moves the tokens behind it


def test_ids_cannot_be_taken_for_hashes_or_for_each_other() -> None:
    keys = id_keys([1, -1, 2**70, "1", "a"])
    assert len(set(keys)) == 5 and 16 not in {len(key) for key in keys}
    assert id_keys(np.array([1, -1])) == keys[:2]
    with pytest.raises(DataError) as error:
        id_keys([1.5])
    assert str(error.value) == "sample_ids must be whole numbers or texts, and one of them is 1.5"


def test_an_input_without_rows_is_said() -> None:
    with pytest.raises(DataError) as error:
        row_keys({"a": 1})
    assert str(error.value) == "an input without arrays has no key: hand in sample_ids"
    with pytest.raises(DataError) as error:
        row_keys((np.zeros((2, 1)), np.zeros((3, 1))))
    assert str(error.value) == "the input '.0' has 2 rows beside 3, so rows have no keys: hand in sample_ids"


def test_texts_are_keyed_whatever_the_widest_of_the_batch() -> None:
    assert row_keys(np.array(["a", "bcd"]))[0] == row_keys(np.array(["a"]))[0]


def test_whatever_changes_a_teacher_changes_its_fingerprint() -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    other = weight.copy()
    other[1, 2] += 1
    names = [
        fingerprint([Weight("w", weight)]),
        fingerprint([Weight("w", other)]),
        fingerprint([Weight("v", weight)]),
        fingerprint([Weight("w", weight.reshape(3, 2))]),
        fingerprint([Weight("w", weight)], precision="bf16"),
        fingerprint([Weight("w", weight)], layers=["layer1"]),
        fingerprint([Weight("w", weight)], code=[Codec]),
        fingerprint([Weight("w", weight)], codecs={"logits": Codec()}),
        fingerprint([Weight("w", weight)], codecs={"logits": Codec("float16")}),
    ]
    assert len(set(names)) == len(names) and {len(name) for name in names} == {32}
    assert fingerprint([Weight("w", weight.copy())]) == names[0]
