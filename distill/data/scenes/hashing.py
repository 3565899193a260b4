"""Random numbers as a pure function of (world, stream name, picture index): no state, no order, any batch."""

import zlib

import numpy as np

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = np.uint64(0x94D049BB133111EB)


def mix(words: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014) on an array of uint64."""
    words = (words ^ (words >> np.uint64(30))) * _MULTIPLY_1
    words = (words ^ (words >> np.uint64(27))) * _MULTIPLY_2
    return words ^ (words >> np.uint64(31))


def words(key: int, indices: np.ndarray, num: int) -> np.ndarray:
    """`num` uint64 words for every int64 index: [B] -> [B, num]."""
    start = mix(indices.astype(np.uint64) * _STEP + mix(np.array([key % 2**64], dtype=np.uint64)))
    return mix(start[:, None] + np.arange(1, num + 1, dtype=np.uint64) * _STEP)


def uniforms(key: int, indices: np.ndarray, num: int) -> np.ndarray:
    """`num` float64 numbers in [0, 1) for every index: [B] -> [B, num]."""
    return (words(key, indices, num) >> np.uint64(11)).astype(np.float64) * 2.0**-53


class Draws:
    """Named random numbers of a batch of pictures: a new name never shifts the numbers of another."""

    def __init__(self, world_seed: int, split: str, indices: np.ndarray):
        self.indices = indices
        self._prefix = f"{world_seed}/{split}/"

    def _key(self, name: str) -> int:
        text = (self._prefix + name).encode()
        return zlib.crc32(text) | zlib.crc32(b"distill" + text[::-1]) << 32

    def __call__(self, name: str, *shape: int) -> np.ndarray:
        """Uniform numbers in [0, 1) of shape [B, *shape]."""
        num = int(np.prod(shape, dtype=np.int64))
        return uniforms(self._key(name), self.indices, num).reshape(len(self.indices), *shape)

    def between(self, name: str, low: float, high: float, *shape: int) -> np.ndarray:
        """Uniform numbers in [low, high) of shape [B, *shape]."""
        return low + (high - low) * self(name, *shape)

    def below(self, name: str, num: int, *shape: int) -> np.ndarray:
        """Uniform int64 numbers in [0, num) of shape [B, *shape]."""
        return (self(name, *shape) * num).astype(np.int64)

    def seeds(self, name: str, *shape: int) -> np.ndarray:
        """Non-negative int64 seeds for `uniforms`, of shape [B, *shape]."""
        num = int(np.prod(shape, dtype=np.int64))
        drawn = words(self._key(name), self.indices, num) >> np.uint64(1)
        return drawn.astype(np.int64).reshape(len(self.indices), *shape)
