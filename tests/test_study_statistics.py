"""Inference of studies: intervals, picture bootstrap, contrasts, effects and verdicts, on results with known effects.

Legend: M replicate studies, C cells, S seeds, N pictures, R resamples, K classes.
"""

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats

from distill.eval.metrics import count_pixels, intersection_over_union
from distill.resampling import PictureCounts, PictureValues, picture_weights, resampled_scores, score
from distill.study.inference import (
    Contrast,
    Equal,
    Estimate,
    More,
    bootstrap_over_seeds,
    contrast_by_seed,
    decide,
    difference,
    estimate,
    interaction,
    judge,
    linear_model,
    main_effect,
    opposite,
    picture_spread,
    seeds_needed,
)

EFFECTS = {"ibot": 0.0, "ibotpp": 3.0, "student-masked": 1.0, "student-all": 5.0, "student-of-pp": 5.0}
TEACHERS = {
    "ibot": "ibot",
    "student-masked": "ibot",
    "student-all": "ibot",
    "ibotpp": "ibotpp",
    "student-of-pp": "ibotpp",
}
CONTRASTS = {
    "a student against its teacher": {"student-all": 1.0, "ibot": -1.0},
    "two students of one teacher": {"student-all": 1.0, "student-masked": -1.0},
    "two lineages": {"ibotpp": 0.5, "student-of-pp": 0.5, "student-all": -0.5, "student-masked": -0.5},
}


@dataclass(frozen=True, kw_only=True)
class Luck:
    """Standard deviations of what a score is made of besides its cell's effect."""

    seed: float = 2.0
    """Shared by all cells of a seed."""
    lineage: float = 1.5
    """Shared, within a seed, by a pretraining cell and all cells distilled from it."""
    run: float = 1.0
    pictures: float = 3.0
    """Shared by all runs: how hard the held-out pictures are."""
    cell_pictures: float = 0.0
    """Shared by all seeds of a cell: how much these pictures suit it."""


def studies(luck: Luck, *, num_seeds: int, num: int, generator: np.random.Generator) -> np.ndarray:
    """Scores [M, C, S] of `num` made-up studies of the cells of EFFECTS."""
    shape, lineages = (num, len(EFFECTS), num_seeds), list(dict.fromkeys(TEACHERS.values()))
    of_lineage = generator.normal(size=(num, len(lineages), num_seeds))
    return (
        np.array(list(EFFECTS.values()))[:, None]
        + luck.seed * generator.normal(size=(num, 1, num_seeds))
        + luck.lineage * of_lineage[:, [lineages.index(TEACHERS[cell]) for cell in EFFECTS]]
        + luck.run * generator.normal(size=shape)
        + luck.pictures * generator.normal(size=(num, 1, 1))
        + luck.cell_pictures * generator.normal(size=(num, len(EFFECTS), 1))
    )


def by_seed(scores_CS: np.ndarray, weights: dict[str, float]) -> dict[int, float]:
    scores = {
        (cell, seed): float(v) for cell, row in zip(EFFECTS, scores_CS, strict=True) for seed, v in enumerate(row)
    }
    return contrast_by_seed(scores, weights)


def truth(weights: dict[str, float]) -> float:
    return sum(weight * EFFECTS[cell] for cell, weight in weights.items())


def four_sigma(share: float, count: int) -> float:
    """What a share of `count` draws may miss by."""
    return 4 * math.sqrt(share * (1 - share) / count)


def differences(mean: float, *, num_seeds: int, num: int, seed: int) -> list[Estimate]:
    """Estimates of a difference whose seeds scatter with deviation 1."""
    values_MS = mean + np.random.default_rng(seed).normal(size=(num, num_seeds))
    return [estimate(dict(enumerate(map(float, values_S)))) for values_S in values_MS]


