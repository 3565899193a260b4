"""PHI-S: equal variances, isotropic errors, a rotation that settles, and the Hadamard matrices behind it."""

import pytest
import torch

from distill.objective.rotation import balancing_rotation, hadamard
from distill.objective.standardise import TOKENS_PER_DIMENSION, Standardiser

ENCODER_WIDTHS = (192, 320, 384, 512, 576, 640, 768, 1024, 1152, 1280, 1408, 1536, 1664)
OTHER_WIDTHS = (5, 6, 10, 27, 90)
"""No Hadamard matrix has these orders."""


def features(tokens: int, width: int, *, seed: int = 0) -> torch.Tensor:
    """Correlated dimensions whose principal deviations span a factor of a hundred, around a large mean."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(99)))[0]
    scales = torch.logspace(1, -1, width)
    return torch.randn(tokens, width, generator=generator) * scales @ mixing.T + 3.0


def fitted(x: torch.Tensor, *, momentum: float = 0.99, steps: int = 1) -> Standardiser:
    standardise = Standardiser(x.shape[1], momentum=momentum, kind="phi_s")
    for part in x.chunk(steps):
        standardise.observe(part)
        standardise.step()
    return standardise


@pytest.mark.parametrize("order", [1, 2, 4, 12, 20, 28, 36, 44, 60, 96, *ENCODER_WIDTHS])
def test_a_hadamard_matrix_has_entries_of_one_size_and_orthogonal_rows(order: int):
    found = hadamard(order)
    assert found is not None and bool((found.abs() == 1).all())
    if order <= 768:  # larger ones are products of these
        assert torch.equal(found @ found.T, order * torch.eye(order, dtype=torch.float64))


def test_orders_without_a_known_construction_are_named():
    assert all(hadamard(order) is None for order in OTHER_WIDTHS)


@pytest.mark.parametrize("width", [8, 12, 48, 192, *OTHER_WIDTHS])
def test_after_phi_s_every_dimension_has_variance_one(width: int):
    x = features(4 * width + 50, width)
    y = fitted(x)(x)
    assert y.mean(0).abs().max() < 1e-3
    # Measured worst case 5.4e-7.
    assert (y.var(0, correction=0) - 1).abs().max() < 1e-5
    assert (x.var(0, correction=0) / x.var(0, correction=0).mean() - 1).abs().max() > 0.5


@pytest.mark.parametrize("width", [12, 10])
def test_phi_s_is_a_rotation_and_one_scale_so_errors_are_isotropic(width: int):
    standardise = fitted(features(200, width))
    points = torch.randn(40, width)
    stretch = torch.cdist(standardise(points), standardise(points)) / torch.cdist(points, points).fill_diagonal_(1)
    off = stretch[~torch.eye(40, dtype=torch.bool)]
    assert off.max() / off.min() - 1 < 1e-3
    rotation = standardise.rotation
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(width), atol=1e-5, rtol=0)
    # mean_std is not: it stretches small dimensions.
    other = Standardiser(width, momentum=0.99)
    other.observe(features(200, width) * torch.logspace(0, 1, width))
    other.step()
    stretch = torch.cdist(other(points), other(points)) / torch.cdist(points, points).fill_diagonal_(1)
    off = stretch[~torch.eye(40, dtype=torch.bool)]
    assert off.max() / off.min() > 1.5


def test_with_a_hadamard_matrix_every_dimension_hears_every_component_equally():
    x = features(500, 48).double()
    covariance = (x - x.mean(0)).T @ (x - x.mean(0)) / len(x)
    shares = (balancing_rotation(covariance) @ torch.linalg.eigh(covariance).eigenvectors).square() * 48
    torch.testing.assert_close(shares, torch.ones_like(shares), atol=1e-9, rtol=0)


def test_the_rotation_does_not_depend_on_rounding():
    for width in (10, 48):
        x = features(3 * width, width)
        whole, pieces = fitted(x), Standardiser(width, momentum=0.99, kind="phi_s")
        for piece in x.flip(0).split([width, 2 * width - 3, 3]):
            pieces.observe(piece)
        pieces.step()
        # Measured worst case 2.0e-4: the eigenvectors of the smallest variances, by the float32 of the largest.
        torch.testing.assert_close(pieces.rotation, whole.rotation, atol=2e-3, rtol=0)


def test_the_rotation_waits_for_tokens_and_then_settles():
    width = 12
    standardise, seen = Standardiser(width, momentum=0.9, kind="phi_s"), []
    for step in range(40):
        standardise.observe(features(6, width, seed=step))
        standardise.step()
        seen.append(standardise.rotation.clone())
    turned = [step + 1 for step in range(1, 40) if not torch.equal(seen[step], seen[step - 1])]
    assert TOKENS_PER_DIMENSION == 2 and turned == [4, 8]  # 24 tokens; the average is full after ten steps
    assert torch.equal(seen[0], torch.eye(width))


def test_a_rotation_that_was_found_too_late_is_still_found():
    width = 12
    standardise = Standardiser(width, momentum=0.0, kind="phi_s")
    for step in range(16):
        standardise.observe(features(2, width, seed=step))
        standardise.step()
    assert standardise.turned_at == 16


def test_phi_s_goes_on_from_its_state_to_the_bit():
    x = features(400, 12)
    whole = fitted(x, steps=8)
    first, rest = x[:200], x[200:]
    resumed = Standardiser(12, momentum=0.99, kind="phi_s")
    resumed.load_state_dict(fitted(first, steps=4).state_dict())
    for part in rest.chunk(4):
        resumed.observe(part)
        resumed.step()
    assert all(map(torch.equal, resumed.state_dict().values(), whole.state_dict().values()))


def test_a_step_without_observations_turns_nothing():
    standardise = fitted(features(50, 12))
    before = {name: value.clone() for name, value in standardise.state_dict().items()}
    standardise.step()
    assert all(torch.equal(value, before[name]) for name, value in standardise.state_dict().items())
