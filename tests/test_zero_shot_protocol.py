"""Zero-shot segmentation pixel by pixel: the protocol written out in numpy against what the product predicts, on
pictures of any size and aspect; and the maps it is made of against PyTorch's own.

`protocol` (test_zero_shot_segmentation.py) follows tipsv2.md section 7 in float64: resize, stretch, features,
templates, windows and their counts, softmax without temperature, bilinear.
"""

import dataclasses

import numpy as np
import pytest
import torch
from oracles import know_nothing
from test_zero_shot_segmentation import NAMES, SCALED, protocol, text_by_hand

from distill.eval import bilinear, dense
from distill.eval.bilinear import Taps, best_between, highest
from distill.eval.dense import LinearScores, Means, best_class, window_grid
from distill.eval.features import patch_map, tokens, unit
from distill.eval.tasks.zero_shot_segmentation import class_scores, predict

SIZES = {
    "one patch": (7, 7),
    "less than a patch": (3, 5),
    "one pixel": (1, 1),
    "smaller than a window": (20, 27),
    "a window": (28, 28),
    "one pixel more than a window": (29, 28),
    "odd": (45, 61),
    "very wide": (9, 301),
    "very tall": (257, 11),
    "wide, a little higher than a window": (31, 203),
}


def picture(size: tuple[int, int], *, count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(sum(size)))


@pytest.mark.parametrize("scale", [None, 0.6, 1.4])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_every_pixel_has_the_class_that_the_protocol_scores_highest(mode, size, scale):
    short_side = None if scale is None else max(1, round(scale * min(size)))
    encoder, settings = know_nothing(), dataclasses.replace(SCALED, mode=mode, short_side=short_side)
    pixels, label_size = picture(size), (size[0] + 4, 2 * size[1] + 1)
    scores = class_scores(encoder, NAMES, settings)
    text = text_by_hand(encoder, NAMES, "tcl")
    for labels in (size, label_size):
        found = predict(encoder.image, pixels, scores=scores, size=labels, settings=settings)[0].numpy()
        expected = protocol(encoder, pixels[0].numpy().astype(np.float64), text, labels, settings)
        chosen = np.take_along_axis(expected, found[None], axis=0)[0]
        assert found.shape == labels
        # The score of what is predicted is the best one's; the worst difference measured was 0.
        assert (expected.max(0) - chosen).max() <= 1e-6


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_mean_shares_of_windows_are_those_of_the_protocol(size):
    encoder, settings = know_nothing(), dataclasses.replace(SCALED, mode="slide")
    pixels = picture(size)
    expected = protocol(
        encoder, pixels[0].numpy().astype(np.float64), text_by_hand(encoder, NAMES, "tcl"), size, settings
    )
    windows = window_grid(size, window=settings.window, stride=settings.stride)
    scores, seen, maps = class_scores(encoder, NAMES, settings), torch.zeros(size), []
    for corner in windows.corners:
        windows.of(seen, corner).add_(1)
        found = patch_map(tokens(encoder.image, windows.of(pixels, corner), kind="value", precision="fp32"))
        maps.append(scores.of(unit(found.movedim(1, -1)).movedim(-1, 1)).permute(2, 0, 1, 3))
    shares = Means(maps, windows=windows, seen_HW=seen, mean_of="shares").rows(range(size[0]))[:, 0].movedim(1, 0)
    np.testing.assert_allclose(shares, expected, atol=1e-6, rtol=0)  # 5e-8 was measured
    np.testing.assert_allclose(shares.sum(0), np.ones(size), atol=1e-6)


def test_windows_of_a_picture_go_through_the_encoder_together():
    encoder, batches = know_nothing(), []
    plain = encoder.image.values
    encoder.image.values = lambda pixels: batches.append(len(pixels)) or plain(pixels)
    pixels, classes = picture((49, 91), count=3), []
    for batch_size in (1, 7, 64):
        settings = dataclasses.replace(SCALED, mode="slide", batch_size=batch_size)
        scores = class_scores(encoder, NAMES, settings)
        batches.clear()
        classes.append(predict(encoder.image, pixels, scores=scores, size=(50, 92), settings=settings))
        assert sum(batches) == 3 * 2 * 4 and max(batches) == {1: 3, 7: 6, 64: 24}[batch_size]
    assert torch.equal(classes[0], classes[1]) and torch.equal(classes[0], classes[2])


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("chunk", [300, 2000, 2**19])
@pytest.mark.parametrize(("old", "new"), [((4, 5), (24, 37)), ((1, 1), (9, 8)), ((13, 17), (6, 5)), ((6, 7), (6, 7))])
def test_the_best_class_is_the_arg_max_of_pytorch_s_bilinear_maps(old, new, chunk, monkeypatch):
    monkeypatch.setattr(bilinear, "IN_CACHE", chunk)
    monkeypatch.setattr(dense, "BAND", chunk)
    features, scores = noise(3, 8, *old), LinearScores(noise(11, 8, seed=1), noise(11, seed=2))
    maps = torch.nn.functional.interpolate(scores.of(features).double(), new, mode="bilinear")
    mixed = best_between(
        scores.of(features).permute(2, 0, 1, 3).contiguous(), *(Taps.between(*s) for s in zip(old, new, strict=True))
    )
    for found in (best_class(features, scores, size=new), mixed.movedim(1, 0)):
        assert found.shape == (3, *new)
        assert (maps.amax(1) - maps.gather(1, found[:, None])[:, 0]).max() < 1e-5  # of scores up to 12
        assert (found == maps.argmax(1)).float().mean() > 0.999


@pytest.mark.parametrize("ties", [2, 11])
def test_the_lower_class_of_equal_ones_wins_at_every_pixel(ties):
    weight, bias = noise(11, 8), noise(11)
    weight[-ties:], bias[-ties:] = weight[-1:].clone(), 50.0  # the last classes are the same, and the best everywhere
    scores, features = LinearScores(weight, bias), noise(2, 8, 5, 6, seed=3)
    assert (best_class(features, scores, size=(33, 41)) == 11 - ties).all()
    maps = scores.of(features).permute(2, 0, 1, 3).contiguous()
    assert (best_between(maps, Taps.between(5, 11), Taps.between(6, 5)) == 11 - ties).all()


def test_the_highest_class_is_found_whatever_the_size_of_the_scores():
    for scale in (1e-12, 1.0, 1e12):
        maps = (noise(4, 2, 300, 9) * scale).round(decimals=1 if scale == 1 else 20)
        assert torch.equal(highest(maps), maps.argmax(2))  # rounded to a tenth, most maxima have company
    assert highest(torch.zeros(1, 1, 5, 2)).tolist() == [[[0, 0]]]


@pytest.mark.gpu
def test_a_gpu_predicts_and_counts_what_a_cpu_does():
    for mode in ("whole", "slide"):
        settings, found = dataclasses.replace(SCALED, mode=mode), []
        for device in ("cpu", "cuda"):
            encoder = know_nothing().to(device)
            scores = class_scores(encoder, NAMES, settings)
            found.append(predict(encoder.image, picture((45, 61)), scores=scores, size=(45, 61), settings=settings))
            assert found[-1].device.type == device
        assert (found[0] == found[1].cpu()).float().mean() > 0.999