@pytest.mark.parametrize("num_seeds", [3, 5])
@pytest.mark.parametrize("name", CONTRASTS)
def test_intervals_cover_known_effects_at_the_stated_rate_however_the_cells_of_a_seed_are_related(name, num_seeds):
    num, weights = 1500, CONTRASTS[name]
    scores_MCS = studies(Luck(), num_seeds=num_seeds, num=num, generator=np.random.default_rng(num_seeds))
    found = [estimate(by_seed(scores_CS, weights)) for scores_CS in scores_MCS]
    covered = sum(e.low <= truth(weights) <= e.high for e in found) / num
    assert abs(covered - 0.95) <= four_sigma(0.95, num)


@pytest.mark.parametrize("level", [0.8, 0.99])
def test_other_levels_cover_as_they_say(level):
    values_MS = np.random.default_rng(3).normal(size=(3000, 3))
    found = [estimate(dict(enumerate(map(float, values_S))), level=level) for values_S in values_MS]
    assert abs(sum(e.low <= 0 <= e.high for e in found) / 3000 - level) <= four_sigma(level, 3000)


def test_a_residual_pooled_over_cells_would_cover_too_rarely_where_students_share_a_teacher():
    """The alternative that was not taken: cells + seeds, residuals taken for independent."""
    weights = CONTRASTS["two lineages"]
    scores_MCS = studies(Luck(), num_seeds=3, num=4000, generator=np.random.default_rng(0))
    residual = scores_MCS - scores_MCS.mean(1, keepdims=True) - scores_MCS.mean(2, keepdims=True)
    residual += scores_MCS.mean((1, 2), keepdims=True)
    freedom = (len(EFFECTS) - 1) * 2
    weight_C = np.array([weights.get(cell, 0.0) for cell in EFFECTS])
    error_M = np.sqrt((residual**2).sum((1, 2)) / freedom * (weight_C**2).sum() / 3)
    miss_M = np.abs(scores_MCS.mean(2) @ weight_C - truth(weights))
    assert (miss_M <= stats.t.ppf(0.975, freedom) * error_M).mean() < 0.85


def test_a_percentile_bootstrap_over_three_seeds_covers_three_times_in_four_where_t_covers_95():
    """It is the range of the three values: 1 in 27 resamples is thrice the lowest, which is more than 2.5 %."""
    num, values_MS, generator = 600, np.random.default_rng(1).normal(size=(600, 3)), np.random.default_rng(2)
    intervals = [bootstrap_over_seeds(list(map(float, values_S)), generator=generator) for values_S in values_MS]
    ranges_M2 = np.stack([values_MS.min(1), values_MS.max(1)], axis=1)
    assert np.allclose([(i.low, i.high) for i in intervals], ranges_M2, rtol=0, atol=1e-12)
    assert abs(sum(i.low <= 0 <= i.high for i in intervals) / num - 0.75) <= four_sigma(0.75, num)
    found = [estimate(dict(enumerate(map(float, values_S)))) for values_S in values_MS]
    assert abs(sum(e.low <= 0 <= e.high for e in found) / num - 0.95) <= four_sigma(0.95, num)


def test_a_bootstrap_over_five_seeds_still_covers_too_rarely():
    values_MS, generator = np.random.default_rng(4).normal(size=(600, 5)), np.random.default_rng(5)
    found = [bootstrap_over_seeds(list(map(float, v)), generator=generator, num_resamples=2000) for v in values_MS]
    assert abs(sum(i.low <= 0 <= i.high for i in found) / 600 - 0.84) <= four_sigma(0.84, 600)


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
@pytest.mark.parametrize("ratio", [0.3, 1.0, 3.0])
def test_with_picture_noise_that_all_seeds_share_intervals_cover_at_least_as_they_say(ratio, num_seeds):
    num, weights = 1500, {"student-all": 1.0, "student-masked": -1.0}
    luck = Luck(cell_pictures=ratio / math.sqrt(num_seeds))
    scores_MCS = studies(luck, num_seeds=num_seeds, num=num, generator=np.random.default_rng(7))
    error = luck.cell_pictures * math.sqrt(2)
    found = [estimate(by_seed(scores_CS, weights), picture_error=error) for scores_CS in scores_MCS]
    covered = sum(e.low <= truth(weights) <= e.high for e in found) / num
    assert 0.95 - four_sigma(0.95, num) <= covered <= 0.995
    blind = [estimate(by_seed(scores_CS, weights)) for scores_CS in scores_MCS]
    assert sum(e.low <= truth(weights) <= e.high for e in blind) / num < covered


