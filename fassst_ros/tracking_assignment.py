"""Who belongs to whom: the pairs with the largest sum of gains, each side used once.

scipy has a solver (linear_sum_assignment), yet a robot would install all of scipy for it alone. Here the
tables are sparse: most rows and columns have one positive entry, and what is left is small.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def assign(gains: NDArray[np.floating]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the best pairs of a table (n, m), rows rising; only positive gains make a pair.

    The sum of the gains is the largest there is. A pair that nobody else wants is taken at once; the rest
    goes through `_shortest_paths`.
    """
    wanted = gains > 0
    alone = wanted & (wanted.sum(axis=1, keepdims=True) == 1) & (wanted.sum(axis=0, keepdims=True) == 1)
    rows, columns = np.nonzero(alone)
    wanted &= ~alone
    left, right = np.flatnonzero(wanted.any(axis=1)), np.flatnonzero(wanted.any(axis=0))
    if left.size:
        table = np.maximum(gains[np.ix_(left, right)], 0).astype(np.float64)
        flipped = left.size > right.size
        found = _shortest_paths(-(table.T if flipped else table))
        pairs = (found, np.arange(found.size)) if flipped else (np.arange(found.size), found)
        gainful = table[pairs] > 0
        rows = np.concatenate([rows, left[pairs[0][gainful]]])
        columns = np.concatenate([columns, right[pairs[1][gainful]]])
    order = np.argsort(rows)
    return rows[order], columns[order]


def _shortest_paths(costs: NDArray[np.float64]) -> NDArray[np.intp]:
    """The column of each row, all different, with the least sum of costs (n, m), n <= m.

    The Hungarian method as shortest augmenting paths: Jonker and Volgenant, Computing 38 (1987), in the
    form of Crouse, "On implementing 2D rectangular assignment algorithms", IEEE TAES 52 (2016).
    """
    n, m = costs.shape
    row_price, column_price = np.zeros(n), np.zeros(m)
    row_of, column_of = np.full(m, -1, np.intp), np.full(n, -1, np.intp)
    for start in range(n):
        length = np.full(m, np.inf)  # of the shortest path from `start` to each column
        before = np.full(m, -1, np.intp)  # the row from which that path comes
        done = np.zeros(m, np.bool_)
        row, shortest = start, 0.0
        while row >= 0:
            reached = shortest + costs[row] - row_price[row] - column_price
            better = ~done & (reached < length)
            length[better], before[better] = reached[better], row
            column = int(np.where(done, np.inf, length).argmin())
            shortest = float(length[column])
            done[column] = True
            row = int(row_of[column])
        passed = np.flatnonzero(done & (row_of >= 0))
        row_price[start] += shortest
        row_price[row_of[passed]] += shortest - length[passed]
        column_price[passed] -= shortest - length[passed]
        while row != start:  # back along the path, each row takes the next one's column
            row = int(before[column])
            row_of[column] = row
            column_of[row], column = column, int(column_of[row])
    return column_of
