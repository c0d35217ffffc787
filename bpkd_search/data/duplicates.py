"""Images that are the same, and images that look the same, by a hash of their pixels and one of their look."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BITS = 64
# Copies after JPEG compression, halving, or a change of brightness or contrast differ in at most 6 bits (CamVid: 249 of
# 249 to each), frames of a video 1/15 s apart in at most 6 (94 of 100). The nearest of 1.1 million pairs of drawn
# scenes differ in 8, of 30,000 pairs of frames from different sequences of CamVid in 9.
NEAR = 6
_BLOCK = 4096

Pixels = NDArray[np.uint8]


def content_hash(image: Pixels) -> bytes:
    """Return a hash of an image's size and pixels, uint8 [H, W, 3]."""
    found = hashlib.blake2b(str(image.shape).encode(), digest_size=16)
    found.update(np.ascontiguousarray(image))
    return found.digest()


def look_hash(image: Pixels) -> bytes | None:
    """Return the difference hash of an image uint8 [H, W, 3]: 64 bits, where brightness rises from left to right.

    None for an image without contrast, whose bits say nothing. Source: N. Krawetz, "Kind of Like That" (2013).
    """
    small = np.asarray(Image.fromarray(image).convert("L").resize((9, 8), Image.Resampling.BOX)).astype(np.int16)
    if int(small.max()) - int(small.min()) < 2:
        return None
    return np.packbits(small[:, 1:] > small[:, :-1]).tobytes()


def equal(contents: Sequence[bytes | None]) -> list[list[int]]:
    """Return groups of indices with equal contents, those of one item left out; None equals nothing."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for index, content in enumerate(contents):
        if content is not None:
            groups[content].append(index)
    return [group for group in groups.values() if len(group) > 1]


def nearest(looks: Sequence[bytes], others: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, for each of `looks`, the index of the nearest of `others`, and in how many bits they differ.

    Raises `ValueError` if `others` is empty.
    """
    if not others:
        raise ValueError("others: got none, needs at least one")
    index, distance = np.zeros(len(looks), np.int64), np.full(len(looks), BITS + 1, np.int64)
    rows = np.arange(min(len(looks), _BLOCK))
    for first in range(0, len(looks), _BLOCK):
        mine = _signs(looks[first : first + _BLOCK])
        part = slice(first, first + len(mine))
        for start in range(0, len(others), _BLOCK):
            # The product of two signs is 1 where bits are equal: whole numbers, exact in float32, and faster than xor.
            differ = (BITS - mine @ _signs(others[start : start + _BLOCK]).T) / 2
            best = differ.argmin(1)
            least = differ[rows[: len(mine)], best].astype(np.int64)
            nearer = least < distance[part]
            index[part] = np.where(nearer, best + start, index[part])
            distance[part] = np.where(nearer, least, distance[part])
    return index, distance


def _signs(looks: Sequence[bytes]) -> NDArray[np.float32]:
    bits = np.unpackbits(np.frombuffer(b"".join(looks), np.uint8).reshape(len(looks), BITS // 8), axis=1)
    return 2 * bits.astype(np.float32) - 1