def test_welch_satterthwaite_degrees_of_freedom_would_cover_too_rarely_with_few_seeds():
    """Why half widths are added in squares instead."""
    generator, error = np.random.default_rng(8), 0.3 / math.sqrt(3)
    values_MS = generator.normal(size=(20_000, 3))
    miss_M = np.abs(values_MS.mean(1) + error * generator.normal(size=20_000))
    seeds_M = values_MS.var(1, ddof=1) / 3
    freedom_M = 2 * ((seeds_M + error**2) / seeds_M) ** 2
    assert (miss_M <= stats.t.ppf(0.975, freedom_M) * np.sqrt(seeds_M + error**2)).mean() < 0.93
    half_M = np.hypot(stats.t.ppf(0.975, 2) * np.sqrt(seeds_M), stats.norm.ppf(0.975) * error)
    assert (miss_M <= half_M).mean() > 0.95


def test_bootstrapped_pictures_and_seeds_together_cover_the_effect_on_all_pictures():
    """From pictures to interval: what is seen on these pictures only must not pass for an effect of the cell."""
    num, num_pictures, generator = 300, 120, np.random.default_rng(9)
    weights_RN = picture_weights(num_pictures, num_resamples=200, generator=generator)
    hits = dict.fromkeys(["all", "only shared", "only seeds"], 0)
    for _ in range(num):
        hard_N = generator.normal(size=num_pictures)
        suits_CN = generator.normal(size=(2, num_pictures))
        runs = {
            (cell, seed): PictureValues(
                hard_N + suits_CN[c] + generator.normal(size=num_pictures) + 0.05 * generator.normal()
            )
            for c, cell in enumerate("ab")
            for seed in range(3)
        }
        weights = difference("a", than="b").weights
        spread = picture_spread({run: resampled_scores(found, weights_RN) for run, found in runs.items()}, weights)
        values = contrast_by_seed({run: score(found) for run, found in runs.items()}, weights)
        for name, error in {"all": spread.total, "only shared": spread.shared, "only seeds": 0.0}.items():
            found = estimate(values, picture_error=error)
            hits[name] += found.low <= 0 <= found.high
    assert 0.95 - four_sigma(0.95, num) <= hits["only shared"] / num <= hits["all"] / num
    assert hits["only seeds"] / num < 0.93


def test_an_interval_is_that_of_a_t_test_in_scipy():
    values = {3: 1.5, 1: 2.5, 7: 4.0, 2: 2.0}
    found, reference = estimate(values, level=0.9), stats.ttest_1samp(list(values.values()), 0)
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval(0.9)))
    assert found.deviation == pytest.approx(np.std(list(values.values()), ddof=1))
    assert (found.mean, found.count, found.level, found.pictures) == (2.5, 4, 0.9, None)


def test_equal_seeds_leave_the_pictures_error_alone():
    found = estimate({1: 0.25, 2: 0.25, 3: 0.25}, picture_error=0.01)
    assert found.deviation == 0
    assert found.high - found.mean == pytest.approx(1.959964 * 0.01, rel=1e-6)
    assert estimate({1: 0.25, 2: 0.25}).low == 0.25


def test_one_seed_has_no_interval_whatever_the_pictures_say():
    found = estimate({4: 2.0}, picture_error=0.1)
    assert (found.mean, found.count, found.pictures) == (2.0, 1, 0.1)
    assert found.deviation is found.low is found.high is None
    assert estimate({}) is None
    assert bootstrap_over_seeds([2.0], generator=np.random.default_rng(0)) is None


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ({1: math.nan}, {}, "not all finite"),
        ({1: 1.0}, {"level": 95.0}, "share between 0 and 1"),
        ({1: 1.0}, {"picture_error": -0.1}, "no standard error"),
    ],
)
def test_an_estimate_refuses_what_cannot_be_meant(values, options, message):
    with pytest.raises(ValueError, match=message):
        estimate(values, **options)


