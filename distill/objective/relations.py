"""How the patches of an image relate to each other, in the student and in its teacher; widths may differ.

Legend: B images, N patches, T patches taken, D width of the student, E of the teacher, b images of a chunk.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from distill.objective.prototypes import chunk_rows

MAX_TOKENS = 32
"""Patches of an image that relational distances and angles look at in one step; triplets grow with its cube."""

ANGLE = 2.0
"""Weight of angles beside distances (RKD section 4: 50 and 25)."""


def gram_loss(
    student_BND: Float[Tensor, "B N D"],
    teacher_BNE: Float[Tensor, "B N E"],
    chosen_BN: Bool[Tensor, "B N"],
    *,
    max_elements: int | None = None,
) -> Float[Tensor, " B"]:
    """For every image the mean over pairs i, j of chosen patches of (cos student_ij - cos teacher_ij)^2.

    DINOv3 (arXiv 2508.10104, section 4.2) writes the sum over pairs, its code takes the mean, as here. A patch is
    also a pair with itself, which is always right. 0 for an image without chosen patches.
    In float32; no gradient reaches the teacher. Images are worked on in chunks whose matrices have at most
    `max_elements` entries, and again in the backward pass.
    """
    num_patches = student_BND.shape[1]
    return _over_chunks(_gram, student_BND, teacher_BNE, chosen_BN, size=num_patches**2, max_elements=max_elements)


def _gram(student_bND: Tensor, teacher_bNE: Tensor, chosen_bN: Tensor) -> Tensor:
    difference_bNN = _cosines(student_bND, chosen_bN) - _cosines(teacher_bNE, chosen_bN)
    num_pairs_b = chosen_bN.sum(1).clamp(min=1).square()
    return difference_bNN.square().sum((1, 2)) / num_pairs_b


def _cosines(tokens_bND: Tensor, chosen_bN: Tensor) -> Tensor:
    """Cosines of any two chosen patches, 0 where one is not chosen."""
    unit_bND = functional.normalize(tokens_bND, dim=-1) * chosen_bN[..., None]
    return unit_bND @ unit_bND.transpose(1, 2)


def relational_loss(
    student_BND: Float[Tensor, "B N D"],
    teacher_BNE: Float[Tensor, "B N E"],
    chosen_BN: Bool[Tensor, "B N"],
    *,
    turn: int,
    max_elements: int | None = None,
) -> Float[Tensor, " B"]:
    """Relational knowledge distillation (Park et al. 2019, arXiv 1904.05068) among the chosen patches of an image.

        distances   |x_i - x_j| divided by their mean over the image's pairs i != j (eqs. 4 to 6)
        angles      cosine of the angle at x_j between x_i and x_k, i, j, k distinct (eqs. 7 and 8)

    each compared by smooth L1 with the teacher's; for every image the mean over pairs + `ANGLE` * the mean over
    triplets (the paper relates the pictures of a batch, and sums). Of more than `MAX_TOKENS` chosen patches
    evenly spaced ones are taken, starting at `turn`: let it change with the step, so that all are heard in time. 0
    for an image with fewer than three. In float32; no gradient reaches the teacher. Chunks as
    above.
    """
    student_BTD, taken_BT = _take(student_BND, chosen_BN, turn)
    teacher_BTE, _ = _take(teacher_BNE, chosen_BN, turn)
    num_taken = taken_BT.shape[1]
    size = num_taken**2 * max(num_taken, student_BTD.shape[2], teacher_BTE.shape[2])
    return _over_chunks(_relations, student_BTD, teacher_BTE, taken_BT, size=size, max_elements=max_elements)


def _take(tokens_BND: Tensor, chosen_BN: Tensor, turn: int) -> tuple[Tensor, Tensor]:
    """At most `MAX_TOKENS` of the chosen patches, and which of the places are filled."""
    stride_B1 = (chosen_BN.sum(1, keepdim=True) / MAX_TOKENS).ceil().clamp(min=1).long()
    rank_BN = chosen_BN.cumsum(1) - 1
    taken_BN = chosen_BN & ((rank_BN + turn) % stride_B1 == 0)
    order_BT = taken_BN.int().argsort(dim=1, descending=True, stable=True)[:, :MAX_TOKENS]
    tokens_BTD = tokens_BND.gather(1, order_BT[..., None].expand(-1, -1, tokens_BND.shape[2]))
    return tokens_BTD, taken_BN.gather(1, order_BT)


def _relations(student_bTD: Tensor, teacher_bTE: Tensor, taken_bT: Tensor) -> Tensor:
    distinct_TT = ~torch.eye(taken_bT.shape[1], dtype=torch.bool, device=taken_bT.device)
    pairs_bTT = (taken_bT[:, :, None] & taken_bT[:, None, :] & distinct_TT).float()
    student, teacher = (_distances_and_angles(tokens, pairs_bTT) for tokens in (student_bTD, teacher_bTE))
    # Angles [b, j, i, k]: i and k differ from j and from each other.
    triplets_bTTT = pairs_bTT[:, :, :, None] * pairs_bTT[:, :, None, :] * distinct_TT
    distance_b = _masked_mean(functional.smooth_l1_loss(student[0], teacher[0], reduction="none"), pairs_bTT)
    angle_b = _masked_mean(functional.smooth_l1_loss(student[1], teacher[1], reduction="none"), triplets_bTTT)
    return distance_b + ANGLE * angle_b


def _distances_and_angles(tokens_bTD: Tensor, pairs_bTT: Tensor) -> tuple[Tensor, Tensor]:
    difference_bTTD = tokens_bTD[:, :, None] - tokens_bTD[:, None, :]
    # The smallest number keeps the root's gradient finite where two patches are the same.
    length_bTT = difference_bTTD.square().sum(-1).add(1e-12).sqrt()
    mean_b = _masked_mean(length_bTT, pairs_bTT).clamp(min=1e-6)
    unit_bTTD = difference_bTTD / length_bTT[..., None]
    return length_bTT / mean_b[:, None, None], unit_bTTD @ unit_bTTD.transpose(-1, -2)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean over everything but the first dimension, where the mask is 1; 0 where it is nowhere."""
    places = tuple(range(1, mask.ndim))
    return (values * mask).sum(places) / mask.sum(places).clamp(min=1)


def _over_chunks(
    of_images: Callable[[Tensor, Tensor, Tensor], Tensor],
    student: Tensor,
    teacher: Tensor,
    chosen: Tensor,
    *,
    size: int,
    max_elements: int | None,
) -> Tensor:
    """The loss of every image, [B], of a function that takes some of them; `size` entries are alive per image."""
    images = chunk_rows(size, device=student.device, max_elements=max_elements)
    dtype = torch.promote_types(student.dtype, torch.float32)
    with torch.autocast(student.device.type, enabled=False):
        student, teacher = student.to(dtype), teacher.detach().to(dtype)
        parts = zip(student.split(images), teacher.split(images), chosen.split(images), strict=True)
        return torch.cat([_again_in_backward(of_images, *part) for part in parts])


def _again_in_backward(of_images: Callable[[Tensor, Tensor, Tensor], Tensor], *part: Tensor) -> Tensor:
    return checkpoint(of_images, *part, use_reentrant=False, preserve_rng_state=False)
