"""Nearest-neighbour classification: a picture has the class of the training pictures it is most similar to.

Legend: n pictures, D width, K classes.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from distill.contracts import ImageEncoder, Tokens
from distill.encoders.dual import DualEncoder
from distill.eval.features import Precision, unit
from distill.eval.metrics import TaskResult
from distill.eval.pictures.decoding import read_ahead
from distill.eval.remembered import global_tokens
from distill.eval.votes import neighbour_votes


@runtime_checkable
class ClassifiedPictures(Protocol):
    """Pictures of one size with one class each. A label of `ignore` leaves the picture out."""

    class_names: list[str]
    ignore: int

    def __len__(self) -> int: ...

    def batch(self, start: int, stop: int) -> tuple[Float[Tensor, "B 3 H W"], Int[Tensor, " B"]]: ...


Pooled = Literal["cls", "patch_mean", "both"]


@dataclass(frozen=True, kw_only=True)
class KnnSettings:
    num_neighbours: int = 5
    pooled: Pooled = "cls"
    """CLS 1, the mean of the final patch tokens, or both, each normalised, side by side."""
    batch_size: int = 64
    """Changes memory, not results."""
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.num_neighbours < 1:
            raise ValueError(f"num_neighbours={self.num_neighbours} is not positive")


@torch.no_grad()
def evaluate(
    encoder: DualEncoder, train_set: ClassifiedPictures, data: ClassifiedPictures, settings: KnnSettings
) -> TaskResult:
    """`accuracy` over pictures and `class_accuracy`, its mean over the classes that occur in `data`."""
    if train_set.class_names != data.class_names:
        raise ValueError("the training and the evaluation pictures have different classes")
    train_nD, train_n = pooled_features(encoder.image, train_set, settings)
    query_QD, label_Q = pooled_features(encoder.image, data, settings)
    predicted_Q = classify(query_QD, train_nD, train_n, num_classes=len(data.class_names), settings=settings)
    return accuracy_result(
        predicted_Q,
        label_Q,
        class_names=data.class_names,
        settings=asdict(settings) | {"num_train_images": len(train_n)},
    )


def pooled_features(
    image: ImageEncoder, data: ClassifiedPictures, settings: KnnSettings
) -> tuple[Float[Tensor, "n D"], Int[Tensor, " n"]]:
    """Unit features of the pictures that have a class, and their classes."""

    def read(found: Tokens) -> Tensor:
        return unit(torch.cat([unit(part) for part in pooled_parts(found, settings.pooled)], dim=1))

    return classified_features(image, data, read, batch_size=settings.batch_size, precision=settings.precision)


def pooled_parts(found: Tokens, pooled: Pooled) -> list[Float[Tensor, "B D"]]:
    """CLS 1, the mean of the patch tokens, or first the one and then the other."""
    cls, patch_mean = found.cls[:, 0], found.patches.mean(1)
    return {"cls": [cls], "patch_mean": [patch_mean], "both": [cls, patch_mean]}[pooled]


def classified_features(
    image: ImageEncoder,
    data: ClassifiedPictures,
    read: Callable[[Tokens], Tensor],
    *,
    batch_size: int,
    precision: Precision,
) -> tuple[Float[Tensor, "n D"], Int[Tensor, " n"]]:
    """What `read` makes [B, D] of CLS tokens and the mean patch, for the pictures that have a class; and their classes,
    on the CPU.

    Raises ValueError where no picture has a class.
    """
    gathered = Gathered(len(data))
    with read_ahead(data.batch, len(data)) as ahead:
        for said, label in global_tokens(image, data, ahead, batch_size=batch_size, precision=precision):
            gathered.add(read(said), label, ignore=data.ignore)
    return gathered.all()


class Gathered:
    """Features and classes of pictures, batch after batch into one tensor that has room for all: held once."""

    def __init__(self, room: int):
        """For at most so many pictures."""
        self._room, self._count = room, 0
        self._features: Tensor | None = None
        self._labels = torch.empty(room, dtype=torch.long)

    def add(self, found: Shaped[Tensor, "B ..."], label_B: Int[Tensor, " B"], *, ignore: int) -> None:
        """Those whose label is not `ignore`, on the device of the first features."""
        if self._features is None:
            self._features = found.new_empty(self._room, *found.shape[1:])
        kept_B = label_B != ignore
        stop = self._count + int(kept_B.sum())
        self._features[self._count : stop] = found[kept_B.to(found.device)]
        self._labels[self._count : stop] = label_B[kept_B].cpu()
        self._count = stop

    def all(self) -> tuple[Shaped[Tensor, "n ..."], Int[Tensor, " n"]]:
        """Raises ValueError where no picture had a class."""
        if not self._count:
            raise ValueError("no picture has a class, so there is nothing to score")
        assert self._features is not None
        return self._features[: self._count], self._labels[: self._count]


def classify(
    query_QD: Float[Tensor, "Q D"],
    train_nD: Float[Tensor, "n D"],
    train_label_n: Int[Tensor, " n"],
    *,
    num_classes: int,
    settings: KnnSettings,
) -> Int[Tensor, " Q"]:
    """Class of every query by vote of its nearest training features (ties: `votes.neighbour_votes`). On the CPU.

    Raises ValueError when there are fewer training features than neighbours.
    """
    if len(train_nD) < settings.num_neighbours:
        raise ValueError(f"{len(train_nD)} training pictures are too few for {settings.num_neighbours} neighbours")
    return neighbour_votes(
        query_QD,
        train_nD,
        train_label_n,
        num_neighbours=settings.num_neighbours,
        num_classes=num_classes,
    )


def accuracy_result(
    predicted_n: Int[Tensor, " n"], label_n: Int[Tensor, " n"], *, class_names: list[str], settings: dict
) -> TaskResult:
    """Accuracy over pictures and over classes; NaN for a class without pictures, which no mean counts."""
    if not len(label_n):
        raise ValueError("no picture has a class, so there is nothing to score")
    correct_n = predicted_n == label_n
    right_n = correct_n.double()
    per_class = {name: right_n[label_n == number].mean().item() for number, name in enumerate(class_names)}
    values = {
        "accuracy": right_n.mean().item(),
        "class_accuracy": torch.tensor(list(per_class.values()), dtype=torch.double).nanmean().item(),
    }
    return TaskResult(
        values=values,
        per_class=per_class,
        per_picture={"correct": correct_n.to(torch.uint8)},
        settings=settings,
        num_images=len(label_n),
    )
