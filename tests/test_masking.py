"""Which patches are hidden."""

import pytest
import torch

from distill.config import Masking
from distill.data.draws import generator_for
from distill.data.masking import hidden_patches, num_hidden

PATTERNS = ("random", "block")


def masks(count: int, grid: tuple[int, int], *, seed: int = 0, keep: slice = slice(None), **settings) -> torch.Tensor:
    return hidden_patches(count, grid, settings=Masking(**settings), generator=generator_for(seed), keep=keep)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("grid", [(8, 8), (14, 14), (5, 9), (1, 7)])
@pytest.mark.parametrize("ratio", [0.1, 0.4, 0.75, 0.95])
def test_every_masked_image_hides_exactly_the_asked_share(pattern, grid, ratio):
    hidden = masks(64, grid, pattern=pattern, ratio=ratio)
    num_patches = grid[0] * grid[1]
    assert hidden.shape == (64, num_patches)
    expected = int(ratio * num_patches + 0.5)
    assert set(hidden.sum(dim=1).tolist()) == {min(max(expected, 1), num_patches - 1)}


def test_a_small_grid_hides_one_patch_at_least_and_never_all():
    assert num_hidden(0.1, 4) == 1
    assert num_hidden(0.95, 4) == 3
    assert num_hidden(0.0, 4) == 0
    assert num_hidden(0.75, 196) == 147


@pytest.mark.parametrize("pattern", PATTERNS)
def test_nothing_is_hidden_when_the_ratio_or_the_share_of_images_is_zero(pattern):
    assert not masks(16, (8, 8), pattern=pattern, ratio=0.0).any()
    assert not masks(16, (8, 8), pattern=pattern, image_share=0.0).any()


@pytest.mark.parametrize("share", [0.5, 0.3, 0.9])
def test_the_share_of_masked_images_holds_in_every_part_of_the_batch(share):
    masked = masks(120, (8, 8), image_share=share).any(dim=1)
    assert int(masked.sum()) == round(120 * share)
    for part in masked.split(30):
        assert abs(int(part.sum()) - 30 * share) <= 1


def test_which_images_are_masked_changes_from_step_to_step():
    chosen = torch.stack([masks(8, (4, 4), seed=step, image_share=0.5).any(dim=1) for step in range(64)])
    assert ((chosen.float().mean(dim=0) - 0.5).abs() < 0.25).all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_rank_gets_its_part_of_the_global_masks(pattern):
    settings = {"pattern": pattern, "image_share": 0.7}
    whole = masks(24, (6, 6), **settings)
    parts = [masks(24, (6, 6), keep=slice(start, start + 6), **settings) for start in range(0, 24, 6)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_masks_follow_from_the_generator(pattern):
    assert torch.equal(masks(8, (8, 8), pattern=pattern), masks(8, (8, 8), pattern=pattern))
    assert not torch.equal(masks(8, (8, 8), pattern=pattern), masks(8, (8, 8), seed=1, pattern=pattern))


def test_random_masks_hide_every_patch_equally_often():
    often = masks(4000, (4, 4), ratio=0.75).float().mean(dim=0)
    # Four standard deviations of a mean over 4,000 draws with p = 0.75: 0.027.
    assert ((often - 0.75).abs() < 0.028).all()


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.75])
def test_block_masks_hold_together_and_random_ones_do_not(ratio):
    def borders(pattern: str) -> float:
        hidden = masks(200, (14, 14), pattern=pattern, ratio=ratio).reshape(-1, 14, 14)
        across, down = hidden[:, :, 1:] != hidden[:, :, :-1], hidden[:, 1:] != hidden[:, :-1]
        return float(across.float().mean() + down.float().mean()) / 2

    assert abs(borders("random") - 2 * ratio * (1 - ratio)) < 0.02
    assert borders("block") < 0.5 * borders("random")


def test_block_masks_favour_no_side_of_the_picture():
    often = masks(3000, (8, 8), pattern="block", ratio=0.5).float().mean(dim=0).reshape(8, 8)
    # Rectangles reach corners less often than the middle, in the same way on every side.
    assert float((often - often.flip(1)).abs().max()) < 0.06
    assert float((often - often.flip(0)).abs().max()) < 0.06
