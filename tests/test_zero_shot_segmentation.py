"""Zero-shot segmentation against its protocol written out a second time, pixel by pixel, in numpy."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from oracles import Largest, Listed, all_knowing, know_nothing, painted
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score

from distill.eval import bilinear, dense
from distill.eval.prompts import TEMPLATES, class_embeddings
from distill.eval.tasks.zero_shot_segmentation import ZeroShotSettings, class_scores, evaluate, predict

NAMES = ["cat", "dog", "tree", "sky", "road"]
SIZES = [(45, 61), (33, 38), (45, 61), (70, 40)]
SCALED = ZeroShotSettings(templates="tcl", short_side=None, window=28, stride=21)


def noisy_set(names: list[str] = NAMES, *, sizes: list[tuple[int, int]] = SIZES, ignored: float = 0.1) -> Listed:
    generator = torch.Generator().manual_seed(5)
    items = []
    for size in sizes:
        labels = torch.randint(len(names), size, generator=generator)
        labels[torch.rand(size, generator=generator) < ignored] = 255
        items.append((torch.rand(3, *size, generator=generator), labels))
    return Listed(items, names)


# The protocol of tipsv2.md section 7 again, with loops.


def positions(old: int, new: int) -> list[float]:
    return [(place + 0.5) * old / new - 0.5 for place in range(new)]


def bilinear_matrix(old: int, new: int) -> np.ndarray:
    matrix = np.zeros((new, old))
    for row, place in enumerate(positions(old, new)):
        place = max(place, 0.0)
        left = min(int(place), old - 1)
        right = min(left + 1, old - 1)
        matrix[row, left] += 1 - (place - left)
        matrix[row, right] += place - left
    return matrix


def bicubic_matrix(old: int, new: int, a: float = -0.75) -> np.ndarray:
    def weight(x: float) -> float:
        x = abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    matrix = np.zeros((new, old))
    for row, place in enumerate(positions(old, new)):
        for tap in range(math.floor(place) - 1, math.floor(place) + 3):
            matrix[row, min(max(tap, 0), old - 1)] += weight(place - tap)
    return matrix


def resized(maps: np.ndarray, size: tuple[int, int], matrix=bilinear_matrix) -> np.ndarray:
    down, across = matrix(maps.shape[1], size[0]), matrix(maps.shape[2], size[1])
    return np.stack([down @ each @ across.T for each in maps])


def short_sided(picture: np.ndarray, short_side: int | None) -> np.ndarray:
    """By Pillow, channel by channel in floating point."""
    if short_side is None:
        return picture
    height, width = picture.shape[1:]
    scale = short_side / min(height, width)
    size = (round(width * scale), round(height * scale))
    planes = [Image.fromarray(plane.astype(np.float32)).resize(size, Image.Resampling.BICUBIC) for plane in picture]
    return np.stack([np.asarray(plane, dtype=np.float64) for plane in planes]).clip(0, 1)


def text_by_hand(encoder, names: list[str], templates: str) -> np.ndarray:
    rows = []
    for name in names:
        total = np.zeros(encoder.image.width)
        for template in TEMPLATES[templates]:
            vector = encoder.encode_text([template.format(name)])[0].numpy().astype(np.float64)
            total += vector / np.linalg.norm(vector)
        rows.append(total / np.linalg.norm(total))
    return np.stack(rows)


def cosines(encoder, picture: np.ndarray, text: np.ndarray, settings: ZeroShotSettings) -> np.ndarray:
    patch = encoder.image.patch_size
    size = tuple(-(-side // patch) * patch for side in picture.shape[1:])
    fitting = resized(picture, size, bicubic_matrix) if size != picture.shape[1:] else picture
    see = {"value": encoder.image.values, "final": encoder.image}[settings.features]
    with torch.no_grad():
        found = see(torch.from_numpy(fitting)[None].float())
    maps = np.zeros((len(text), *found.grid))
    for number, vector in enumerate(found.patches[0].numpy().astype(np.float64)):
        row, column = divmod(number, found.grid[1])
        for place, name in enumerate(text):
            maps[place, row, column] = vector @ name / np.linalg.norm(vector)
    return maps


def protocol(encoder, picture: np.ndarray, text: np.ndarray, size: tuple[int, int], settings) -> np.ndarray:
    """Score of every class at every pixel of the label map."""
    picture = short_sided(picture, settings.short_side)
    if settings.mode == "whole":
        return resized(cosines(encoder, picture, text, settings), size)
    height, width = picture.shape[1:]
    total, seen = np.zeros((len(text), height, width)), np.zeros((height, width))
    tops = -(-max(height - settings.window, 0) // settings.stride) + 1
    lefts = -(-max(width - settings.window, 0) // settings.stride) + 1
    for i in range(tops):
        for j in range(lefts):
            bottom, right = (
                min(i * settings.stride + settings.window, height),
                min(j * settings.stride + settings.window, width),
            )
            top, left = max(bottom - settings.window, 0), max(right - settings.window, 0)
            window = picture[:, top:bottom, left:right]
            scores = np.exp(resized(cosines(encoder, window, text, settings), window.shape[1:]))
            total[:, top:bottom, left:right] += scores / scores.sum(0)
            seen[top:bottom, left:right] += 1
    assert seen.min() >= 1
    return resized(total / seen, size)


@pytest.mark.parametrize("features", ["value", "final"])
@pytest.mark.parametrize("short_side", [None, 29, 50])
@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_the_scores_are_those_of_the_protocol_written_out_by_hand(mode, short_side, features):
    encoder, data = know_nothing(), noisy_set()
    settings = dataclasses.replace(SCALED, mode=mode, short_side=short_side, features=features)
    text = text_by_hand(encoder, NAMES, "tcl")
    truth, found = [], []
    for pixels, labels in data.items:
        scores = protocol(encoder, pixels.numpy().astype(np.float64), text, tuple(labels.shape), settings)
        kept = labels.numpy() != 255
        truth.append(labels.numpy()[kept])
        found.append(scores.argmax(0)[kept])
    truth, found = np.concatenate(truth), np.concatenate(found)
    result = evaluate(encoder, data, settings)
    assert result.values["miou"] == pytest.approx(jaccard_score(truth, found, average="macro"), abs=1e-6)
    assert result.values["pixel_accuracy"] == pytest.approx(accuracy_score(truth, found), abs=1e-6)
    by_hand = jaccard_score(truth, found, average=None, labels=range(len(NAMES)))
    assert list(result.per_class.values()) == pytest.approx(by_hand.tolist(), abs=1e-6)


def test_windows_lie_as_the_paper_s_do():
    windows = dense.window_grid((448, 597), window=448, stride=336)
    assert windows.corners == [(0, 0), (0, 149)]
    assert (windows.height, windows.width) == (448, 448)
    assert len(dense.window_grid((448, 1121), window=448, stride=336).corners) == 4
    assert dense.window_grid((100, 784), window=448, stride=336).corners == [(0, 0), (0, 336)]
    assert dense.window_grid((100, 784), window=448, stride=336).height == 100


def test_an_all_knowing_encoder_is_perfect_where_regions_end_at_patches():
    labels = torch.arange(5).repeat_interleave(16).expand(64, 80)
    data = Listed([(painted(labels), labels)], NAMES)
    for mode in ("whole", "slide"):
        result = evaluate(all_knowing(NAMES), data, dataclasses.replace(SCALED, mode=mode, window=64, stride=48))
        assert result.values == {"miou": 1.0, "pixel_accuracy": 1.0}


def test_an_all_knowing_encoder_reaches_the_ceiling_of_the_patch_grid():
    edges = [0, 13, 30, 45, 59, 80]
    stripes = torch.cat([torch.full((high - low,), i) for i, (low, high) in enumerate(itertools.pairwise(edges))])
    labels = stripes.expand(64, 80)
    majority = stripes.view(10, 8).mode(1).values.repeat_interleave(8).expand(64, 80)
    ceiling = jaccard_score(labels.flatten(), majority.flatten(), average="macro")
    result = evaluate(all_knowing(NAMES), Listed([(painted(labels), labels)], NAMES), SCALED)
    assert 0.7 < ceiling < 0.95
    assert result.values["miou"] == pytest.approx(ceiling, abs=1e-12)


def test_an_encoder_that_knows_nothing_is_near_chance():
    accuracy = evaluate(know_nothing(), noisy_set(ignored=0.0), SCALED).values["pixel_accuracy"]
    assert abs(accuracy - 1 / len(NAMES)) < 0.02


def test_ignored_pixels_do_not_count_and_may_hold_any_ignore_value():
    data = noisy_set(ignored=0.3)
    reference = evaluate(know_nothing(), data, SCALED)
    renamed = Listed([(p, torch.where(y == 255, -7, y)) for p, y in data.items], NAMES, ignore=-7)
    assert evaluate(know_nothing(), renamed, SCALED).values == reference.values
    guessed = Listed([(p, torch.where(y == 255, 0, y)) for p, y in data.items], NAMES)
    assert evaluate(know_nothing(), guessed, SCALED).values != reference.values


def test_a_set_without_any_label_and_a_label_without_a_class_are_refused():
    pixels, labels = noisy_set().items[0]
    with pytest.raises(ValueError, match="no pixel has a label"):
        evaluate(know_nothing(), Listed([(pixels, torch.full_like(labels, 255))], NAMES), SCALED)
    with pytest.raises(ValueError, match="label 9 is neither"):
        evaluate(know_nothing(), Listed([(pixels, torch.full_like(labels, 9))], NAMES), SCALED)


def test_a_named_background_is_a_class_like_any_other():
    names = [*NAMES[:4], "background"]
    labels = torch.arange(5).repeat_interleave(16).expand(64, 80)
    data = Listed([(painted(labels), labels)], names)
    assert evaluate(all_knowing(names), data, SCALED).values["miou"] == 1.0


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_a_threshold_background_wins_exactly_where_no_cosine_exceeds_it(mode):
    encoder, names = know_nothing(), ["background", *NAMES[1:]]
    data = noisy_set(names, sizes=[(28, 28)], ignored=0.0)  # one window: its softmax keeps the order of cosines
    text = text_by_hand(encoder, names, "tcl")
    pixels, labels = data.items[0]
    scores = protocol(encoder, pixels.numpy().astype(np.float64), text, (28, 28), SCALED)
    for score in (-1.0, 0.05, 0.2, 1.0):
        scores[0] = score
        settings = dataclasses.replace(SCALED, mode=mode, background="threshold", background_score=score)
        found = evaluate(encoder, data, settings)
        assert found.values["pixel_accuracy"] == pytest.approx((scores.argmax(0) == labels.numpy()).mean(), abs=1e-6)


def test_a_threshold_without_a_background_class_is_refused():
    with pytest.raises(ValueError, match="'background'"):
        evaluate(know_nothing(), noisy_set(), dataclasses.replace(SCALED, background="threshold"))


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_memory_is_bounded_and_chunks_change_nothing(mode, monkeypatch):
    settings = dataclasses.replace(SCALED, mode=mode)
    names = [f"class {number}" for number in range(40)]
    data = noisy_set(names)
    reference = evaluate(know_nothing(), data, settings)
    for module, bound in ((dense, "MAX_ELEMENTS"), (dense, "BAND"), (bilinear, "MAX_ELEMENTS"), (bilinear, "IN_CACHE")):
        monkeypatch.setattr(module, bound, 20_000)
    assert evaluate(know_nothing(), data, settings).per_class == pytest.approx(reference.per_class, nan_ok=True)
    encoder = know_nothing()
    scores, pixels = class_scores(encoder, names, settings), data.items[3][0][None]
    assert 40 * 70 * 40 > 100_000  # all classes at full size
    with Largest() as largest:
        predict(encoder.image, pixels, scores=scores, size=(70, 40), settings=settings)
    assert pixels.numel() <= largest.elements <= 20_000


def test_the_batch_size_changes_nothing_even_when_sizes_differ():
    # 45x61 three times, other sizes between them, more pictures than are held back.
    data = noisy_set(sizes=SIZES * 3)
    reference = evaluate(know_nothing(), data, dataclasses.replace(SCALED, batch_size=1))
    for batch_size in (2, 5, 64):
        found = evaluate(know_nothing(), data, dataclasses.replace(SCALED, batch_size=batch_size))
        assert found.values == pytest.approx(reference.values, abs=1e-9)
        for name, counts in reference.per_picture.items():
            assert torch.equal(found.per_picture[name], counts), name


def test_every_picture_s_counts_stand_at_its_place_in_the_set():
    data = noisy_set(sizes=SIZES * 2)
    found = evaluate(know_nothing(), data, dataclasses.replace(SCALED, batch_size=3)).per_picture
    assert len({tuple(row) for row in found["intersection"].tolist()}) == len(data)
    for place, item in enumerate(data.items):
        alone = evaluate(know_nothing(), Listed([item], NAMES), SCALED).per_picture
        assert all(torch.equal(found[name][place], alone[name][0]) for name in alone)
        assert found["labelled"][place] == (item[1] != 255).sum()


@pytest.mark.parametrize(
    ("mode", "change"),
    [
        ("whole", {"templates": "plain"}),
        ("whole", {"features": "final"}),
        ("whole", {"mode": "slide"}),
        ("whole", {"short_side": 29}),
        ("whole", {"precision": "bf16"}),
        ("slide", {"window": 35}),
        ("slide", {"stride": 7}),
    ],
    ids=str,
)
def test_every_setting_alone_changes_the_scores(mode, change):
    settings = dataclasses.replace(SCALED, mode=mode)
    before = evaluate(know_nothing(), noisy_set(), settings)
    after = evaluate(know_nothing(), noisy_set(), dataclasses.replace(settings, **change))
    assert after.values != before.values
    assert after.settings == before.settings | change


def test_class_embeddings_are_normalised_before_and_after_the_mean():
    encoder = know_nothing()
    found = class_embeddings(encoder, NAMES, templates="tcl").numpy()
    np.testing.assert_allclose(found, text_by_hand(encoder, NAMES, "tcl"), atol=1e-6)
    assert len(TEMPLATES["tcl"]) == 9


def test_things_and_stuff_are_averaged_apart():
    data = noisy_set()
    data.num_things = 2
    result = evaluate(know_nothing(), data, SCALED)
    each = list(result.per_class.values())
    assert result.values["miou_things"] == pytest.approx(sum(each[:2]) / 2)
    assert result.values["miou_stuff"] == pytest.approx(sum(each[2:]) / 3)


def test_an_encoder_that_diverged_is_refused_instead_of_scored():
    encoder = know_nothing()
    encoder.image.value_layer.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match="diverged"):
        evaluate(encoder, noisy_set(), SCALED)


def test_settings_that_mean_nothing_are_refused():
    for change in ({"stride": 29}, {"short_side": 0}, {"background_score": 2.0}):
        with pytest.raises(ValueError, match=next(iter(change))):
            dataclasses.replace(SCALED, **change)
