"""Linear classification: what a linear head reads out of frozen features of whole pictures.

Legend: n pictures, D width, K classes, R candidates.
"""

from dataclasses import asdict, dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from distill.encoders.dual import DualEncoder
from distill.eval.features import Precision
from distill.eval.metrics import TaskResult
from distill.eval.probes.linear_heads import Heads, descend, minimise
from distill.eval.tasks.knn import ClassifiedPictures, Pooled, accuracy_result, classified_features, pooled_parts

Solver = Literal["sgd", "lbfgs"]
RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)


@dataclass(frozen=True, kw_only=True)
class LinearClassificationSettings:
    """DINOv2's protocol for ImageNet (dinov2/eval/linear.py, 05c66df), which TIPS says its probes are similar to.

    What differs: features are extracted once from whole pictures, so nothing is cropped or flipped at random; only the
    last block is read, DINOv2 also tries the last four; and see `choose_on`.
    """

    solver: Solver = "sgd"
    """`sgd`: 12,500 steps of 1,024 with thirteen learning rates. `lbfgs`: the exact minimum for six penalties, quick
    for sets that fit into memory in float64."""
    pooled: Pooled = "both"
    """CLS 1, the mean of the final patch tokens, or both side by side, as they leave the encoder."""
    choose_on: Literal["held_out", "scored"] = "held_out"
    """Where the best rate or penalty is looked for: on a tenth of the training pictures, after which the head is
    trained once more on all of them; or, as DINOv2 does, on the very pictures that are scored, which flatters."""
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
        if self.steps < 1 or self.step_size < 1:
            raise ValueError(f"steps={self.steps}, step_size={self.step_size}: both must be positive")


@torch.no_grad()
def evaluate(
    encoder: DualEncoder,
    train_set: ClassifiedPictures,
    data: ClassifiedPictures,
    settings: LinearClassificationSettings,
) -> TaskResult:
    """Fit on `train_set`, score on `data`: `accuracy`, and `class_accuracy`, its mean over the classes that occur.

    Equally good candidates: the lower learning rate, the higher penalty. Raises ValueError when the sets differ in
    their classes or no picture has one.
    """
    if train_set.class_names != data.class_names:
        raise ValueError("the training and the evaluation pictures have different classes")
    train_nD, train_n = _features(encoder, train_set, settings)
    query_QD, label_Q = _features(encoder, data, settings)
    num_classes = len(data.class_names)
    if settings.choose_on == "scored":
        answers_RQ = fit(train_nD, train_n, num_classes=num_classes, settings=settings).classes(query_QD)
        chosen = _best(answers_RQ, label_Q)
        predicted_Q = answers_RQ[chosen]
    else:
        chosen = choose(train_nD, train_n, num_classes=num_classes, settings=settings)
        head = fit(train_nD, train_n, num_classes=num_classes, settings=settings, only=chosen)
        predicted_Q = head.classes(query_QD)[0]
    return accuracy_result(
        predicted_Q,
        label_Q,
        class_names=data.class_names,
        settings=asdict(settings) | {"num_train_images": len(train_n), "chosen": _candidates(settings)[chosen]},
    )


def fit(
    features_nD: Float[Tensor, "n D"],
    label_n: Int[Tensor, " n"],
    *,
    num_classes: int,
    settings: LinearClassificationSettings,
    only: int | None = None,
) -> Heads:
    """A head for every candidate, or for one of them."""
    candidates = _candidates(settings) if only is None else (_candidates(settings)[only],)
    if settings.solver == "lbfgs":
        return minimise(features_nD, label_n, num_classes=num_classes, penalties=candidates)
    return descend(
        features_nD,
        label_n,
        num_classes=num_classes,
        rates=candidates,
        steps=settings.steps,
        batch_size=settings.step_size,
        seed=settings.seed,
    )


def choose(
    features_nD: Float[Tensor, "n D"],
    label_n: Int[Tensor, " n"],
    *,
    num_classes: int,
    settings: LinearClassificationSettings,
) -> int:
    """The candidate that is right most often on held-out pictures; the middle one where none can be held out."""
    held_n = held_out(label_n)
    if not held_n.any():
        return len(_candidates(settings)) // 2
    seen_n = ~held_n.to(features_nD.device)
    heads = fit(features_nD[seen_n], label_n[~held_n], num_classes=num_classes, settings=settings)
    return _best(heads.classes(features_nD[~seen_n]), label_n[held_n])


def held_out(label_n: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """The first, eleventh, ... picture of every class that has at least two."""
    order_n = label_n.argsort(stable=True)
    count_K = label_n.bincount()
    first_K = count_K.cumsum(0) - count_K
    place_n = torch.empty_like(label_n)
    place_n[order_n] = torch.arange(len(label_n)) - first_K[label_n[order_n]]
    return (place_n % 10 == 0) & (count_K[label_n] > 1)


def _best(answers_Rn: Tensor, label_n: Tensor) -> int:
    return int((answers_Rn == label_n).sum(1).argmax())


def _candidates(settings: LinearClassificationSettings) -> tuple[float, ...]:
    return settings.rates if settings.solver == "sgd" else settings.penalties


def _features(
    encoder: DualEncoder, data: ClassifiedPictures, settings: LinearClassificationSettings
) -> tuple[Tensor, Tensor]:
    return classified_features(
        encoder.image,
        data,
        lambda found: torch.cat(pooled_parts(found, settings.pooled), dim=1),
        batch_size=settings.batch_size,
        precision=settings.precision,
    )
