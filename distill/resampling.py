"""How much a score depends on which pictures were held out: bootstrap over pictures, the same for all encoders.

A measurement keeps, for every picture, the sums its metric is made of (`distill.eval.metrics.TaskResult.per_picture`).
A resample draws N pictures with replacement, so it is N whole-number weights, and the metric of a resample is a ratio
of weighted sums: two matrix products.

Legend: N pictures, K classes, R resamples.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Real


@dataclass(frozen=True)
class PictureCounts:
    """For mIoU: each class's pixels in intersection and union of prediction and label, picture by picture.

    With K = 1 the score is a plain ratio of counts, such as right patches among labelled ones.
    """

    intersection_NK: Real[np.ndarray, "N K"]
    union_NK: Real[np.ndarray, "N K"]

    def __len__(self) -> int:
        return len(self.union_NK)

    def __post_init__(self) -> None:
        _check_same(self.intersection_NK, self.union_NK)
        if not ((self.intersection_NK >= 0) & (self.intersection_NK <= self.union_NK)).all():
            raise ValueError("intersections must lie between 0 and their unions in every picture and class")


@dataclass(frozen=True)
class PictureValues:
    """For means: one value per picture, such as a hit or an accuracy. NaN: the picture has none and counts nothing.

    With weights (labelled pixels, patches) the score is sum(weight value) / sum(weight). Retrieval hits are resampled
    as queries before an unchanged gallery.
    """

    value_N: Real[np.ndarray, " N"]
    weight_N: Real[np.ndarray, " N"] | None = None

    def __post_init__(self) -> None:
        if self.weight_N is not None:
            _check_same(self.value_N, self.weight_N)
            if not ((self.weight_N >= 0) & np.isfinite(self.weight_N)).all():
                raise ValueError("weights must be finite and not negative")

    def __len__(self) -> int:
        return len(self.value_N)


PictureStatistics = PictureCounts | PictureValues

MEANS = {"miou": ("intersection", "union"), "category_accuracy": ("right", "pairs")}
"""Means over classes of ratios of sums over pictures, and what `per_picture` calls the sums."""
RATIOS = {
    "pixel_accuracy": ("correct", "labelled"),
    "patch_accuracy": ("patches_right", "patches_labelled"),
    "accuracy": ("right", "pairs"),
}
"""Ratios of sums over pictures, and over classes where there are some."""
PIXEL_MEANS = {"abs_rel": "relative_error", "mean_degrees": "angle"}
PIXEL_ROOTS = {"rmse_metres": "squared_error", "rmse_degrees": "squared_angle"}
"""Means over pictures of a mean over their valid pixels, or of its root, and what `per_picture` calls the sum."""
PREFIXES = ("cls1_", "cls2_")
"""Of values of another CLS token, whose arrays have it as well."""


def picture_statistics(arrays: Mapping[str, np.ndarray], name: str) -> PictureStatistics | None:
    """What every picture adds to the value `name` of a task; None where its arrays do not say.

    They do not for what is no mean or ratio over pictures: means over classes of accuracies, pooled roots, ranks.
    """
    for prefix in PREFIXES:
        if name.startswith(prefix):
            own = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
            return picture_statistics(own, name.removeprefix(prefix))
    if "valid" in arrays:
        return _pixel_mean(arrays, name)
    if name == "r1" and "subset" in arrays:
        subset_NS = np.eye(int(arrays["subset"].max()) + 1)[arrays["subset"]]
        return PictureCounts(subset_NS * arrays["r1"][:, None], subset_NS)
    if name.startswith("right") and name in arrays and "labelled" in arrays:
        return PictureCounts(*map(_by_class, (arrays[name], arrays[_labelled(name)])))
    for over_classes, known in ((True, MEANS), (False, RATIOS)):
        if name in known and all(part in arrays for part in known[name]):
            hit, all_ = (_by_class(arrays[part]) for part in known[name])
            return PictureCounts(hit, all_) if over_classes else PictureCounts(*(_total(each) for each in (hit, all_)))
    if name == "accuracy" and "correct" in arrays:
        return PictureValues(arrays["correct"])
    if name not in arrays:
        return None
    weighted = name.startswith("text_to_image") and "num_captions" in arrays
    return PictureValues(arrays[name], arrays["num_captions"].astype(np.float64) if weighted else None)


def picture_weights(
    num_pictures: int, *, num_resamples: int, generator: np.random.Generator
) -> Float[np.ndarray, "R N"]:
    """How often each resample draws each picture; rows sum to N. To be shared by all cells and seeds.

    8 R N bytes: 8 MB for a thousand of each.
    """
    if num_pictures < 1 or num_resamples < 2:
        raise ValueError(f"{num_pictures} pictures and {num_resamples} resamples: expected at least 1 and 2")
    even_N = np.full(num_pictures, 1 / num_pictures)
    return generator.multinomial(num_pictures, even_N, size=num_resamples).astype(np.float64)


def resampled_scores(statistics: PictureStatistics, weights_RN: Float[np.ndarray, "R N"]) -> Float[np.ndarray, " R"]:
    """The run's score in every resample; NaN where nothing can be scored.

    mIoU is the mean over the classes that have a union in the resample, as in `distill.eval.metrics`.
    """
    match statistics:
        case PictureCounts(intersection_NK, union_NK):
            _check_pictures(len(union_NK), weights_RN)
            return _mean_over_present(weights_RN @ intersection_NK, weights_RN @ union_NK)
        case PictureValues(value_N, weight_N):
            _check_pictures(len(value_N), weights_RN)
            known_N = ~np.isnan(value_N)
            weight_N = known_N * (1.0 if weight_N is None else weight_N)
            weighted_N = weight_N * np.where(known_N, value_N, 0).astype(np.float64)
            return _mean_over_present((weights_RN @ weighted_N)[:, None], (weights_RN @ weight_N)[:, None])


def score(statistics: PictureStatistics) -> float:
    """The run's score on the pictures as they are; NaN where nothing can be scored."""
    return float(resampled_scores(statistics, np.ones((1, len(statistics))))[0])


