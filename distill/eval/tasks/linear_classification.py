"""Linear classification: what a linear head reads out of frozen features of whole pictures.

Legend: n pictures, m of them, M blocks, P vectors of a picture, D width, K classes, R candidates.
"""

from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from distill.contracts import ImageEncoder, Tokens
from distill.encoders.dual import DualEncoder
from distill.eval.features import Precision, block_tokens, device_of
from distill.eval.metrics import TaskResult
from distill.eval.pictures.decoding import read_ahead
from distill.eval.probes.linear_heads import Heads, descend, minimise
from distill.eval.progress import saw_pictures
from distill.eval.tasks.knn import (
    ClassifiedPictures,
    Gathered,
    Pooled,
    accuracy_result,
    classified_features,
    pooled_parts,
)

Solver = Literal["sgd", "lbfgs"]
RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)


@dataclass(frozen=True, kw_only=True)
class LinearClassificationSettings:
    """DINOv2's protocol for ImageNet (dinov2/eval/linear.py, 05c66df), which TIPS says its probes are similar to.

    Its headline number is that of the best of 52 heads: CLS of the last block or of the last four, without or with the
    mean patch, at thirteen learning rates. What differs here: features are extracted once from whole pictures, so
    nothing is cropped or flipped at random; and see `choose_on`.
    """

    solver: Solver = "sgd"
    """`sgd`: 12,500 steps of 1,024 with thirteen learning rates. `lbfgs`: the exact minimum for six penalties, quick
    for sets that fit into memory in float64."""
    blocks: tuple[int, ...] = (1, 4)
    """Of how many last blocks CLS 1 is read, behind the final norm and side by side; the best number is chosen. More
    than 1 needs a tower that gives its earlier blocks."""
    pooled: tuple[Pooled, ...] = ("cls", "both")
    """What is read besides: CLS 1 alone, the mean of the final patch tokens alone, or both side by side; the best is
    chosen."""
    choose_on: Literal["held_out", "scored"] = "held_out"
    """Where the best rate or penalty and what is best read are looked for: on a tenth of the training pictures, after
    which the head is trained once more on all of them; or, as DINOv2 does, on the very pictures that are scored, which
    flatters."""
    rates: tuple[float, ...] = RATES
    """sgd: learning rates for batches of 256, which grow with the batch."""
    penalties: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
    """lbfgs: on squared weights of standardised features, beside the mean cross-entropy."""
    steps: int = 12_500
    step_size: int = 1024
    """Pictures of one step of sgd."""
    seed: int = 0
    batch_size: int = 64
    """Of the encoder: changes memory, not results."""
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        for name, candidates in (("rates", self.rates), ("penalties", self.penalties)):
            if not candidates or not all(value > 0 for value in candidates):
                raise ValueError(f"{name}={candidates}: expected at least one number, all of them positive")
        if not self.blocks or min(self.blocks) < 1 or not self.pooled:
            raise ValueError(
                f"blocks={self.blocks}, pooled={self.pooled}: expected at least one of each, from 1 block on"
            )
        if self.steps < 1 or self.step_size < 1:
            raise ValueError(f"steps={self.steps}, step_size={self.step_size}: both must be positive")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What heads may read of the pictures that have a class, and the class.

    Held once: every choice of what is read is a view. Of ImageNet's 1,281,167 training pictures, four blocks of an L
    tower (5 vectors of 1,024 float32) are 24.4 GiB, one block 9.8 GiB; an epoch's order and a batch are small beside
    them, while solver=lbfgs makes a copy in float64.
    """

    parts_nPD: Float[Tensor, "n P D"]
    """CLS of M blocks from the earliest to the last, then the mean patch: P = M + 1."""
    label_n: Int[Tensor, " n"]

    def read(self, blocks: int, pooled: Pooled) -> Float[Tensor, "n _"]:
        """One row for each picture: CLS of the last blocks, then the mean patch, as far as they are wanted."""
        first = -1 if pooled == "patch_mean" else -1 - blocks
        last = -1 if pooled == "cls" else None
        return self.parts_nPD[:, first:last].flatten(1)


@torch.no_grad()
def evaluate(
    encoder: DualEncoder,
    train_set: ClassifiedPictures,
    data: ClassifiedPictures,
    settings: LinearClassificationSettings,
) -> TaskResult:
    """Fit on `train_set`, score on `data`: `accuracy`, and `class_accuracy`, its mean over the classes that occur.

    Equally good candidates: what is read first in the settings, then the lower learning rate or the higher penalty.
    Raises ValueError when the sets differ in their classes, no picture has one, or the tower lacks the blocks.
    """
    if train_set.class_names != data.class_names:
        raise ValueError("the training and the evaluation pictures have different classes")
    train, query = (parts_of(encoder.image, each, settings) for each in (train_set, data))
    how = {"num_classes": len(data.class_names), "settings": settings, "device": device_of(encoder.image)}
    blocks, pooled, chosen, predicted_Q = _answers(train, query, settings, how)
    found = {"chosen": _candidates(settings)[chosen], "read": {"blocks": blocks, "pooled": pooled}}
    return accuracy_result(
        predicted_Q,
        query.label_n,
        class_names=data.class_names,
        settings=asdict(settings) | {"num_train_images": len(train.label_n), **found},
    )


def _answers(
    train: Parts, query: Parts, settings: LinearClassificationSettings, how: dict[str, Any]
) -> tuple[int, Pooled, int, Int[Tensor, " Q"]]:
    """What is best read, the best candidate for it, and what its head says of the queries. `how`: to `fit` heads."""
    best = None
    for blocks, pooled in product(settings.blocks, settings.pooled):
        read_nD, said_Q = train.read(blocks, pooled), None
        if settings.choose_on == "scored":
            answers_RQ = fit(read_nD, train.label_n, **how).classes(query.read(blocks, pooled))
            chosen, right = _best(answers_RQ, query.label_n)
            said_Q = answers_RQ[chosen]
        else:
            chosen, right = choose(read_nD, train.label_n, **how)
        if best is None or right > best[0]:
            best = (right, blocks, pooled, chosen, said_Q)
    _, blocks, pooled, chosen, said_Q = best
    if said_Q is None:
        head = fit(train.read(blocks, pooled), train.label_n, **how, only=chosen)
        said_Q = head.classes(query.read(blocks, pooled))[0]
    return blocks, pooled, chosen, said_Q


def fit(
    features_nD: Float[Tensor, "n D"],
    label_n: Int[Tensor, " n"],
    *,
    num_classes: int,
    settings: LinearClassificationSettings,
    only: int | None = None,
    rows_m: Int[Tensor, " m"] | None = None,
    device: torch.device | None = None,
) -> Heads:
    """A head for every candidate, or for one of them, fitted to every row or to some; on the features' device, or on
    another one."""
    candidates = _candidates(settings) if only is None else (_candidates(settings)[only],)
    if settings.solver == "lbfgs":
        if rows_m is not None:
            features_nD, label_n = features_nD[rows_m.to(features_nD.device)], label_n[rows_m.to(label_n.device)]
        features_nD = features_nD if device is None else features_nD.to(device)
        return minimise(features_nD, label_n, num_classes=num_classes, penalties=candidates)
    return descend(
        features_nD,
        label_n,
        num_classes=num_classes,
        rates=candidates,
        steps=settings.steps,
        batch_size=settings.step_size,
        seed=settings.seed,
        rows_m=rows_m,
        device=device,
    )


def choose(
    features_nD: Float[Tensor, "n D"],
    label_n: Int[Tensor, " n"],
    *,
    num_classes: int,
    settings: LinearClassificationSettings,
    device: torch.device | None = None,
) -> tuple[int, int]:
    """The candidate that is right most often on held-out pictures, and how often that is; the middle one and 0 where
    none can be held out."""
    held_n = held_out(label_n)
    if not held_n.any():
        return len(_candidates(settings)) // 2, 0
    (seen_m,), (held_m,) = torch.where(~held_n), torch.where(held_n)
    heads = fit(features_nD, label_n, num_classes=num_classes, settings=settings, rows_m=seen_m, device=device)
    return _best(heads.classes(features_nD, held_m), label_n[held_m])


def held_out(label_n: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """The first, eleventh, ... picture of every class that has at least two."""
    order_n = label_n.argsort(stable=True)
    count_K = label_n.bincount()
    first_K = count_K.cumsum(0) - count_K
    place_n = torch.empty_like(label_n)
    place_n[order_n] = torch.arange(len(label_n)) - first_K[label_n[order_n]]
    return (place_n % 10 == 0) & (count_K[label_n] > 1)


def _best(answers_Rn: Tensor, label_n: Tensor) -> tuple[int, int]:
    """The first of the candidates that are right most often, and how often that is."""
    right_R = (answers_Rn == label_n).sum(1)
    return int(right_R.argmax()), int(right_R.max())


def _candidates(settings: LinearClassificationSettings) -> tuple[float, ...]:
    return settings.rates if settings.solver == "sgd" else settings.penalties


def parts_of(image: ImageEncoder, data: ClassifiedPictures, settings: LinearClassificationSettings) -> Parts:
    """In one pass over the pictures. Raises ValueError where none has a class, and for blocks that are not there."""
    num_blocks, options = max(settings.blocks), {"batch_size": settings.batch_size, "precision": settings.precision}
    if num_blocks == 1:

        def both(found: Tokens) -> Float[Tensor, "B _"]:
            return torch.cat(pooled_parts(found, "both"), dim=1)

        both_nD, label_n = classified_features(image, data, both, **options)
        return Parts(parts_nPD=both_nD.unflatten(1, (2, -1)), label_n=label_n)
    parts_nPD, label_n = _of_blocks(image, data, num_blocks, **options)
    return Parts(parts_nPD=parts_nPD, label_n=label_n)


def _of_blocks(
    image: ImageEncoder, data: ClassifiedPictures, num_blocks: int, *, batch_size: int, precision: Precision
) -> tuple[Float[Tensor, "n _ D"], Int[Tensor, " n"]]:
    """CLS 1 of the last blocks and the last one's mean patch, for the pictures that have a class; and their classes.

    On the CPU: five vectors a picture are more of ImageNet than an accelerator holds beside the heads.
    """
    if num_blocks > image.num_layers:
        raise ValueError(f"the last {num_blocks} blocks cannot be read of a tower of {image.num_layers}")
    blocks = tuple(range(image.num_layers - num_blocks + 1, image.num_layers + 1))
    gathered = Gathered(len(data))
    with read_ahead(data.batch, len(data)) as read:
        for start in range(0, len(data), batch_size):
            pixels, label_B = read(start, min(start + batch_size, len(data)))
            found = block_tokens(image, pixels, blocks, precision=precision)
            part_BPD = torch.stack([*(each.cls[:, 0] for each in found), found[-1].patches.mean(1)], dim=1)
            gathered.add(part_BPD.cpu(), label_B, ignore=data.ignore)
            saw_pictures(len(pixels))
    return gathered.all()