def made_up_counts(generator: np.random.Generator, *, num_pictures: int, num_classes: int) -> PictureCounts:
    union_NK = generator.integers(0, 50, size=(num_pictures, num_classes))
    return PictureCounts(generator.integers(0, union_NK + 1), union_NK)


def test_the_bootstrapped_miou_is_that_of_a_set_with_the_pictures_repeated():
    generator = np.random.default_rng(0)
    counts = made_up_counts(generator, num_pictures=7, num_classes=4)
    counts.intersection_NK[:, 3] = counts.union_NK[:, 3] = 0
    counts.intersection_NK[1:, 2] = counts.union_NK[1:, 2] = 0
    weights_RN = picture_weights(7, num_resamples=50, generator=generator)
    assert (weights_RN.sum(1) == 7).all()
    assert (weights_RN[:, 0] == 0).any(), "a class that occurs in one picture must be absent at times"
    for weight_N, found in zip(weights_RN, resampled_scores(counts, weights_RN), strict=True):
        drawn = np.repeat(np.arange(7), weight_N.astype(int))
        union_K = counts.union_NK[drawn].sum(0)
        present_K = union_K > 0
        iou = counts.intersection_NK[drawn].sum(0)[present_K] / union_K[present_K]
        assert found == pytest.approx(iou.mean(), abs=1e-12)


def test_the_score_of_picture_counts_is_the_miou_of_the_evaluation():
    label, prediction = torch.randint(0, 4, (2, 6, 5, 5), generator=torch.Generator().manual_seed(1))
    counts = count_pixels(prediction, label, num_classes=5, ignore=3)
    reference = intersection_over_union(counts.intersection_NK.sum(0), counts.union_NK.sum(0))
    assert reference.isnan().any(), "an absent class must be left out"
    found = PictureCounts(counts.intersection_NK.numpy(), counts.union_NK.numpy())
    assert score(found) == pytest.approx(reference.nanmean().item(), abs=1e-12)


def test_means_over_pictures_are_weighted_and_pass_over_pictures_without_a_value():
    value_N, weight_N = np.array([1.0, 0.0, math.nan, 0.5]), np.array([3.0, 1.0, 5.0, 0.0])
    assert score(PictureValues(value_N)) == pytest.approx(0.5)
    assert score(PictureValues(value_N, weight_N)) == pytest.approx(0.75)
    right_N, patches_N = np.array([[3], [0], [0]]), np.array([[3], [1], [0]])
    assert score(PictureCounts(right_N, patches_N)) == pytest.approx(0.75)
    only_third = np.array([[0.0, 0.0, 4.0, 0.0]])
    assert np.isnan(resampled_scores(PictureValues(value_N), only_third)).all()
    assert np.isnan(score(PictureCounts(np.zeros((2, 3)), np.zeros((2, 3)))))


def test_the_picture_bootstrap_finds_the_standard_error_of_a_mean():
    value_N = np.random.default_rng(2).normal(size=400)
    weights_RN = picture_weights(400, num_resamples=2000, generator=np.random.default_rng(3))
    spread = picture_spread({("a", 1): resampled_scores(PictureValues(value_N), weights_RN)}, {"a": 1.0})
    assert spread.total == pytest.approx(value_N.std() / 20, rel=0.06)
    assert spread.shared == spread.total
    half = 1.96 * value_N.std() / 20
    assert (spread.low, spread.high) == pytest.approx((value_N.mean() - half, value_N.mean() + half), abs=0.1 * half)


def test_resamples_are_shared_so_that_equal_runs_differ_by_nothing():
    counts = made_up_counts(np.random.default_rng(4), num_pictures=30, num_classes=5)
    one = picture_weights(30, num_resamples=20, generator=np.random.default_rng(5))
    again = picture_weights(30, num_resamples=20, generator=np.random.default_rng(5))
    assert (one == again).all()
    resampled = {("a", 1): resampled_scores(counts, one), ("b", 1): resampled_scores(counts, again)}
    assert picture_spread(resampled, difference("a", than="b").weights).total == 0
    assert picture_spread(resampled, {"a": 1.0}).total > 0


