"""Training and test rows of data that come in one piece."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdhooks.datasets.draws import permutation


def split_rows(targets: NDArray[np.int64], name: str, fraction: float, seed: int, train: bool) -> NDArray[np.int64]:
    """The training rows or the test rows, ascending; of every class the same share.

    Args:
        targets: class numbers [N].
        name: of the data, so that two data sets are not split by the same draws.
        fraction: of every class, in the test part.
        seed: decides which; 0 is the split that everybody gets who asks for none.
        train: the training rows, else the test rows.
    """
    further = (seed,) if seed else ()
    in_test = np.zeros(len(targets), bool)
    for target in np.unique(targets):
        rows = np.flatnonzero(targets == target)
        in_test[rows[permutation(len(rows), name, int(target), *further)[: round(fraction * len(rows))]]] = True
    return np.flatnonzero(~in_test if train else in_test)