def _pixel_mean(arrays: Mapping[str, np.ndarray], name: str) -> PictureValues | None:
    """Of pixels' errors; pictures without a valid pixel have none."""
    sums = arrays.get(PIXEL_ROOTS.get(name, PIXEL_MEANS.get(name, name)))
    if sums is None or name == "valid":
        return None
    seen_N = arrays["valid"] > 0
    mean_N = np.divide(sums, arrays["valid"], out=np.full(len(sums), np.nan), where=seen_N)
    return PictureValues(np.sqrt(mean_N) if name in PIXEL_ROOTS else mean_N)


def _labelled(name: str) -> str:
    """What `alignment` calls the patches that one of its shares is a share of."""
    return {"right_visible": "labelled_visible", "right_hidden": "labelled_hidden"}.get(name, "labelled")


def _by_class(array: np.ndarray) -> Float[np.ndarray, "N K"]:
    return array.reshape(len(array), -1).astype(np.float64)


def _total(array_NK: Float[np.ndarray, "N K"]) -> Float[np.ndarray, "N 1"]:
    return array_NK.sum(1, keepdims=True)


def _mean_over_present(
    numerator_RK: Float[np.ndarray, "R K"], denominator_RK: Float[np.ndarray, "R K"]
) -> Float[np.ndarray, " R"]:
    present_RK = denominator_RK > 0
    ratio_RK = np.divide(numerator_RK, denominator_RK, out=np.zeros_like(numerator_RK), where=present_RK)
    count_R = present_RK.sum(1)
    return np.divide(ratio_RK.sum(1), count_R, out=np.full(len(count_R), np.nan), where=count_R > 0)


def _check_same(first: np.ndarray, second: np.ndarray) -> None:
    if first.shape != second.shape:
        raise ValueError(f"shapes {first.shape} and {second.shape} differ: expected one entry of each per picture")


def _check_pictures(num_pictures: int, weights_RN: np.ndarray) -> None:
    if weights_RN.shape[1] != num_pictures:
        raise ValueError(
            f"the run has {num_pictures} pictures, the resamples {weights_RN.shape[1]}: "
            "all must be measured on the same pictures"
        )