def test_the_shared_part_of_the_picture_error_leaves_out_what_pictures_do_to_one_seed_alone():
    generator = np.random.default_rng(6)
    common_R, own_SR = generator.normal(size=4000), 2 * generator.normal(size=(3, 4000))
    spread = picture_spread({("a", seed): common_R + own_SR[seed] for seed in range(3)}, {"a": 1.0})
    assert spread.shared == pytest.approx(1, abs=0.08)
    assert spread.total == pytest.approx(math.sqrt(1 + 4 / 3), rel=0.05)
    apart = {("a", 0): common_R, ("a", 1): -common_R}
    assert picture_spread(apart, {"a": 1.0}).shared == 0


def test_a_picture_spread_needs_a_seed_with_all_its_cells():
    resampled = {("a", 1): np.arange(5.0), ("b", 2): np.arange(5.0)}
    assert picture_spread(resampled, difference("a", than="b").weights) is None
    assert picture_spread({("a", 1): np.array([1.0, 2.0, math.nan, 3.0])}, {"a": 1.0}).total == pytest.approx(1)
    assert picture_spread({("a", 1): np.full(4, math.nan)}, {"a": 1.0}) is None


def test_picture_statistics_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="between 0 and their unions"):
        PictureCounts(np.array([[2]]), np.array([[1]]))
    with pytest.raises(ValueError, match="not negative"):
        PictureValues(np.array([1.0]), np.array([-1.0]))
    with pytest.raises(ValueError, match="3 pictures, the resamples 2"):
        resampled_scores(PictureValues(np.zeros(3)), np.ones((4, 2)))


def test_a_contrast_is_computed_over_the_seeds_that_have_all_its_cells():
    scores = {
        ("a", 1): 3.0,
        ("b", 1): 1,
        ("a", 2): 5.0,
        ("a", 3): 4.0,
        ("b", 3): None,
        ("b", 4): 1.0,
        ("a", 4): math.nan,
    }
    assert contrast_by_seed(scores, difference("a", than="b").weights) == {1: 2.0}
    assert contrast_by_seed(scores, {"a": 1.0}) == {1: 3.0, 2: 5.0, 3: 4.0}


def test_a_contrast_must_cancel_what_all_cells_share():
    with pytest.raises(ValueError, match=r"sum to 0, not 0\.5"):
        Contrast(weights={"a": 1.0, "b": -0.5}, matched=())
    with pytest.raises(ValueError, match="other than 0"):
        Contrast(weights={}, matched=())
    with pytest.raises(ValueError, match="with itself"):
        difference("a", than="a")


def table(**levels: list) -> dict[str, dict]:
    """A complete product, cells named by their levels."""
    return {"-".join(map(str, row)): dict(zip(levels, row, strict=True)) for row in product(*levels.values())}


BRIDGE = table(teacher=["momentum", "frozen"], mask=[0.0, 0.5, 0.75], hear=["masked", "all"])
BRIDGE = {name: levels for name, levels in BRIDGE.items() if (levels["mask"], levels["hear"]) != (0.0, "masked")}
"""Ten cells: nothing is hidden at mask ratio 0, so hearing only hidden patches means nothing there."""


def applied(contrast: Contrast, score_of: dict[str, float]) -> float:
    return sum(weight * score_of[cell] for cell, weight in contrast.weights.items())


def test_a_main_effect_averages_over_the_pairs_that_exist():
    contrast = main_effect(BRIDGE, "mask", level=0.0, against=0.75)
    assert contrast.matched == (("momentum-0.0-all", "momentum-0.75-all"), ("frozen-0.0-all", "frozen-0.75-all"))
    assert contrast.weights == {cell: (0.5 if "0.0" in cell else -0.5) for pair in contrast.matched for cell in pair}
    assert len(main_effect(BRIDGE, "hear", level="all", against="masked").matched) == 4


