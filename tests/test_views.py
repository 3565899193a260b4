"""Crops and flips."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from distill.data.draws import generator_for
from distill.data.views import crop_picture, crop_tensor, draw_crops, draw_flips, needed_side, place_crops

WHOLE = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)


def pictures(count: int, height: int, width: int) -> torch.Tensor:
    """Random pictures on the 8-bit grid, smooth enough that resampling is not all noise."""
    noise = torch.rand(count, 3, height, width, generator=generator_for("pictures"))
    smooth = F.avg_pool2d(noise, 3, stride=1, padding=1)
    return (smooth / smooth.max() * 255).round() / 255


def no_flip(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.bool)


def test_the_whole_of_a_square_picture_is_exactly_the_picture():
    boxes = place_crops(draw_crops(50, generator=generator_for(0)), scale=(1.0, 1.0))
    assert torch.equal(boxes, WHOLE.expand(50, 4))


@pytest.mark.parametrize("aspect", [1.0, 0.5, 1.5, 3.0])
def test_crops_lie_inside_with_the_asked_area_and_aspect(aspect):
    left, top, right, bottom = place_crops(
        draw_crops(2000, generator=generator_for(1)), scale=(0.1, 0.4), aspect=aspect
    ).unbind(-1)
    assert float(torch.stack([left, top]).min()) >= 0 and float(torch.stack([right, bottom]).max()) <= 1
    width, height = right - left, bottom - top
    shape = width * aspect / height
    assert float(shape.min()) >= 0.75 - 1e-6 and float(shape.max()) <= 4 / 3 + 1e-6
    area = width * height
    assert float(area.max()) <= 0.4 + 1e-9
    # Only a picture as wide as 3:1 cannot give 0.4 of its area to such a crop.
    assert float(area.min()) >= 0.1 - 1e-9
    if aspect != 3.0:
        assert abs(float(area.mean()) - 0.25) < 0.01


def test_a_whole_photo_is_seen_as_far_as_its_shape_allows():
    draws = draw_crops(20, generator=generator_for(2))

    def seen(aspect: float) -> torch.Tensor:
        box = place_crops(draws, scale=(1.0, 1.0), aspect=aspect)
        return (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])

    torch.testing.assert_close(seen(4 / 3), torch.ones(20, dtype=torch.float64))
    torch.testing.assert_close(seen(3 / 4), torch.ones(20, dtype=torch.float64))
    torch.testing.assert_close(seen(3 / 2), torch.full((20,), 8 / 9, dtype=torch.float64))
    left = place_crops(draws, scale=(1.0, 1.0), aspect=3 / 2)[:, 0]
    assert float(left.max() - left.min()) > 0.05


def test_crops_land_everywhere():
    boxes = place_crops(draw_crops(2000, generator=generator_for(3)), scale=(0.25, 0.25))
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert ((centre.mean(dim=0) - 0.5).abs() < 0.02).all()
    assert (centre.min(dim=0).values < 0.3).all() and (centre.max(dim=0).values > 0.7).all()


def test_a_whole_picture_of_the_right_size_comes_back_untouched():
    images = pictures(3, 16, 16)
    assert crop_tensor(images, WHOLE.expand(3, 4), no_flip(3), size=16) is images


def test_flips_mirror_only_the_pictures_they_name():
    images = pictures(3, 16, 16)
    flip = torch.tensor([True, False, True])
    flipped = crop_tensor(images, WHOLE.expand(3, 4), flip, size=16)
    assert torch.equal(flipped[0], images[0].flip(-1)) and torch.equal(flipped[1], images[1])
    boxes = place_crops(draw_crops(3, generator=generator_for(4)), scale=(0.3, 0.6))
    plain, mirrored = crop_tensor(images, boxes, no_flip(3), size=12), crop_tensor(images, boxes, flip, size=12)
    torch.testing.assert_close(mirrored[0], plain[0].flip(-1))
    torch.testing.assert_close(mirrored[1], plain[1])


def test_flips_come_as_often_as_asked():
    often = draw_flips(4000, probability=0.3, generator=generator_for(5)).float().mean()
    assert abs(float(often) - 0.3) < 0.03
    assert not draw_flips(100, probability=0.0, generator=generator_for(5)).any()


@pytest.mark.parametrize(("height", "width", "size"), [(64, 64, 32), (40, 56, 16), (20, 20, 48)])
def test_whole_pictures_are_resized_as_torch_does_with_antialiasing(height, width, size):
    images = pictures(2, height, width)
    expected = F.interpolate(images, (size, size), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    view = crop_tensor(images, WHOLE.expand(2, 4), no_flip(2), size=size)
    # Measured: 5e-7.
    torch.testing.assert_close(view, expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize(("scale", "size"), [((0.1, 0.4), 32), ((0.5, 1.0), 64), ((0.3, 0.9), 16)])
def test_both_back_ends_give_the_same_view(scale, size):
    images = pictures(6, 48, 64)
    boxes = place_crops(draw_crops(6, generator=generator_for(6)), scale=scale, aspect=64 / 48)
    flip = torch.tensor([False, True] * 3)
    batched = crop_tensor(images, boxes, flip, size=size) * 255
    for place in range(6):
        picture = Image.fromarray((images[place] * 255).round().byte().permute(1, 2, 0).numpy())
        one = crop_picture(picture, tuple(boxes[place].tolist()), flip=bool(flip[place]), size=size)
        # Pillow rounds to 8 bits after each of two passes. Measured: 1.3.
        assert float((batched[place] - one).abs().max()) < 1.6


def test_a_box_that_touches_the_border_is_cut_without_complaint():
    picture = Image.fromarray(np.zeros((33, 77, 3), dtype=np.uint8))
    view = crop_picture(picture, (1 / 3, 0.1, 1.0, 1.0), flip=False, size=8)
    assert view.shape == (3, 8, 8) and view.dtype == torch.uint8


def test_the_side_a_picture_needs_grows_with_small_crops():
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.25], [0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    assert needed_side(boxes, size=32) == 128
    assert needed_side(boxes[:0], size=32) == 0
