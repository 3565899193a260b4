"""The rotation of PHI-S: after it all dimensions have one variance (Ranzinger et al. 2024, arXiv 2410.01680).

With the covariance's eigenvectors U and a Hadamard matrix H (entries +1 and -1, H H^T = n), the rotation is
H / sqrt(n) U^T: every new dimension hears every principal component equally, so all get the mean of the eigenvalues.

Hadamard matrices are known, and built here, for n = 2^k m with m = 1, m - 1 a prime of the form 4j + 3 (Paley's first
construction) or m / 2 - 1 a prime of the form 4j + 1 (his second). That covers the widths of today's encoders: 192,
384, 768, 1024, 1152, 1280, 1408, 1536 and the like. For other n none exists (unless 4 divides n) or none is known
here. Then H / sqrt(n) is the discrete Hartley matrix, (cos + sin)(2 pi jk / n) / sqrt(n), which is orthogonal and
hears the components nearly equally; what is left of the differences is removed by rotations in planes of two
dimensions, each of which sets one to the mean variance (the constructive proof of Schur and Horn's theorem).

Legend: D width.
"""

import functools
import math

import torch
from jaxtyping import Float
from torch import Tensor

ROUNDING = 1e-6
"""Differences of variances, as shares of their mean, that say nothing: covariances come in float32."""


def balancing_rotation(covariance_DD: Float[Tensor, "D D"]) -> Float[Tensor, "D D"]:
    """Orthogonal R such that R covariance R^T has one value all along its diagonal, in float64 on the CPU.

    Eigenvectors are known up to sign only: here the entry of largest magnitude of each is positive.
    """
    covariance_DD = covariance_DD.to("cpu", torch.float64)
    covariance_DD = (covariance_DD + covariance_DD.T) / 2
    vectors_DD = torch.linalg.eigh(covariance_DD).eigenvectors
    largest_D = vectors_DD.gather(0, vectors_DD.abs().argmax(dim=0, keepdim=True)).sign()
    vectors_DD = vectors_DD * largest_D
    width = len(covariance_DD)
    spread_DD = hadamard(width)
    if spread_DD is not None:
        return spread_DD / math.sqrt(width) @ vectors_DD.T
    return _level(_hartley(width) @ vectors_DD.T, covariance_DD)


@functools.cache
def hadamard(order: int) -> Float[Tensor, "D D"] | None:
    """A matrix of +1 and -1 with orthogonal rows, or None where neither construction above gives one."""
    if order == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    found = _paley(order)
    if found is None and order % 2 == 0:
        half = hadamard(order // 2)
        found = None if half is None else torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), half)
    return found


def _paley(order: int) -> Tensor | None:
    if order == 2:
        return torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    if order % 4:
        return None
    if _is_prime(order - 1):
        return torch.eye(order, dtype=torch.float64) + _bordered(order - 1, corner=-1.0)
    prime = order // 2 - 1
    if prime % 4 == 1 and _is_prime(prime):
        core, one = _bordered(prime, corner=1.0), torch.eye(order // 2, dtype=torch.float64)
        signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
        turned = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
        return torch.kron(core, signs) + torch.kron(one, turned)
    return None


def _bordered(prime: int, *, corner: float) -> Tensor:
    """Jacobsthal's matrix of quadratic residues with a border of ones; `corner` is the sign of its first column."""
    differences = torch.arange(prime)[None, :] - torch.arange(prime)[:, None]
    residues = torch.zeros(prime, dtype=torch.bool)
    residues[torch.arange(1, prime).square() % prime] = True
    core = torch.where(residues[differences % prime], 1.0, -1.0).double()
    core.fill_diagonal_(0)
    bordered = torch.zeros(prime + 1, prime + 1, dtype=torch.float64)
    bordered[0, 1:], bordered[1:, 0], bordered[1:, 1:] = 1.0, corner, core
    return bordered


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % factor for factor in range(2, math.isqrt(number) + 1))


def _hartley(order: int) -> Tensor:
    angles = torch.outer(torch.arange(order), torch.arange(order)).double() * (2 * math.pi / order)
    return (angles.cos() + angles.sin()) / math.sqrt(order)


def _level(rotation_DD: Tensor, covariance_DD: Tensor) -> Tensor:
    """The rotation followed by others in the plane of the least and the most varying dimension, until all vary alike
    to within `ROUNDING`."""
    rotated_DD = rotation_DD @ covariance_DD @ rotation_DD.T
    mean = float(rotated_DD.diagonal().mean())
    for _ in range(len(covariance_DD) - 1):
        low, high = _first(-rotated_DD.diagonal(), mean), _first(rotated_DD.diagonal(), mean)
        above = float(rotated_DD[high, high]) - mean
        if above <= ROUNDING * mean:
            break
        # tan t solves (var_high - mean) - 2 cov tan t + (var_low - mean) tan^2 t = 0, which sets var_high to the mean.
        covariance, below = float(rotated_DD[high, low]), float(rotated_DD[low, low]) - mean
        root = math.sqrt(covariance**2 - above * below)
        tangent = above / (covariance + (root if covariance > -ROUNDING * mean else -root))
        cosine = 1 / math.hypot(1, tangent)
        turn = torch.tensor([[cosine, -cosine * tangent], [cosine * tangent, cosine]], dtype=torch.float64)
        pair = [high, low]
        rotation_DD[pair] = turn @ rotation_DD[pair]
        rotated_DD[pair] = turn @ rotated_DD[pair]
        rotated_DD[:, pair] = rotated_DD[:, pair] @ turn.T
    return rotation_DD


def _first(values_D: Tensor, mean: float) -> int:
    """The place of the largest value; of several that differ by rounding only, as Hartley's rows do, the first."""
    return int((values_D >= values_D.max() - ROUNDING * mean).int().argmax())