def test_where_limits_the_pairs_to_a_level_or_to_several():
    def pairs(**where):
        return main_effect(BRIDGE, "hear", level="all", against="masked", where=where).matched

    assert pairs(teacher="frozen", mask=0.5) == (("frozen-0.5-all", "frozen-0.5-masked"),)
    assert len(pairs(mask=[0.5, 0.75])) == 4
    assert len(pairs(mask=[0.0, 0.75])) == 2


def test_an_interaction_is_the_difference_of_differences_over_complete_quadruples():
    contrast = interaction(
        BRIDGE, "mask", pair=(0.5, 0.75), other_factor="hear", other_pair=("all", "masked"), where={"teacher": "frozen"}
    )
    assert contrast.weights == {
        "frozen-0.5-all": 1.0, "frozen-0.75-all": -1.0, "frozen-0.5-masked": -1.0, "frozen-0.75-masked": 1.0
    }  # fmt: skip
    both = interaction(BRIDGE, "mask", pair=(0.5, 0.75), other_factor="hear", other_pair=("all", "masked"))
    assert len(both.matched) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: main_effect(BRIDGE, "masks", level=0, against=1),
            "no cell has a factor 'masks'; factors are hear, mask",
        ),
        (lambda: main_effect(BRIDGE, "mask", level=0.9, against=0.5), r"mask=0.9; its levels are 0.0, 0.5, 0.75"),
        (lambda: main_effect(BRIDGE, "mask", level=0.5, against=0.5), "not different"),
        (
            lambda: main_effect(BRIDGE, "mask", level=0.0, against=0.5, where={"hear": "masked"}),
            "no cells differ only in having mask=0.0 and mask=0.5 where hear='masked'",
        ),
        (lambda: main_effect(BRIDGE, "mask", level=0.0, against=0.5, where={"mask": 0.5}), "cannot be held"),
        (
            lambda: interaction(BRIDGE, "mask", pair=(0.0, 0.5), other_factor="hear", other_pair=("all", "masked")),
            "no cells differ only in having",
        ),
        (
            lambda: interaction(BRIDGE, "mask", pair=(0.0, 0.5), other_factor="mask", other_pair=(0.0, 0.5)),
            "no interaction with itself",
        ),
        (lambda: main_effect({"x": {"f": 1}, "y": {"f": 1}, "z": {"f": 2}}, "f", level=1, against=2), "same levels"),
        (lambda: linear_model({"x": {"f": 1}, "y": {"f": 1}}, ["f"]), "needs two levels"),
        (lambda: linear_model(BRIDGE, ["mask"], against={"mask": 1.0}), "no cell has mask=1.0"),
        (lambda: linear_model(BRIDGE, ["mask"], against={"hear": "all"}), "'hear' is not among the factors"),
    ],
)
def test_comparisons_that_no_cells_make_are_refused_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "cells", [table(a=[0, 1], b=["x", "y"], c=[False, True]), table(a=[0, 1, 2], b=["x", "y"], c=[False, True])]
)
def test_in_a_complete_product_the_linear_model_gives_the_matched_contrasts_with_a_factor_of_one(cells):
    found = linear_model(cells, ["a", "b", "c"])
    num_levels = len({levels["a"] for levels in cells.values()})
    assert len(found) == (num_levels + 1) + 2 * (num_levels - 1) + 1
    for coefficient in found:
        match coefficient.term:
            case ((factor, level, reference),):
                matched = main_effect(cells, factor, level=level, against=reference)
            case ((factor, level, reference), (other, other_level, other_reference)):
                pair, other_pair = (level, reference), (other_level, other_reference)
                matched = interaction(cells, factor, pair=pair, other_factor=other, other_pair=other_pair)
        weights = {name: coefficient.contrast.weights.get(name, 0.0) for name in matched.weights}
        assert weights == pytest.approx(matched.weights, abs=1e-9)
        assert set(coefficient.contrast.weights) == set(matched.weights)


def test_a_coefficient_is_named_by_its_levels_and_its_reference():
    found = linear_model(table(a=[0, 1], b=["x", "y"]), ["a", "b"], against={"b": "y"})
    assert [coefficient.name for coefficient in found] == [
        "a: 1 against 0", "b: x against y", "a: 1 against 0 × b: x against y"
    ]  # fmt: skip


