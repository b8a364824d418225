"""The chance in a surface: noise and cells at any place, decided by a seed alone, so that any size draws the
same thing."""

from dataclasses import dataclass

import numpy as np

MULTIPLIERS = (np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35), np.uint32(0x27D4EB2F))


@dataclass(frozen=True)
class Grain:
    """One roll of the dice: equal seeds draw equal surfaces. Seed 0 is the plainest surface of its kind:
    nothing varies."""

    seed: int = 0

    def vary(self, low: float, high: float, key: int = 0) -> float:
        """A number between ``low`` and ``high``; the middle for seed 0. ``key`` tells one question from
        another."""
        if self.seed == 0:
            return (low + high) / 2
        return low + (high - low) * float(self.number(key, -7, 101)[0])

    def number(self, i: np.ndarray, j: np.ndarray, key: int) -> np.ndarray:
        """Uniform float32 numbers, 0 to 1, for lattice points (i, j)."""
        i, j = (np.atleast_1d(np.asarray(k)).astype(np.int64).astype(np.uint32) for k in (i, j))
        x = (i * MULTIPLIERS[0] ^ j * MULTIPLIERS[1]
             ^ np.uint32((self.seed * 2_654_435_761 + key * 40_503 + 1) & 0xFFFFFFFF))
        for shift in (15, 13):
            x = (x ^ (x >> np.uint32(shift))) * MULTIPLIERS[2]
        return (x ^ (x >> np.uint32(16))).astype(np.float32) / np.float32(2**32)

    def noise(self, u: np.ndarray, v: np.ndarray, period: float, key: int = 0) -> np.ndarray:
        """Smooth value noise (Perlin's lattice, quintic between the points), about -1 to 1; blobs of
        ``period`` pixels."""
        x, y = u / (0.6 * period), v / (0.6 * period)
        i, j = np.floor(x), np.floor(y)
        fx, fy = x - i, y - j
        fx, fy = (f * f * f * (f * (6 * f - 15) + 10) for f in (fx, fy))
        a, b, c, d = (self.number(i + p, j + q, 7 * key + 3) for p, q in ((0, 0), (1, 0), (0, 1), (1, 1)))
        return ((a * (1 - fx) + b * fx) * (1 - fy) + (c * (1 - fx) + d * fx) * fy) * 2 - 1

    def cells(self, u: np.ndarray, v: np.ndarray, period: float, jitter: float = 0.9,
              key: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scattered points, one for each square of ``period`` (Worley 1996): distances in pixels of the
        nearest and the next, and a number 0 to 1 that belongs to the nearest. Each (h, w)."""
        x, y = u / period, v / period
        i, j = np.floor(x), np.floor(y)
        near = np.full(np.shape(x), 9.0, np.float32)
        following, number = near.copy(), np.zeros_like(near)
        for p in (-1, 0, 1):
            for q in (-1, 0, 1):
                px = i + p + 0.5 + jitter * (self.number(i + p, j + q, 11 * key + 5) - 0.5)
                py = j + q + 0.5 + jitter * (self.number(i + p, j + q, 11 * key + 6) - 0.5)
                d = np.hypot(x - px, y - py).astype(np.float32)
                closer = d < near
                following = np.where(closer, near, np.minimum(following, d))
                number = np.where(closer, self.number(i + p, j + q, 11 * key + 7), number)
                near = np.where(closer, d, near)
        return near * period, following * period, number
