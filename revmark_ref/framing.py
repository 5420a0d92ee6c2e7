"""Payloads of the segments of a video: their format and their detection.

Every segment of T frames carries L bits, whitened by one of ``MASKS`` fixed masks in turn: the decoder reads similar bits from neighbouring segments
of an unmarked video, which would look like a repeated message; under the masks they look random.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from .keys import generator

MASKS = 8
CLAIM = 1e-6  # p-value below which a mark is claimed
LONGEST = 200  # bytes of a text
_CORRECTS = 4  # least number of Reed-Solomon parity bytes; half as many byte errors are corrected
_CHECK = 4  # bytes of a text's check

Array = np.ndarray


class MessageError(ValueError):
    """A message that cannot be embedded: not hex, of the wrong length, or too long for the video."""


def check_bits(bits: int) -> int:
    """How many bits of a payload are its check: 32, or half of a payload of fewer than 64 bits."""
    return 32 if bits >= 64 else bits // 2


def message_bits(bits: int) -> int:
    """How many bits of a payload are the message."""
    return bits - check_bits(bits)


def check(message: Array, size: int, key: str = "") -> Array:
    """Check of a message, ``size`` bits of its keyed hash (BLAKE2b, RFC 7693). Shape: ``[M] -> [size]``, 0 or 1."""
    packed = np.packbits(np.asarray(message, dtype=np.uint8)).tobytes()
    digest = hashlib.blake2b(packed, digest_size=8, key=key.encode()[:64], person=b"revmark check").digest()
    return np.unpackbits(np.frombuffer(digest, dtype=np.uint8))[:size].astype(np.int64)


def protected(message: Array, bits: int, key: str = "") -> Array:
    """Payload ``[bits]`` of a message: the message, then its check."""
    return np.concatenate([message, check(message, check_bits(bits), key)])


def message_of(payload: Array, key: str = "") -> Array | None:
    """Inverse of :func:`protected`; None where the check does not hold."""
    size = check_bits(len(payload))
    message = np.asarray(payload[: len(payload) - size], dtype=np.int64)
    return message if (check(message, size, key) == payload[len(payload) - size :]).all() else None


def masks(bits: int) -> Array:
    """Whitening masks, ``[MASKS, L]`` of +1 and -1."""
    import torch

    return np.stack(
        [2 * torch.randint(2, (bits,), generator=generator(20231029, "mask", i), device="cpu").numpy() - 1 for i in range(MASKS)]
    )


def from_hex(text: str, bits: int) -> Array:
    """Bits ``[L]`` of a message in hex digits; L bits are ceil(L / 4) digits.

    Raises:
        MessageError: not hex, or of another length.
    """
    digits = -(-bits // 4)
    clean = text.strip().lower().removeprefix("0x")
    if any(c not in "0123456789abcdef" for c in clean):
        raise MessageError(f"--message expected {digits} hex digits, got {text!r}")
    if len(clean) != digits:
        raise MessageError(f"--message expected {digits} hex digits ({bits} bits), got {len(clean)}: {text!r}")
    value = int(clean, 16)
    if value >= 1 << bits:
        raise MessageError(f"--message expected at most {bits} bits, got {text!r}")
    return np.array([value >> (bits - 1 - i) & 1 for i in range(bits)])


def to_hex(bits: Array) -> str:
    """Inverse of :func:`from_hex`."""
    return f"{int(''.join(str(int(b)) for b in bits), 2):0{-(-len(bits) // 4)}x}"


def payloads(message: Array, count: int, first: int = 0) -> Array:
    """Payloads of ``count`` segments from ``first`` on: the rows of ``message`` ``[n, L]`` in turn, whitened. Shape: ``[count, L]``, 0 or 1."""
    number = first + np.arange(count)
    signs = (2 * message[number % len(message)] - 1) * masks(message.shape[1])[number % MASKS]
    return (signs > 0).astype(np.int64)


@dataclass(frozen=True)
class Found:
    """What was found in the segments of a video.

    Attributes:
        bits: payload; None if none was found.
        p_value: probability that the segments of an unmarked video agree as well, over all hypotheses tried.
        confidence: share of the bits of all segments that agree with the payload.
        segments: number of segments that voted.
        phase: number of frames before the first whole segment.
        mask: index of the mask of that segment.
    """

    bits: Array | None
    p_value: float
    confidence: float
    segments: int
    phase: int
    mask: int


def agreement(logits: Array) -> float:
    """p-value of the agreement of segments: the statistic is the sum over bits of (votes for 1 - votes for 0)^2, whose distribution for
    independent fair votes is known exactly.

    Shape: ``[n, L]`` logits, unmasked.
    """
    n, bits = logits.shape
    if n < 2 or not np.isfinite(logits).all():
        return 1.0
    votes = np.where(logits > 0, 1, -1).sum(0)  # [L]
    statistic = int((votes.astype(np.int64) ** 2).sum())
    if n > 40:  # votes / sqrt(n) are nearly normal: chi-squared with L degrees of freedom
        return _chi2_tail(statistic / n, bits)
    single = np.zeros(n * n + 1)
    for k in range(n + 1):
        single[(2 * k - n) ** 2] += math.comb(n, k) / 2.0**n
    # sum of L such squares: tail of the L-fold convolution, in units that keep it short (squares share the parity of n)
    step = 8 if n % 2 else 4
    offset = n % 2
    short = single[offset::step]
    total = np.array([1.0])
    for _ in range(bits):
        total = np.convolve(total, short)
    at = (statistic - offset * bits) // step
    return float(min(1.0, total[at:].sum()))


def _chi2_tail(x: float, k: int) -> float:
    """P(chi-squared with k degrees of freedom > x): the regularised upper incomplete gamma function."""
    import torch

    return float(
        torch.special.gammaincc(
            torch.tensor(k / 2, dtype=torch.float64, device="cpu"), torch.tensor(x / 2, dtype=torch.float64, device="cpu")
        )
    )


def search(logits: Array, frames: int) -> Found:
    """Find phase and mask of the segments, and decide each bit by their votes.

    Args:
        logits: of the clips that begin at every frame, ``[N - T + 1, L]``.
        frames: T.

    Returns:
        The best hypothesis; ``bits`` is None where its p-value, times the number of hypotheses, is not below ``CLAIM``.
    """
    if not np.isfinite(logits).all():  # from broken weights: nothing is claimed
        return Found(None, 1.0, 0.0, 0, 0, 0)
    white = masks(logits.shape[1])
    tried: list[tuple[float, float, int, int]] = []
    for phase in range(min(frames, len(logits))):
        own = logits[phase::frames]
        for first in range(MASKS):
            plain = own * white[(first + np.arange(len(own))) % MASKS]
            tried.append((agreement(plain), -float(np.abs(plain.sum(0)).sum()), phase, first))
    best = min(tried)
    p = min(1.0, best[0] * len(tried))
    own = logits[best[2] :: frames]
    plain = own * white[(best[3] + np.arange(len(own))) % MASKS]
    sure = np.clip(plain, -8, 8).sum(0)
    bits = (sure > 0).astype(np.int64)
    right = float(((plain > 0) == (bits > 0)).mean())
    return Found(bits if p < CLAIM else None, p, right, len(own), best[2], best[3])


# --- text over several segments -----------------------------------------------------------------------------------------------


def _code(length: int) -> tuple[object, int]:
    """Reed-Solomon code for a body of ``length`` bytes, and its number of parity bytes: a quarter of the body, at least 4."""
    from reedsolo import RSCodec

    parity = max(_CORRECTS, 2 * -(-length // 8))
    return RSCodec(parity), parity


def sync(bits: int) -> Array:
    """Sync word: the segment that begins each repetition of a text, ``[L]``, 0 or 1."""
    import torch

    return torch.randint(2, (bits,), generator=generator(20231029, "sync", 0), device="cpu").numpy()


def segments_for(length: int, bits: int) -> int:
    """Segments that a text of ``length`` bytes takes: the sync word and ``length, text, check`` under Reed-Solomon, L // 8 bytes each."""
    body = 1 + length + _CHECK
    return 1 + -(-(body + _code(body)[1]) // (bits // 8))


def _text_check(body: bytes, key: str) -> bytes:
    return hashlib.blake2b(body, digest_size=_CHECK, key=key.encode()[:64], person=b"revmark text").digest()


def frame_text(text: str, bits: int, key: str = "") -> Array:
    """Segments ``[n, L]`` of a text: sync, then length, UTF-8 bytes and four bytes of their keyed hash under Reed-Solomon.

    Raises:
        MessageError: empty, longer than 200 bytes, or a payload below 8 bits.
    """
    data = text.encode()
    if not 1 <= len(data) <= LONGEST:
        raise MessageError(f"--text expected 1 to {LONGEST} bytes of UTF-8, got {len(data)}")
    if bits < 8:
        raise MessageError(f"--text needs a payload of at least 8 bits a segment, this model has {bits}")
    body = bytes([len(data)]) + data
    body += _text_check(body, key)
    coded = bytes(_code(len(body))[0].encode(body))  # type: ignore[attr-defined]
    width = bits // 8
    coded += bytes(-len(coded) % width)
    rows = [sync(bits)]
    for i in range(0, len(coded), width):
        row = np.zeros(bits, dtype=np.int64)
        row[: 8 * width] = np.unpackbits(np.frombuffer(coded[i : i + width], dtype=np.uint8))
        rows.append(row)
    return np.stack(rows)


def text_of(rows: Array, key: str = "") -> str | None:
    """The text that consecutive words carry; None if there is none.

    For every possible length the repetitions are summed; a text is accepted if the sync word is found, Reed-Solomon decoding succeeds, and length and
    check agree.

    Args:
        rows: soft bits of consecutive words, unmasked, ``[n, L]``.
        key: key of the text.
    """
    bits = rows.shape[1]
    mark = 2 * sync(bits) - 1
    for cycle in sorted({segments_for(n, bits) for n in range(1, LONGEST + 1)}):
        if cycle > len(rows):
            break
        folded = np.stack([rows[i::cycle].sum(0) for i in range(cycle)])
        score = (folded * mark).sum(1) / (np.abs(folded).sum(1) + 1e-9)
        at = int(score.argmax())
        if score[at] < 0.5:
            continue
        for length in range(1, LONGEST + 1):
            if segments_for(length, bits) == cycle:
                text = _decode(np.roll(folded, -at, axis=0)[1:], length, bits, key)
                if text is not None:
                    return text
    return None


def find_text(logits: Array, frames: int, key: str = "") -> tuple[str, Found] | None:
    """The text that the segments of a network's mark carry (:func:`text_of`); None if there is none.

    Args:
        logits: of the clips that begin at every frame, ``[N - T + 1, L]``.
        frames: T.
        key: of the text.
    """
    bits = logits.shape[1]
    if bits < 8 or not np.isfinite(logits).all():
        return None
    white, mark = masks(bits), 2 * sync(bits) - 1
    tried = []
    for phase in range(min(frames, len(logits))):
        own = np.clip(logits[phase::frames], -8, 8)
        for first in range(MASKS):
            plain = own * white[(first + np.arange(len(own))) % MASKS]
            heard = ((plain > 0) == (mark > 0)).sum(1)  # agreement of each segment with the sync word, [n]
            tried.append((-np.sort(heard)[::-1][:4].sum(), phase, first, plain))
    for _, phase, first, plain in sorted(tried, key=lambda x: x[:3])[:4]:
        text = text_of(plain, key)
        if text is not None:
            sent = 2 * frame_text(text, bits, key) - 1
            cycle = len(sent)
            right = max(float(((plain > 0) == (sent[(np.arange(len(plain)) - at) % cycle] > 0)).mean()) for at in range(cycle))
            p = math.exp(-2 * plain.size * max(0.0, right - 0.5) ** 2)  # Hoeffding's bound
            return text, Found(None, min(1.0, p * LONGEST * MASKS * frames), right, len(plain), phase, first)
    return None


def _decode(rows: Array, length: int, bits: int, key: str) -> str | None:
    from reedsolo import ReedSolomonError

    width = bits // 8
    data = np.packbits((rows[:, : 8 * width] > 0).astype(np.uint8), axis=1).tobytes()
    body = 1 + length + _CHECK
    code, parity = _code(body)
    try:
        plain = bytes(code.decode(data[: body + parity])[0])  # type: ignore[attr-defined]
    except ReedSolomonError:
        return None
    if plain[0] != length or _text_check(plain[:-_CHECK], key) != plain[-_CHECK:]:
        return None
    try:
        return plain[1:-_CHECK].decode()
    except UnicodeDecodeError:
        return None