def test_in_an_incomplete_product_the_linear_model_drops_what_cells_cannot_tell_and_recovers_the_rest():
    found = {c.name: c for c in linear_model(BRIDGE, list(BRIDGE["frozen-0.5-all"]), against={"mask": 0.75})}
    lost = [name for name, coefficient in found.items() if coefficient.contrast is None]
    assert lost == ["mask: 0.0 against 0.75 × hear: masked against all"]
    assert found[lost[0]].reason.endswith("taken as zero")
    teacher, mask, hear = (
        {"momentum": 0.0, "frozen": 7.0},
        {0.0: 3.0, 0.5: 1.0, 0.75: 0.0},
        {"masked": -2.0, "all": 0.0},
    )
    score_of = {name: 5 + teacher[c["teacher"]] + mask[c["mask"]] + hear[c["hear"]] for name, c in BRIDGE.items()}
    expected = {
        "teacher: momentum against frozen": -7, "teacher: frozen against momentum": 7, "mask: 0.0 against 0.75": 3,
        "mask: 0.5 against 0.75": 1, "hear: masked against all": -2,
    }  # fmt: skip
    told = {name: applied(c.contrast, score_of) for name, c in found.items() if c.contrast is not None}
    assert told == pytest.approx({name: expected.get(name, 0) for name in told}, abs=1e-9)
    assert {name for name in told if "×" not in name} <= set(expected)


def test_in_an_incomplete_product_least_squares_is_that_of_numpy():
    """Two factors, three of four cells: the interaction is taken as zero, the mains come from one pair each."""
    cells = {name: levels for name, levels in table(a=[0, 1], b=[0, 1]).items() if name != "1-1"}
    score_of = {"0-0": 1.0, "0-1": 4.0, "1-0": 3.5}
    a, b, both = linear_model(cells, ["a", "b"])
    design = np.array([[1, levels["a"], levels["b"]] for levels in cells.values()])
    reference = np.linalg.lstsq(design, np.array([score_of[name] for name in cells]), rcond=None)[0]
    assert [applied(a.contrast, score_of), applied(b.contrast, score_of)] == pytest.approx(list(reference[1:]))
    assert both.contrast is None


def test_factors_that_always_change_together_are_listed_as_one_that_cannot_be_told_from_the_other():
    first, second, both = linear_model({"x": {"a": 0, "b": 0}, "y": {"a": 1, "b": 1}}, ["a", "b"])
    assert first.contrast is second.contrast is both.contrast is None
    assert first.reason == "no cells tell it apart from b: 1 against 0"
    assert both.reason == "no cells tell it apart from the mean of all cells; taken as zero"


def interval(low: float, high: float) -> Estimate:
    return Estimate(mean=(low + high) / 2, deviation=1.0, count=3, low=low, high=high, level=0.95, pictures=None)


@pytest.mark.parametrize(
    ("found", "expectation", "decision"),
    [
        (interval(0.1, 2.0), More(), "reproduced"),
        (interval(0.0, 2.0), More(), "not decided here"),
        (interval(-2.0, 0.0), More(), "not reproduced"),
        (interval(0.1, 0.9), More(by_more_than=1), "not reproduced"),
        (interval(0.1, 2.0), More(by_more_than=1), "not decided here"),
        (interval(-0.5, 0.1), More(by_more_than=-1), "reproduced"),
        (interval(-0.9, 0.9), Equal(within=1), "reproduced"),
        (interval(-1.0, 0.9), Equal(within=1), "not decided here"),
        (interval(-3.0, 3.0), Equal(within=1), "not decided here"),
        (interval(1.0, 3.0), Equal(within=1), "not reproduced"),
        (interval(-3.0, -1.0), Equal(within=1), "not reproduced"),
        (estimate({1: 0.5}), More(), "seen in this one seed"),
        (estimate({1: 0.5}), More(by_more_than=0.5), "not seen in this one seed"),
        (estimate({1: -0.5}), Equal(within=1), "seen in this one seed"),
        (estimate({1: -1.5}), Equal(within=1), "not seen in this one seed"),
        (None, More(), "not decided here"),
    ],
)
def test_verdicts_follow_the_interval(found, expectation, decision):
    assert decide(found, expectation) == judge(found, expectation).decision == decision


