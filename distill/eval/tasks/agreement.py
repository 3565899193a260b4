"""How far a student sees what its teacher sees, on pictures neither was trained on; widths may differ.

Legend: n pictures or tokens, N patches, D width of the student, E of the teacher, k neighbours.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from distill.contracts import ImageEncoder, Tokens
from distill.eval.features import Precision, tokens, unit
from distill.eval.metrics import TaskResult
from distill.eval.tasks.knn import ClassifiedPictures
from distill.objective.features import resample_patches


@dataclass(frozen=True, kw_only=True)
class AgreementSettings:
    num_neighbours: int = 5
    batch_size: int = 16
    """Pictures whose patches are compared with each other; more make the estimate for patches less noisy."""
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.num_neighbours < 1:
            raise ValueError(f"num_neighbours={self.num_neighbours} is not positive")


@torch.no_grad()
def evaluate(
    student: ImageEncoder,
    teacher: ImageEncoder,
    pictures: tuple[ClassifiedPictures, ClassifiedPictures],
    settings: AgreementSettings,
) -> TaskResult:
    """Three numbers that need no adapter between the two:

        cls_neighbours   share of a picture's k nearest others by CLS 1 of the student that are the teacher's too
        cls_cka          linear CKA of CLS 1 over pictures
        patch_cka        linear CKA of patches, the teacher's resampled to the student's grid

    1 is agreement in everything but a rotation and a scale. Neighbours agree by chance in k / (n - 1); the CKA is the
    unbiased one, whose mean is 0 for features that have nothing to do with each other. `pictures` are the same ones at
    the student's and at the teacher's size. Raises ValueError for fewer than k + 2 or 4 pictures.
    """
    num_pictures = len(pictures[0])
    if num_pictures < max(settings.num_neighbours + 2, 4):
        raise ValueError(f"{num_pictures} pictures are too few for {settings.num_neighbours} neighbours")
    cls: tuple[list[Tensor], list[Tensor]] = ([], [])
    patches = Alignment()
    for one, other in zip(_seen(student, pictures[0], settings), _seen(teacher, pictures[1], settings), strict=True):
        for kept, found in zip(cls, (one, other), strict=True):
            kept.append(found.cls[:, 0].double())
        patches.add(one.patches.flatten(0, 1).double(), _on_grid(other, one.grid).flatten(0, 1).double())
    student_nD, teacher_nE = (torch.cat(kept) for kept in cls)
    values = {
        "cls_neighbours": common_neighbours(student_nD, teacher_nE, num_neighbours=settings.num_neighbours),
        "cls_cka": linear_cka([(student_nD, teacher_nE)]),
        "patch_cka": patches.value(),
    }
    chance = {"neighbours_by_chance": settings.num_neighbours / (num_pictures - 1)}
    return TaskResult(
        values=values, per_class={}, per_picture={}, settings=asdict(settings) | chance, num_images=num_pictures
    )


def common_neighbours(
    student_nD: Float[Tensor, "n D"], teacher_nE: Float[Tensor, "n E"], *, num_neighbours: int
) -> float:
    """Mean share of the nearest others, by cosine, that both have in common."""
    ours_nk, theirs_nk = (_nearest(features, num_neighbours) for features in (student_nD, teacher_nE))
    common_nkk = ours_nk[:, :, None] == theirs_nk[:, None, :]
    return common_nkk.any(2).double().mean().item()


def linear_cka(batches: Iterable[tuple[Float[Tensor, "n D"], Float[Tensor, "n E"]]]) -> float:
    """`Alignment` of these batches."""
    found = Alignment()
    for student_nD, teacher_nE in batches:
        found.add(student_nD, teacher_nE)
    return found.value()


class Alignment:
    """Centred kernel alignment with linear kernels (Kornblith et al. 2019, arXiv 1905.00414): the unbiased estimate of
    HSIC, added up over batches before the division (Nguyen et al. 2021, arXiv 2010.15327)."""

    def __init__(self) -> None:
        self.sums = torch.zeros(3, dtype=torch.double)

    def add(self, student_nD: Float[Tensor, "n D"], teacher_nE: Float[Tensor, "n E"]) -> None:
        """Rows of one batch, at least 4."""
        ours, theirs = (_kernel(features) for features in (student_nD, teacher_nE))
        self.sums += torch.stack([_hsic(ours, theirs), _hsic(ours, ours), _hsic(theirs, theirs)]).cpu()

    def value(self) -> float:
        """nan for features that are all the same."""
        return (self.sums[0] / (self.sums[1] * self.sums[2]).sqrt()).item()


def _nearest(features: Float[Tensor, "n D"], num_neighbours: int) -> Int[Tensor, "n k"]:
    similarity_nn = unit(features) @ unit(features).T
    similarity_nn.fill_diagonal_(-torch.inf)
    return similarity_nn.topk(num_neighbours, dim=1).indices


def _kernel(features_nD: Float[Tensor, "n D"]) -> Float[Tensor, "n n"]:
    """Inner products without those of a row with itself. HSIC does not hear the mean, and rounding would."""
    centred_nD = features_nD - features_nD.mean(0)
    return (centred_nD @ centred_nD.T).fill_diagonal_(0)


def _hsic(ours_nn: Float[Tensor, "n n"], theirs_nn: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """The unbiased estimate of Song et al. 2012 from kernels with zeros on their diagonals; n is at least 4."""
    n = len(ours_nn)
    ours_n, theirs_n = ours_nn.sum(1), theirs_nn.sum(1)
    all_pairs = ours_n.sum() * theirs_n.sum() / ((n - 1) * (n - 2))
    return ((ours_nn * theirs_nn).sum() + all_pairs - 2 / (n - 2) * (ours_n @ theirs_n)) / (n * (n - 3))


def _seen(image: ImageEncoder, data: ClassifiedPictures, settings: AgreementSettings) -> Iterator[Tokens]:
    for start in range(0, len(data), settings.batch_size):
        pixels, _ = data.batch(start, min(start + settings.batch_size, len(data)))
        yield tokens(image, pixels, kind="final", precision=settings.precision)


def _on_grid(found: Tokens, grid: tuple[int, int]) -> Tensor:
    return resample_patches(found.patches, grid=found.grid, new_grid=grid)
