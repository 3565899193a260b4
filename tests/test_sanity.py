"""A look at features: every statistic against features made to have it, and every warning against what it warns of."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.contracts import Tokens
from distill.eval.sanity import COLOURS, effective_rank, look_at, look_at_texts, warnings

PICTURES, ROWS, COLUMNS, WIDTH = 8, 4, 6, 16


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pixels() -> Tensor:
    return torch.rand(PICTURES, 3, 8 * ROWS, 8 * COLUMNS, generator=torch.Generator().manual_seed(9))


def tokens(patches: Tensor, cls: Tensor | None = None) -> Tokens:
    return Tokens(cls=drawn(PICTURES, 2, WIDTH, seed=5) if cls is None else cls, patches=patches, grid=(ROWS, COLUMNS))


def noise() -> Tensor:
    return drawn(PICTURES, ROWS * COLUMNS, WIDTH)


def colours() -> Tensor:
    """A linear map of the four mean colours of every patch, taken patch by patch."""
    found = []
    for row in range(ROWS):
        for column in range(COLUMNS):
            patch = pixels()[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            quarters = [patch[:, :, y : y + 4, x : x + 4].mean((2, 3)) for y in (0, 4) for x in (0, 4)]
            found.append(torch.cat(quarters, dim=1) @ drawn(12, WIDTH, seed=2))
    return torch.stack(found, dim=1)


def test_features_of_noise_look_like_nothing_that_is_warned_of():
    look = look_at(tokens(noise()), pixels())
    assert look.finite and warnings(look) == []
    unit = F.normalize(noise(), dim=-1)
    inside = [unit[b, i] @ unit[b, j] for b in range(PICTURES) for i in range(24) for j in range(24) if i != j]
    across = [unit[a, i] @ unit[b, i] for a in range(PICTURES) for b in range(PICTURES) for i in range(24) if a != b]
    assert look.within == pytest.approx(torch.stack(inside).mean().item(), abs=1e-6)
    assert look.across == pytest.approx(torch.stack(across).mean().item(), abs=1e-6)
    assert look.alive == pytest.approx(1, abs=0.02) and look.largest_share < 2 / WIDTH
    assert 0.9 * WIDTH < look.rank <= look.largest_rank == WIDTH
    assert abs(look.colours) < 0.3 and look.by_place == pytest.approx(1 / PICTURES, abs=0.05)


def test_the_effective_rank_counts_equal_directions_and_weighs_unequal_ones():
    basis = torch.linalg.qr(drawn(20, 20))[0]
    assert effective_rank(basis[:, :5]) == pytest.approx(5)
    variances = torch.tensor([0.7, 0.2, 0.1])
    expected = math.exp(-sum(p * math.log(p) for p in variances.tolist()))
    assert effective_rank(basis[:, :3] * variances.sqrt()) == pytest.approx(expected, rel=1e-5)


def test_features_that_follow_from_colours_are_told_from_others():
    look = look_at(tokens(colours()), pixels())
    assert look.colours > 0.99
    assert any("colours explains" in warning for warning in warnings(look))
    varying = colours() - colours().mean((0, 1))
    mixed = look_at(tokens(varying / varying.std() + 1.2 * noise()), pixels())
    assert 0 < mixed.colours < COLOURS and warnings(mixed) == []


@pytest.mark.parametrize(
    ("patches", "warning"),
    [
        (torch.ones(PICTURES, ROWS * COLUMNS, WIDTH), "these features have collapsed"),
        (torch.zeros(PICTURES, ROWS * COLUMNS, WIDTH), "these features have collapsed"),
        (5 + 1e-3 * noise(), "nearly the same: these features have collapsed"),
        (drawn(PICTURES, ROWS * COLUMNS, 1) * drawn(WIDTH, seed=3), "one direction only"),
        (drawn(1, ROWS * COLUMNS, WIDTH) + 0.1 * noise(), "pictures make no difference"),
        (noise().masked_fill(torch.arange(WIDTH) == 3, torch.nan), "not finite"),
        (noise() + torch.tensor(torch.inf), "not finite"),
    ],
    ids=["ones", "zeros", "almost one vector", "one direction", "places", "nan", "inf"],
)
def test_what_is_wrong_is_said(patches: Tensor, warning: str):
    assert any(warning in found for found in warnings(look_at(tokens(patches), pixels())))


def test_a_cls_token_that_is_always_the_same_is_warned_of():
    cls = drawn(1, 2, WIDTH).expand(PICTURES, -1, -1) + 1e-3 * drawn(PICTURES, 2, WIDTH, seed=1)
    assert warnings(look_at(tokens(noise(), cls), pixels())) == ["the CLS token is nearly the same for every picture"]


def test_one_patch_a_picture_has_no_neighbours_and_too_few_patches_say_nothing_of_colours():
    found = Tokens(cls=drawn(PICTURES, 1, WIDTH), patches=drawn(PICTURES, 1, WIDTH, seed=1), grid=(1, 1))
    look = look_at(found, pixels())
    assert math.isnan(look.within) and math.isnan(look.colours) and not math.isnan(look.across)
    assert warnings(look) == []


def test_texts_are_compared_with_their_own_picture_and_with_others():
    cls, image = drawn(PICTURES, WIDTH), look_at(tokens(noise()), pixels())
    near = look_at_texts(cls, 3 * cls + 0.1 * drawn(PICTURES, WIDTH, seed=4))
    assert near.own > 0.95 and abs(near.other) < 0.3 and warnings(image, near) == []
    swapped = look_at_texts(cls, cls.roll(1, dims=0))
    assert warnings(image, swapped) == ["captions are no closer to their own picture than to others'"]
    same = look_at_texts(cls, torch.ones(PICTURES, WIDTH))
    assert same.between_texts == pytest.approx(1)
    assert "the text tower says nearly the same of every text" in warnings(image, same)
    assert "not finite" in warnings(image, look_at_texts(cls, cls / 0))[0]
