"""Constants of ITU-T H.264 in the form that batched float arithmetic wants them."""

from __future__ import annotations

import numpy as np

from ...constants import Constant

# Core transforms (8.5.12, 8.5.13): rows are orthogonal but not of one length
_CORE4 = np.array([[1, 1, 1, 1], [2, 1, -1, -2], [1, -1, -1, 1], [1, -2, 2, -1]], dtype=np.float64)
_CORE8 = np.array(
    [
        [8, 8, 8, 8, 8, 8, 8, 8],
        [12, 10, 6, 3, -3, -6, -10, -12],
        [8, 4, -4, -8, -8, -4, 4, 8],
        [10, -3, -12, -6, 6, 12, 3, -10],
        [8, -8, -8, 8, 8, -8, -8, 8],
        [6, -12, 3, 10, -10, -3, 12, -6],
        [4, -8, 8, -4, -4, 8, -8, 4],
        [3, -6, 10, -12, 12, -10, 6, -3],
    ],
    dtype=np.float64,
)


_LENGTH = {k: np.linalg.norm(m, axis=1) for k, m in ((4, _CORE4), (8, _CORE8))}  # of its rows
TRANSFORM = {k: m / _LENGTH[k][:, None] for k, m in ((4, _CORE4), (8, _CORE8))}

# What a level of 1 adds, in the orthonormal domain, at QP 0..5 and each place: normAdjust4x4 and normAdjust8x8 (8.5.9) with flat matrices.
# It is 2^((qp-4)/6) to within a few percent; the deviations by place are the standard's.
_NORM4 = np.array([[10, 16, 13], [11, 18, 14], [13, 20, 16], [14, 23, 18], [16, 25, 20], [18, 29, 23]])
_NORM8 = np.array(
    [
        [20, 18, 32, 19, 25, 24],
        [22, 19, 35, 21, 28, 26],
        [26, 23, 42, 24, 33, 31],
        [28, 25, 45, 26, 35, 33],
        [32, 28, 51, 30, 40, 38],
        [36, 32, 58, 34, 46, 43],
    ]
)


def _class4(i: int, j: int) -> int:
    return 0 if i % 2 == 0 and j % 2 == 0 else 1 if i % 2 == 1 and j % 2 == 1 else 2


def _class8(i: int, j: int) -> int:
    if i % 4 == 0 and j % 4 == 0:
        return 0
    if i % 2 == 1 and j % 2 == 1:
        return 1
    if i % 4 == 2 and j % 4 == 2:
        return 2
    if (i % 4 == 0 and j % 2 == 1) or (i % 2 == 1 and j % 4 == 0):
        return 3
    if (i % 4 == 0 and j % 4 == 2) or (i % 4 == 2 and j % 4 == 0):
        return 4
    return 5


def _steps(k: int) -> np.ndarray:
    """``[6, k, k]``."""
    if k == 4:  # the inverse transform halves the odd rows of the core transform
        norm = np.array([2, np.sqrt(2.5), 2, np.sqrt(2.5)])
        position_class = np.array([[_class4(i, j) for j in range(4)] for i in range(4)])
        return _NORM4[:, position_class] * np.outer(norm, norm) / 64
    norm = np.linalg.norm(_CORE8 / 8, axis=1)
    position_class = np.array([[_class8(i, j) for j in range(8)] for i in range(8)])
    return _NORM8[:, position_class] * np.outer(norm, norm) / 256


def zigzag(k: int) -> np.ndarray:
    """Frame scan (6.4.3, 8.5.6): raster place of each scan position."""
    places = sorted(((i, j) for i in range(k) for j in range(k)), key=lambda p: (p[0] + p[1], p[0] if (p[0] + p[1]) % 2 else -p[0]))
    return np.array([i * k + j for i, j in places])


# Coefficients are in scan order everywhere
STEPS = {k: Constant(_steps(k).reshape(6, -1)[:, zigzag(k)]) for k in (4, 8)}  # [6, k^2]
# Two-dimensional transforms on flat blocks: coefficients = M @ samples, [k^2, k^2]; orthonormal, and in whole numbers (exact), with the divisors that
# make the latter orthonormal
FLAT = {k: Constant(np.kron(m, m)[zigzag(k)]) for k, m in TRANSFORM.items()}
CORE = {k: Constant(np.kron(m, m)[zigzag(k)]) for k, m in ((4, _CORE4), (8, _CORE8))}
CORE_NORM = {k: Constant(np.outer(n, n).flatten()[zigzag(k)]) for k, n in _LENGTH.items()}

_H4 = np.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, -1, 1], [1, -1, 1, -1]], dtype=np.float64)
_H2 = np.array([[1, 1], [1, -1]])
HADAMARD4 = Constant(np.kron(_H4, _H4) / 2)  # sums of absolute values are SATD as encoders count it
_H44 = np.kron(np.eye(2), _H4)
HADAMARD4_OF_8 = Constant(
    np.kron(_H44, _H44) / 2
)  # the four 4x4 Hadamard transforms of an 8x8 block as one product: no samples need moving
HADAMARD8 = Constant(np.kron(np.kron(_H2, _H4), np.kron(_H2, _H4)) / 4)  # the same over 8x8: SA8D
WALSH4 = Constant(np.kron(_H4, _H4)[zigzag(4)] / 4)  # orthonormal, of the sixteen luma DCs of an intra 16x16 macroblock (8.5.10)
HADAMARD2 = Constant(np.kron([[1, 1], [1, -1]], [[1, 1], [1, -1]]) / 2)  # orthonormal, of the four chroma DCs
WALSH4_NORM, HADAMARD2_NORM = Constant([16.0]), Constant([8.0])  # of DCs of whole coefficients, of both transforms

# Table 8-15: QPc of QPi 30..51; equal below
CHROMA_QP = Constant(
    [*range(30), 29, 30, 31, 32, 32, 33, 34, 34, 35, 35, 36, 36, 37, 37, 37, 38, 38, 38, 39, 39, 39, 39],
)

# Tables 8-16 and 8-17 by index 0..51: alpha, beta, tc0 for bS 1, 2, 3
ALPHA = Constant(
    [0] * 16
    + [4, 4, 5, 6, 7, 8, 9, 10, 12, 13, 15, 17, 20, 22, 25, 28, 32, 36, 40, 45, 50, 56, 63, 71, 80, 90, 101, 113, 127, 144, 162, 182, 203, 226]
    + [255, 255]
)  # fmt: skip
BETA = Constant([0] * 16 + [2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 6, 6, 7, 7, 8, 8, 9, 9] + [v for n in range(10, 19) for v in (n, n)])
TC0 = Constant(
    [
        [0] * 23 + [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 6, 6, 7, 8, 9, 10, 11, 13],
        [0] * 21 + [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 4, 5, 5, 6, 7, 8, 8, 10, 11, 12, 13, 15, 17],
        [0] * 17 + [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 6, 6, 7, 8, 9, 10, 11, 13, 14, 16, 18, 20, 23, 25],
    ]
)  # fmt: skip

# What one level of +-1 adds to a block's decimation score, by the zeros that precede it in zigzag order
DECIMATE = {
    4: Constant([3, 2, 2, 1, 1, 1] + [0] * 10),
    8: Constant([3] * 4 + [2] * 8 + [1] * 12 + [0] * 40),
}
