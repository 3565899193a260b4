"""Patch-text alignment: whether a patch is closest to the name of what it shows, and where that is lost.

iBOT supervises hidden patches only, and TIPSv2 argues that visible ones then drift from what they show (its Figure 2):
so a patch is asked with the whole picture in sight, and, where most of the picture is hidden, visible and hidden ones
are asked apart; and block by block, because the drift is one of the last blocks.

Legend: B pictures of a batch, N patches, D width, K classes, P pictures of the set.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from distill.config import Masking
from distill.contracts import ImageEncoder, SegmentationSet, Tokens
from distill.data.masking import hidden_patches
from distill.encoders.dual import DualEncoder
from distill.eval.features import Precision, block_tokens, resize_short_side, tokens
from distill.eval.metrics import MAX_ELEMENTS, TaskResult, numbered_batches
from distill.eval.prompts import check_templates, class_embeddings
from distill.eval.tasks.linear_segmentation import patch_shares

UNLABELLED = -1


@dataclass(frozen=True, kw_only=True)
class AlignmentSettings:
    templates: str = "tcl"
    hidden_ratio: float = 0.75
    """Share of patches that are hidden, at random, in the pass that tells visible from hidden ones; 0 leaves it out."""
    short_side: int | None = 448
    """Pictures are resized so that the shorter side has so many pixels; None keeps them. Labels stay."""
    seed: int = 0
    """Of what is hidden, which is drawn for each picture by itself."""
    batch_size: int = 16
    """Changes memory, not results."""
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        check_templates(self.templates)
        if not 0 <= self.hidden_ratio <= 0.95:
            raise ValueError(f"hidden_ratio={self.hidden_ratio} is not between 0 and 0.95")


@torch.no_grad()
def evaluate(encoder: DualEncoder, data: SegmentationSet, settings: AlignmentSettings) -> TaskResult:
    """Shares of labelled patches that are closer to the name of their class than to any other name.

        right             final tokens of whole pictures; `per_class` is the same by class
        right_value       value features: the last block attends only to itself
        right_visible     final tokens of the patches left visible where `hidden_ratio` of them are hidden
        right_hidden      and of the hidden ones
        right_layer1, ... tokens of each earlier block, behind the final norm

    The class of a patch is the one that covers most of its labelled pixels, the first of equally large ones; patches
    without any are left out. A patch for which another name is as close is wrong, so an encoder that maps all names to
    one point is right nowhere. Of a training that hid nothing, `right_visible` and `right_hidden` say what a mask token
    that never learnt does. What a tower cannot do is left out, and a note says so. NaN is a mean of nothing. Raises
    ValueError for a set without a labelled patch, and for an encoder without a text tower.
    """
    text_KD = class_embeddings(encoder, data.class_names, templates=settings.templates)
    counts = Counts(len(data), len(data.class_names))
    for places, pixels, labels in numbered_batches(data, settings.batch_size):
        resized = resize_short_side(pixels, settings.short_side)
        rows = whole_rows(encoder.image, resized, settings.precision)
        label_BN = patch_labels(
            labels, rows["right"], encoder.image.patch_size, num_classes=len(data.class_names), ignore=data.ignore
        )
        for name, found in rows.items():
            counts.add(name, places, right_patches(found.patches, text_KD, label_BN), label_BN)
        if encoder.image.can_hide and settings.hidden_ratio:
            grid = rows["right"].grid
            hidden_BN = torch.cat([_hidden(place, grid, settings) for place in places])
            seen = tokens(encoder.image, resized, kind="final", precision=settings.precision, hidden=hidden_BN)
            right_BN = right_patches(seen.patches, text_KD, label_BN)
            for name, chosen_BN in (("right_visible", ~hidden_BN), ("right_hidden", hidden_BN)):
                counts.add(name, places, right_BN, label_BN.where(chosen_BN, UNLABELLED))
    return _result(counts, data.class_names, encoder.image, settings)


def whole_rows(image: ImageEncoder, pixels: Float[Tensor, "B 3 H W"], precision: Precision) -> dict[str, Tokens]:
    """The tokens behind every value that is measured on whole pictures, `right` first."""
    value = tokens(image, pixels, kind="value", precision=precision)
    if not image.gives_blocks:
        return {"right": tokens(image, pixels, kind="final", precision=precision), "right_value": value}
    *earlier, last = block_tokens(image, pixels, tuple(range(1, image.num_layers + 1)), precision=precision)
    return {
        "right": last,
        "right_value": value,
        **{f"right_layer{number}": found for number, found in enumerate(earlier, 1)},
    }


def patch_labels(
    labels: Int[Tensor, "B H W"], found: Tokens, patch_size: int, *, num_classes: int, ignore: int
) -> Int[Tensor, "B N"]:
    """The class that covers most of every patch's labelled pixels, the first of equal ones, on the CPU; UNLABELLED
    where nothing is labelled."""
    shares_nK = patch_shares(
        labels.cpu(), grid=found.grid, patch_size=patch_size, num_classes=num_classes, ignore=ignore
    )
    label_n = shares_nK.argmax(1).where(shares_nK.sum(1) > 0, UNLABELLED)
    return label_n.view(len(labels), -1)


def right_patches(
    patches_BND: Float[Tensor, "B N D"], text_KD: Float[Tensor, "K D"], label_BN: Int[Tensor, "B N"]
) -> Bool[Tensor, "B N"]:
    """Whether the cosine of a patch with its class exceeds that with every other class; on the CPU.

    False for patches without a label. The length of a patch does not matter; text is of unit length.
    """
    label_n1 = label_BN.flatten()[:, None].to(text_KD.device)
    step = max(1, MAX_ELEMENTS // len(text_KD))
    parts = []
    for patches_nD, own_n1 in zip(patches_BND.flatten(0, 1).split(step), label_n1.split(step), strict=True):
        score_nK = patches_nD @ text_KD.T
        own_score_n = score_nK.gather(1, own_n1.clamp(min=0))[:, 0]
        best_other_n = score_nK.scatter(1, own_n1.clamp(min=0), -torch.inf).amax(1)
        parts.append((own_score_n > best_other_n) & (own_n1[:, 0] != UNLABELLED))
    return torch.cat(parts).view(label_BN.shape).cpu()


class Counts:
    """Right and labelled patches, by value: of every picture, and of every class."""

    def __init__(self, num_pictures: int, num_classes: int):
        self.num_pictures, self.num_classes = num_pictures, num_classes
        self.right_P: dict[str, Int[Tensor, " P"]] = {}
        self.labelled_P: dict[str, Int[Tensor, " P"]] = {}
        self.right_K: dict[str, Int[Tensor, " K"]] = {}
        self.labelled_K: dict[str, Int[Tensor, " K"]] = {}

    def add(
        self, name: str, places: Sequence[int], right_BN: Bool[Tensor, "B N"], label_BN: Int[Tensor, "B N"]
    ) -> None:
        """Of the pictures at these places of the set."""
        labelled_BN = label_BN != UNLABELLED
        right_BN = right_BN & labelled_BN
        for by_picture, by_class, chosen_BN in (
            (self.right_P, self.right_K, right_BN),
            (self.labelled_P, self.labelled_K, labelled_BN),
        ):
            counted = by_picture.setdefault(name, torch.zeros(self.num_pictures, dtype=torch.int))
            counted[places] = chosen_BN.sum(1).int()
            classes = torch.bincount(label_BN[chosen_BN], minlength=self.num_classes)
            by_class[name] = by_class[name] + classes if name in by_class else classes

    def share(self, name: str) -> float:
        """Right ones among the labelled; NaN without any."""
        total = self.labelled_P[name].sum().item()
        return self.right_P[name].sum().item() / total if total else math.nan


def _hidden(place: int, grid: tuple[int, int], settings: AlignmentSettings) -> Bool[Tensor, "1 N"]:
    """What is hidden in the picture at this place of the set, whatever batch it comes in."""
    generator = torch.Generator().manual_seed(settings.seed * 2**32 + place)
    return hidden_patches(1, grid, settings=Masking(ratio=settings.hidden_ratio), generator=generator)


def _result(counts: Counts, class_names: list[str], image: ImageEncoder, settings: AlignmentSettings) -> TaskResult:
    if not counts.labelled_P or not counts.labelled_P["right"].any():
        raise ValueError("no patch has a labelled pixel, so there is nothing to score")
    per_class = counts.right_K["right"].double() / counts.labelled_K["right"]
    order = ["right", "right_visible", "right_hidden", "right_value"]
    names = [name for name in order if name in counts.right_P] + [name for name in counts.right_P if name not in order]
    per_picture = {name: counts.right_P[name] for name in names} | {"labelled": counts.labelled_P["right"]}
    for name in ("visible", "hidden"):
        if f"right_{name}" in counts.labelled_P:
            per_picture[f"labelled_{name}"] = counts.labelled_P[f"right_{name}"]
    return TaskResult(
        values={name: counts.share(name) for name in names},
        per_class=dict(zip(class_names, per_class.tolist(), strict=True)),
        per_picture=per_picture,
        settings=asdict(settings),
        num_images=counts.num_pictures,
        notes=(_by_chance(counts, class_names), *_left_out(image, settings)),
    )


def _by_chance(counts: Counts, class_names: list[str]) -> str:
    labelled_K = counts.labelled_K["right"]
    largest = int(labelled_K.argmax())
    share = labelled_K[largest].item() / labelled_K.sum().item()
    return (
        f"by chance: {1 / len(class_names):.1%}, one of {len(class_names)} names; always saying "
        f"{class_names[largest]!r} would be right for {share:.1%}"
    )


def _left_out(image: ImageEncoder, settings: AlignmentSettings) -> list[str]:
    notes = []
    if not image.can_hide and settings.hidden_ratio:
        notes.append("not measured: right_visible, right_hidden; nothing can be hidden from this tower")
    if not image.gives_blocks:
        notes.append("not measured: right_layer1, ...; this tower gives tokens of its last block only")
    return notes
