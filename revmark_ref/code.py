"""Channel code of payloads in files: convolutional, rate 1/2, constraint length 7, generators 171 and 133 (octal), soft-decision Viterbi decoding
(Odenwalder 1970; the code of CCSDS 131.0-B). It recovers the bits of waves that a codec removes, mostly the finest ones."""

from __future__ import annotations

import numpy as np

Array = np.ndarray
MEMORY = 6
GENERATORS = (0o171, 0o133)
STATES = 1 << MEMORY


def length(bits: int) -> int:
    """Number of coded bits of a payload: two for each of its bits and for each of the six zeros that terminate it."""
    return 2 * (bits + MEMORY)


def _outputs() -> Array:
    """Output signs for each state and next bit, ``[STATES, 2, 2]``."""
    register = np.arange(STATES)[:, None] | (np.arange(2) << MEMORY)  # the newest bit is the highest
    parity = np.stack([np.array([[bin(int(r) & g).count("1") & 1 for r in row] for row in register]) for g in GENERATORS], 2)
    return 2.0 * parity - 1


_SIGNS = _outputs()
# the two predecessors of each state, and the input bit that leads to it: the register shifts right
_BEFORE = np.stack([(np.arange(STATES) << 1) & (STATES - 1), ((np.arange(STATES) << 1) & (STATES - 1)) | 1], 1)
_BIT = np.arange(STATES) >> (MEMORY - 1)


def encode(payload: Array) -> Array:
    """Shape: ``[L]``, 0 or 1 -> ``[length(L)]``, 0 or 1."""
    state, out = 0, []
    for bit in [*np.asarray(payload, dtype=int), *[0] * MEMORY]:
        out += list(_SIGNS[state, bit])
        state = (state | (int(bit) << MEMORY)) >> 1
    return (np.array(out) > 0).astype(np.int64)


def decode(soft: Array) -> Array:
    """Maximum-likelihood payload. Shape: ``[length(L)]`` soft bits, positive for a 1, magnitude by reliability -> ``[L]``, 0 or 1."""
    pairs = np.asarray(soft, dtype=float).reshape(-1, 2)
    score = np.full(STATES, -np.inf)
    score[0] = 0.0
    choice = np.empty((len(pairs), STATES), dtype=np.int8)
    states = np.arange(STATES)
    for i, pair in enumerate(pairs):
        gain = _SIGNS @ pair  # [STATES, 2]
        reached = score[_BEFORE] + gain[_BEFORE, _BIT[:, None]]  # [STATES, 2]
        choice[i] = reached.argmax(1)
        score = reached[states, choice[i]]
    state, bits = 0, []
    for taken in choice[::-1]:
        bits.append(int(_BIT[state]))
        state = int(_BEFORE[state, taken[state]])
    return np.array(bits[::-1][:-MEMORY], dtype=np.int64)
