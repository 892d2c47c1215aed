"""What is done to tensors of another shape: decided by shapes, computed in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from kdhooks.resampling import resampling
from kdhooks.transfer import Layout, Resize, resized
from kdhooks.transfer.resizing import Unfit, by_classes, decide

TORCH, KERAS = Layout(inputs=1, classes=0), Layout(inputs=-2, classes=-1)


def numbers(*shape):
    return np.random.default_rng(0).standard_normal(shape)


def made(action, source, own, *, name="pos_embed", layout=TORCH, named=False):
    how = decide(action, name, source.shape, own.shape, layout, named=named)
    result = resized(how, source, own)
    assert result.shape == own.shape and result.dtype == own.dtype
    return result, how.words


def refused(action, source, own, name="pos_embed", *, named=False):
    with pytest.raises(Unfit) as caught:
        decide(action, name, source, own, TORCH, named=named)
    return str(caught.value)


def test_a_slice_is_the_beginning_of_every_axis():
    source, own = numbers(9, 4), numbers(5, 4)
    result, words = made("slice", source, own)
    assert np.array_equal(result, source[:5]) and words == "slice"


def test_what_the_source_has_not_stays_at_initialisation():
    source, own = numbers(3, 6), numbers(5, 4) + 10
    result, words = made("slice", source, own)
    assert np.array_equal(result[:3], source[:, :4]) and np.array_equal(result[3:], own[3:])
    assert words == "slice, the rest at initialisation"


@pytest.mark.parametrize("size", [1, 2, 4, 5, 6, 7])
@pytest.mark.parametrize(("layout", "axis"), [(TORCH, 1), (KERAS, 2)])
def test_a_convolution_of_other_channels_answers_as_before_to_a_grey_picture(size, layout, axis):
    shape = (8, 3, 5, 5) if axis == 1 else (5, 5, 3, 8)
    source = numbers(*shape)
    own = np.zeros([size if at == axis else length for at, length in enumerate(shape)])
    result, words = made("repeat", source, own, layout=layout)
    np.testing.assert_allclose(result.sum(axis), source.sum(axis), rtol=0, atol=1e-12)
    assert words == "repeat, the sum over input channels kept"


def test_other_axes_are_repeated_as_they_are():
    source = numbers(3, 4)
    result, words = made("repeat", source, np.zeros((7, 4)))
    assert np.array_equal(result, source[[0, 1, 2, 0, 1, 2, 0]]) and words == "repeat"


def test_interpolation_keeps_constants_and_rows_sum_to_one():
    for old, new in [(3, 7), (14, 24), (24, 14), (5, 1), (1, 4)]:
        for cubic in (False, True):
            np.testing.assert_allclose(resampling(old, new, cubic=cubic).sum(1), 1, atol=1e-12)


def test_interpolation_to_the_same_size_changes_nothing():
    for cubic in (False, True):
        np.testing.assert_allclose(resampling(6, 6, cubic=cubic), np.eye(6), atol=1e-12)


def test_a_grid_of_positions_keeps_its_class_token():
    source = numbers(1, 1 + 9, 4)
    result, words = made("interpolate", source, np.zeros((1, 1 + 16, 4)))
    assert words == "bicubic 3×3 -> 4×4, 1 token kept"
    assert np.array_equal(result[:, :1], source[:, :1])
    matrix = resampling(3, 4, cubic=True)
    expected = np.einsum("ai,bj,ijd->abd", matrix, matrix, source[0, 1:].reshape(3, 3, 4)).reshape(16, 4)
    np.testing.assert_allclose(result[0, 1:], expected, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "source", "target", "words"),
    [
        ("pos_embed", (1, 196, 8), (1, 576, 8), "bicubic 14×14 -> 24×24"),
        ("pos_embed", (1, 198, 8), (1, 578, 8), "bicubic 14×14 -> 24×24, 2 tokens kept"),
        ("position_embeddings.weight", (50, 8), (197, 8), "bicubic 7×7 -> 14×14, 1 token kept"),
        ("position_embeddings.weight", (512, 8), (1024, 8), "linear 512 -> 1024"),
        ("position_embeddings.weight", (256, 8), (1024, 8), "linear 256 -> 1024"),
        ("attn.relative_position_bias_table", (169, 3), (529, 3), "bicubic 13×13 -> 23×23"),
        ("conv.weight", (8, 3, 7, 7), (8, 3, 5, 5), "bicubic 7×7 -> 5×5"),
    ],
)
def test_positions_stand_in_a_line_or_on_a_grid(name, source, target, words):
    assert made("interpolate", numbers(*source), np.zeros(target), name=name)[1] == words


def test_a_grid_and_a_line_can_be_asked_for():
    assert made("grid", numbers(256, 2), np.zeros((64, 2)), named=True)[1] == "bicubic 16×16 -> 8×8"
    assert made("linear", numbers(1, 64, 2), np.zeros((1, 16, 2)), named=True)[1] == "linear 64 -> 16"


def test_what_does_not_fit_says_why():
    assert refused("slice", (3, 4), (3,)) == "2 axes there and 1 here"
    assert refused("repeat", (3, 4), (5, 6)) == "repeat changes one axis, and 2 differ"
    assert refused("repeat", (3,), (2,)) == "repeat makes an axis longer, and this one is shorter here"
    assert refused("interpolate", (1000, 64), (10, 64), "fc.weight") == (
        "interpolate is for positions and kernels; name this tensor by a pattern if it is meant"
    )
    assert refused("interpolate", (8, 3, 3, 3), (4, 1, 3, 3), "conv.weight") == (
        "interpolate changes one axis of positions or two of a map, and neither differs"
    )
    assert refused("grid", (10, 64), (12, 64), named=True) == (
        "its positions are no square grids with as many tokens before both"
    )


def test_a_class_map_takes_classes_one_by_one_and_averages_several():
    source, own = numbers(10, 4), numbers(3, 4) + 10
    how = by_classes({0: (7,), 2: (1, 3)}, source.shape, own.shape, TORCH)
    result = resized(how, source, own)
    assert np.array_equal(result[0], source[7]) and np.array_equal(result[1], own[1])
    np.testing.assert_allclose(result[2], (source[1] + source[3]) / 2)
    assert how.words == "2 classes, 1 at initialisation"
    turned = resized(by_classes({0: (7,), 2: (1, 3)}, (4, 10), (4, 3), KERAS), source.T, own.T)
    assert np.array_equal(turned, result.T)


@pytest.mark.parametrize(
    ("classes", "source", "target", "text"),
    [
        ({5: (0,)}, (10, 4), (3, 4), "class_map names class 5, and there are 3 here"),
        ({0: (12,)}, (10, 4), (3, 4), "class_map names class 12 of the source, which has 10"),
        ({0: (1,)}, (10, 5), (3, 4), "class_map changes the axis of classes, and another one differs"),
    ],
)
def test_a_class_map_that_does_not_fit_says_why(classes, source, target, text):
    with pytest.raises(Unfit) as caught:
        by_classes(classes, source, target, TORCH)
    assert str(caught.value) == text


def test_single_precision_stays_single():
    source, own = numbers(3, 3).astype("float32"), np.zeros((3, 5), "float32")
    assert resized(Resize("linear", "", (1,)), source, own).dtype == np.float32
