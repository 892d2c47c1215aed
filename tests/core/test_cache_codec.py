"""What comes back from a stored row: the numbers of its codec, whatever rows were beside it."""

from __future__ import annotations

import numpy as np
import pytest

from kdhooks.cache import Codec, Layout, Tokens, TopK
from kdhooks.errors import DataError, UsageError


def draw(*shape: int) -> np.ndarray:
    return (np.random.default_rng(3).standard_normal(shape) * 5).astype(np.float32)


def through(codec: Codec, value: object) -> object:
    layout = Layout.of({"out": codec}, {"out": value})
    assert Layout.from_dict(layout.to_dict()) == layout
    return layout.decode(layout.encode({"out": value}))["out"]


def test_float32_is_exact_and_keeps_what_is_not_finite() -> None:
    rows = np.array([[1.5, np.nan, np.inf], [-np.inf, -0.0, 1e-40]], np.float32)
    back = through(Codec("float32"), rows)
    assert back.tobytes() == rows.tobytes()


def test_float16_rounds_as_numpy_and_never_overflows() -> None:
    rows = draw(4, 7)
    assert np.array_equal(through(Codec("float16"), rows), rows.astype(np.float16).astype(np.float32))
    assert through(Codec("float16"), np.array([[1e9, -1e9, np.inf]], np.float32)).tolist() == [[65504, -65504, np.inf]]


def test_bfloat16_rounds_to_nearest_even() -> None:
    rows = np.array([[1.0, 1 + 2**-8, 1 + 3 * 2**-8, -3.14159, np.nan, np.inf]], np.float32)
    back = through(Codec("bfloat16"), rows)
    assert back[0, :4].tolist() == [1.0, 1.0, 1 + 2**-6, -3.140625]
    assert np.isnan(back[0, 4]) and np.isposinf(back[0, 5])


def test_int8_is_within_half_a_step_and_constant_rows_are_exact() -> None:
    rows = np.concatenate([draw(5, 3, 4), np.full((1, 3, 4), 2.5, np.float32)])
    back = through(Codec("int8"), rows)
    step = (rows.max(axis=(1, 2)) - rows.min(axis=(1, 2))) / 255
    assert (np.abs(back - rows).max(axis=(1, 2)) <= step * 0.51).all()
    assert np.array_equal(back[-1], rows[-1])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("top_k", [None, 3])
def test_a_row_is_the_same_bytes_in_any_batch(dtype: str, top_k: int | None) -> None:
    rows = draw(9, 17)
    layout = Layout.of({"out": Codec(dtype, top_k)}, {"out": rows})
    together = layout.encode({"out": rows})
    assert [layout.encode({"out": rows[i : i + 1]})[0] for i in range(9)] == together
    assert layout.encode({"out": rows[::-1]}) == together[::-1]


def softmax(logits: np.ndarray) -> np.ndarray:
    wide = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return wide / wide.sum(-1, keepdims=True)


def logsumexp(logits: np.ndarray) -> np.ndarray:
    return np.log(np.exp(logits.astype(np.float64)).sum(-1))


def entropy(logits: np.ndarray) -> np.ndarray:
    share = softmax(logits)
    return -(share * np.log(share)).sum(-1)


def test_top_k_is_softmaxed_once() -> None:
    logits = draw(6, 100)
    back = through(Codec("float32", top_k=16), logits)
    assert isinstance(back, TopK)
    dense = back.dense()
    assert np.allclose(logsumexp(dense), logsumexp(logits), atol=1e-6)
    assert np.allclose(back.log_mass(), logsumexp(logits), atol=1e-6)
    kept = np.take_along_axis(softmax(dense), back.indices, -1)
    assert np.allclose(kept, np.take_along_axis(softmax(logits), back.indices, -1), atol=1e-7)
    assert np.abs(entropy(dense) - entropy(logits)).max() < 0.01  # a second softmax would bring it to log(100)
    assert np.array_equal(np.sort(logits)[:, ::-1][:, :16], back.values)


def test_top_k_of_all_classes_is_everything_and_ties_keep_the_lower_class() -> None:
    logits = np.array([[1.0, 3.0, 3.0, 3.0]], np.float32)
    assert np.array_equal(through(Codec(top_k=4), logits).dense(), logits)
    assert through(Codec(top_k=2), logits).indices.tolist() == [[1, 2]]


def test_a_top_16_row_of_1000_classes_takes_68_bytes() -> None:
    layout = Layout.of({"out": Codec("float16", top_k=16)}, {"out": draw(1, 1000)})
    assert layout.row_bytes == (68, 0)


def test_tokens_of_any_length_come_back_with_features_beside_them() -> None:
    mask = np.array([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]])
    logits, pooled = draw(3, 4, 11), draw(3, 2)
    outputs = {"logits": Tokens.cut(logits, mask), "pooled": pooled}
    layout = Layout.of({"logits": Codec("float32", top_k=11), "pooled": Codec()}, outputs)
    rows = layout.encode(outputs)
    assert [len(row) for row in rows] == [8 + n * layout.row_bytes[1] for n in (2, 3, 0)]
    back = layout.decode(rows)
    dense = back["logits"].padded(mask).dense()
    assert np.array_equal(dense[mask != 0], logits[mask != 0])
    assert np.array_equal(back["pooled"], pooled)


def test_maps_are_averaged_before_they_are_stored() -> None:
    maps = draw(2, 3, 5, 4)
    assert np.allclose(through(Codec(pool=(1, 1)), maps)[..., 0, 0], maps.mean(axis=(2, 3)), atol=1e-6)
    assert through(Codec(pool=(2, 2)), maps).shape == (2, 3, 2, 2)


def test_what_does_not_fit_is_said() -> None:
    layout = Layout.of({"out": Codec()}, {"out": draw(2, 3)})
    with pytest.raises(DataError) as error:
        layout.encode({"out": draw(2, 4)})
    assert str(error.value) == "the output 'out' has rows of shape (4,), and the stored ones (3,)"
    with pytest.raises(DataError) as error:
        layout.decode([b"short"])
    assert str(error.value) == "a stored row is not of its space's layout"
    with pytest.raises(UsageError) as usage:
        Layout.of({"out": Codec(top_k=9)}, {"out": draw(2, 4)})
    assert str(usage.value) == "top_k is 9, and the output 'out' has rows of shape (4,)"
    with pytest.raises(UsageError) as usage:
        Codec("float8")  # type: ignore[arg-type]
    assert str(usage.value) == "dtype must be one of float32, float16, bfloat16, int8, not 'float8'"
