"""The field's words for what `distill eval` measures: tasks, values and settings."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from distill.eval.metrics import is_error, unit_of

TASK_WORDS = {
    "zero_shot_segmentation": "zero-shot segmentation",
    "linear_segmentation": "linear segmentation",
    "retrieval": "image–text retrieval",
    "knn": "nearest-neighbour classification",
    "zero_shot_classification": "zero-shot classification",
    "linear_classification": "linear classification",
    "compositional_pairs": "compositional pairs (right or wrong caption)",
    "instance_retrieval": "instance retrieval",
    "depth": "depth",
    "normals": "surface normals",
    "health": "health of the features",
    "alignment": "patches and class names",
    "agreement": "agreement with the teacher",
}
LESS = "↓"
"""Behind a measure of which less is better."""
VALUE_WORDS = {
    "miou": "mIoU",
    "miou_things": "mIoU of things",
    "miou_stuff": "mIoU of stuff",
    "class_accuracy": "accuracy, mean of classes",
    "category_accuracy": "accuracy, mean of categories",
    "class_top1": "top-1 accuracy, mean of classes",
    "abs_rel": f"absolute relative error {LESS}",
    "delta1": "δ < 1.25",
    "delta2": "δ < 1.25²",
    "delta3": "δ < 1.25³",
    "right": "patches named right, last block",
    "right_value": "patches named right, value features",
    "right_visible": "patches named right, visible among hidden ones",
    "right_hidden": "patches named right, hidden ones",
    "patch_rank": "effective rank of patches, of the largest possible",
    "cls_rank": "effective rank of CLS 1, of the largest possible",
    "patches_alive": "squared length of patches that varies between them",
    "cls_alive": "squared length of CLS 1 that varies between pictures",
    "crop_patches": "correlation of patches with those of a crop",
    "crop_cls": "correlation of CLS 1 with that of a crop",
    "cls_neighbours": "neighbours in common by CLS 1",
    "cls_cka": "CKA of CLS 1",
    "patch_cka": "CKA of patches",
    "patch_loss": f"patch loss of the training {LESS}",
    "patch_cls_loss": f"patch loss of the training on CLS tokens {LESS}",
    "cls_loss": f"CLS loss of the training {LESS}",
}
PATTERNS = {
    r"image_to_text_r(\d+)": r"image→text R@\1",
    r"text_to_image_r(\d+)": r"text→image R@\1",
    r"r(\d+)": r"R@\1",
    r"top(\d+)": r"top-\1 accuracy",
    r"pooled_rmse_(?:metres|degrees)": f"RMSE over all pixels {LESS}",
    r"rmse_(?:metres|degrees)": f"RMSE, mean of pictures {LESS}",
    r"mean_degrees": f"mean angle {LESS}",
    r"share_under_(.+)": r"pixels within \1°",
    r"right_layer(\d+)": r"patches named right, block \1",
    r"cls_at_(.+)x": r"correlation of CLS 1 with that at \1 times the size",
    r"patches_at_(.+)x": r"correlation of patches with those at \1 times the size",
}
OF_A_CLS = re.compile(r"cls(\d)_(.+)")
"""A value of another CLS token than the one whose values have no prefix."""
WITHOUT_EFFECT = ("batch_size",)
"""Settings of a task that change memory, not results."""
UNHEARD = {
    ("head", "ridge"): ("training", "decoder", "num_bins"),
    ("head", "linear"): ("ridge",),
    ("head", "dpt"): ("ridge",),
    ("mode", "whole"): ("window", "stride"),
    ("background", "named"): ("background_score",),
    ("solver", "lbfgs"): ("rates", "steps", "step_size"),
    ("solver", "sgd"): ("penalties",),
}
"""What a task does not hear while another setting has this value."""


COUNTS = {
    "num_images": "pictures",
    "num_train_images": "training pictures",
    "num_neighbours": "neighbours",
    "num_pairs": "pairs",
    "num_bins": "bins of depth",
    "num_looked": "pictures at most looked at for alarms",
}
"""Settings that are said as a number of something."""
BEFORE = ("features", "templates")
"""Settings whose value stands before what they are of: value features."""


def value_words(name: str, names: Iterable[str]) -> str:
    """`name` is one of a result's `names`. CLS tokens count from 1; a value says whose it is where there are two."""
    member, slash, rest = name.rpartition("/")
    own = OF_A_CLS.fullmatch(rest)
    others = {found[1] for each in names if (found := OF_A_CLS.fullmatch(each.rpartition("/")[2]))}
    token = f", CLS {own[1]}" if own else "".join(f", CLS {3 - int(other)}" for other in others)
    return f"{_plain(own[2] if own else rest)}{token}{f', {member}' if slash else ''}"


def shown(name: str, value: float | None) -> str:
    """With its unit; shares in percent, with one digit as papers give them."""
    if value is None:
        return "–"
    unit = unit_of(name)
    number = f"{100 * value:.1f}" if unit == "%" else f"{value:.3f}" if is_error(name) else f"{value:.4f}"
    return f"{number} {unit}".rstrip()


def with_unit(name: str, names: Iterable[str]) -> str:
    """The same, with the unit in brackets, for places where values are bare numbers."""
    unit = unit_of(name)
    return value_words(name, names).removesuffix(f" {LESS}") + (f" ({unit})" if unit else "")


def settings_in_words(settings: Mapping[str, Any]) -> str:
    """What a measurement heard, without what changes no result and what was not set."""
    unheard = {*WITHOUT_EFFECT}
    for (key, value), names in UNHEARD.items():
        unheard |= {*names} if settings.get(key) == value else set()
    return ", ".join(_said({key: value for key, value in settings.items() if key not in unheard}))


def _plain(name: str) -> str:
    if name in VALUE_WORDS:
        return VALUE_WORDS[name]
    for pattern, words in PATTERNS.items():
        if re.fullmatch(pattern, name):
            return re.sub(pattern, words, name)
    return name.replace("_", " ")


def _said(settings: Mapping[str, Any]) -> Iterator[str]:
    for key, value in settings.items():
        if value is None:
            continue
        if key == "cls":
            yield f"CLS {value + 1}"
        elif key in COUNTS:
            yield f"{value:,} {COUNTS[key]}"
        elif key in BEFORE:
            yield f"{value} {key}"
        elif isinstance(value, dict):
            yield f"{key.replace('_', ' ')} ({', '.join(_said(value))})"
        else:
            yield f"{key.replace('_', ' ')} {_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " and ".join(map(_value, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "CLS 1" if value == "cls" else str(value)
