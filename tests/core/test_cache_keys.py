"""Keys know a row's own content, and fingerprints a teacher's."""

from __future__ import annotations

import numpy as np
import pytest

from kdhooks.cache import Bits, Codec, Weight, fingerprint, id_keys, row_keys
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


def test_padding_behind_the_tokens_does_not_matter() -> None:
    plain = row_keys(tokens([1, 2, 3], 0, 0))
    assert row_keys(tokens([1, 2, 3], 0, 5)) == row_keys(tokens([1, 2, 3], 0, 1)) == plain
    assert row_keys(tokens([1, 2, 4], 0, 0)) != plain
    assert row_keys(tokens([1, 2, 3, 3], 0, 0)) != plain
    gap = tokens([1, 8, 2, 3], 0, 0)
    gap["attention_mask"][0, 1] = 0
    assert row_keys(gap) != plain  # a gap moves the tokens behind it


def test_padding_before_the_tokens_moves_their_positions() -> None:
    keys = [row_keys(tokens([1, 2, 3], left, 1))[0] for left in range(4)]
    assert len(set(keys)) == 4
    free = [row_keys(tokens([1, 2, 3], left, right), padding_free=True) for left, right in ((0, 0), (2, 0), (1, 3))]
    assert free == [[keys[0]]] * 3


def test_positions_that_come_along_are_part_of_the_key_and_padding_is_not() -> None:
    def positioned(left: int, right: int, first: int) -> list[bytes]:
        value = tokens([1, 2, 3], left, right)
        places = [6] * left + [first, first + 1, first + 2] + [8] * right
        return row_keys({**value, "position_ids": np.array([places])})

    assert positioned(0, 0, 0) == positioned(3, 0, 0) == positioned(1, 2, 0)
    assert positioned(3, 0, 3) == positioned(0, 2, 3) != positioned(0, 0, 0)


@pytest.mark.parametrize("name", ["token_type_ids", "special_tokens_mask", "langs"])
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, bool])
def test_whatever_stands_at_padding_does_not_matter(name: str, dtype: type) -> None:
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 0]])
    ids, beside = DRAW.integers(0, 2, (2, 4)), DRAW.integers(0, 2, (2, 4)).astype(dtype)
    keys = row_keys({"input_ids": ids, "attention_mask": mask, name: beside})
    other_ids, other = np.where(mask, ids, 99), np.where(mask, beside, ~beside if dtype is bool else 7).astype(dtype)
    assert row_keys({"input_ids": other_ids, "attention_mask": mask, name: other}) == keys
    other[0, 0] ^= 1
    changed = row_keys({"input_ids": other_ids, "attention_mask": mask, name: other})
    assert changed[0] != keys[0] and changed[1] == keys[1]


def test_a_mask_beside_arrays_that_have_no_tokens_counts() -> None:
    embedded = DRAW.standard_normal((1, 3, 4), dtype=np.float32)
    masks = [np.array([bits]) for bits in ([1, 1, 1], [1, 1, 0], [0, 1, 1])]
    assert len({row_keys(embedded, mask)[0] for mask in masks}) == 3
    ids = np.array([[1, 2, 3]])
    named = row_keys({"input_ids": ids}, masks[1])
    assert row_keys({"input_ids": ids + np.array([0, 0, 4])}, masks[1]) == named


def test_bits_of_a_dtype_that_numpy_does_not_have() -> None:
    bits = np.array([[0x3F80, 0], [0, 0x4000]], np.uint16)
    keys = row_keys({"x": Bits(bits, "bfloat16")})
    assert row_keys({"x": Bits(bits[::-1], "bfloat16")}) == keys[::-1]
    assert not set(keys) & {*row_keys({"x": bits}), *row_keys({"x": Bits(bits, "float16")})}
    mask = np.ones((2, 2), bool)
    assert row_keys({"x": Bits(bits, "bfloat16"), "attention_mask": mask}) != row_keys(
        {"x": bits, "attention_mask": mask}
    )


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