def test_the_opposite_is_an_interval_wholly_on_the_other_side():
    assert opposite(interval(-2.0, -0.1), More())
    assert not opposite(interval(-2.0, 0.1), More())
    assert not opposite(interval(0.1, 0.2), More(by_more_than=1))
    assert not opposite(interval(-0.5, -0.1), More(by_more_than=-1))
    assert not opposite(interval(-2.0, -1.5), Equal(within=1))
    assert not opposite(estimate({1: -3.0}), More())


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_a_difference_at_the_threshold_is_called_reproduced_in_two_and_a_half_percent_of_studies(num_seeds):
    num = 4000
    found = [decide(e, More(by_more_than=2)) for e in differences(2.0, num_seeds=num_seeds, num=num, seed=num_seeds)]
    assert abs(found.count("reproduced") / num - 0.025) <= four_sigma(0.025, num)
    assert abs(found.count("not reproduced") / num - 0.025) <= four_sigma(0.025, num)


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_a_difference_at_the_edge_of_equivalence_is_rarely_called_nothing(num_seeds):
    num, within = 4000, 20
    found = [decide(e, Equal(within=within)) for e in differences(20.0, num_seeds=num_seeds, num=num, seed=num_seeds)]
    assert found.count("reproduced") / num <= 0.025 + four_sigma(0.025, num)
    narrow = [decide(e, Equal(within=0.5)) for e in differences(0.5, num_seeds=num_seeds, num=num, seed=num_seeds)]
    assert narrow.count("reproduced") / num <= 0.025 + four_sigma(0.025, num)


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_large_differences_are_nearly_always_judged_rightly(num_seeds):
    def share(mean, expectation, decision):
        found = [judge(e, expectation) for e in differences(mean, num_seeds=num_seeds, num=500, seed=num_seeds)]
        assert all(v.opposite for v in found if mean < 0 and v.decision == decision == "not reproduced")
        return sum(v.decision == decision for v in found) / 500

    assert share(12.0, More(), "reproduced") > 0.99
    assert share(-12.0, More(), "not reproduced") > 0.99
    assert share(0.0, Equal(within=12), "reproduced") > 0.99
    assert share(24.0, Equal(within=12), "not reproduced") > 0.99


def test_seeds_needed_is_the_fewest_whose_interval_leaves_the_threshold():
    found = estimate({1: 1.0, 2: 2.0, 3: 3.0})
    verdict = judge(found, More())
    halves = {n: stats.t.ppf(0.975, n - 1) * found.deviation / math.sqrt(n) for n in range(2, 20)}
    assert verdict.decision == "not decided here"
    assert verdict.seeds_needed == min(n for n, half in halves.items() if half < found.mean) == 4
    assert judge(found, Equal(within=4)).seeds_needed == seeds_needed(found, threshold=4.0) == 4
    assert judge(found, More(by_more_than=-9)).seeds_needed is None, "decided claims need no more seeds"


def test_no_number_of_seeds_helps_where_the_mean_is_at_the_threshold_or_pictures_are_too_few():
    values = {1: 1.0, 2: 2.0, 3: 3.0}
    assert seeds_needed(estimate(values), threshold=2.0) is None
    assert seeds_needed(estimate(values), threshold=1.9, at_most=50) is None
    assert seeds_needed(estimate(values, picture_error=1.1), threshold=0.0) is None
    assert seeds_needed(estimate(values, picture_error=0.9), threshold=0.0) > 4
    assert seeds_needed(estimate({1: 1.0}), threshold=0.0) is None


@pytest.mark.parametrize(("make", "bad"), [(Equal, {"within": 0.0}), (More, {"by_more_than": math.inf})])
def test_bounds_that_mean_nothing_are_refused(make, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        make(**bad)
