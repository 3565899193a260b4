"""The nearest of a gallery, exactly and in bounded memory, and what they vote for.

Legend: Q queries, q of a part of them, G gallery items, g of a part of them, D width, k neighbours, K classes.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from distill.eval.metrics import MAX_ELEMENTS


def neighbour_votes(
    query_QD: Float[Tensor, "Q D"],
    gallery_GD: Float[Tensor, "G D"],
    gallery_label_G: Int[Tensor, " G"],
    *,
    num_neighbours: int,
    num_classes: int,
) -> Int[Tensor, " Q"]:
    """Class of each query by majority among its most similar gallery items. On the CPU.

    Equally many votes: the class whose neighbours are more similar in sum; still equal: the lower class.
    Equally similar items at the edge of the neighbourhood: the earlier in the gallery. Memory: `nearest`.
    """
    similarity_Qk, place_Qk = nearest(query_QD, gallery_GD, num_neighbours=num_neighbours)
    label_Qk = gallery_label_G.cpu().long()[place_Qk]
    # On the CPU, where sums run from the most similar on: classes with the same similarities have equal sums.
    answers = [
        _elect(similarity_qk, label_qk, num_classes)
        for similarity_qk, label_qk in zip(
            *(each.split(max(1, MAX_ELEMENTS // num_classes)) for each in (similarity_Qk, label_Qk)), strict=True
        )
    ]
    return torch.cat(answers)


def nearest(
    query_QD: Float[Tensor, "Q D"], gallery_GD: Float[Tensor, "G D"], *, num_neighbours: int
) -> tuple[Float[Tensor, "Q k"], Int[Tensor, "Q k"]]:
    """Scalar products with the most similar gallery items, the largest first, and their places; on the CPU.

    Products are of float64. Of equal ones the earlier in the gallery comes first, inside and at the edge. Besides the
    features and the answer, less than 80 * `MAX_ELEMENTS` bytes are held, 1.25 GiB: a part of the gallery in float64, a
    table of products, and what finds the edges of the table where all products are equal.
    """
    assert 0 < num_neighbours <= len(gallery_GD), "there are enough neighbours"
    rows = max(1, MAX_ELEMENTS // gallery_GD.shape[1])
    step = max(1, MAX_ELEMENTS // max(min(rows, len(gallery_GD)), gallery_GD.shape[1]))
    found = [
        (part.new_empty(len(part), 0).double(), part.new_empty(len(part), 0).long()) for part in query_QD.split(step)
    ]
    for first in range(0, len(gallery_GD), rows):
        gallery_gD = gallery_GD[first : first + rows].double()
        for number, query_qD in enumerate(query_QD.split(step)):
            similarity_qg = query_qD.double() @ gallery_gD.T
            place_qk = _largest(similarity_qg, min(num_neighbours, len(gallery_gD)))
            similarity = torch.cat([found[number][0], similarity_qg.gather(1, place_qk)], dim=1)
            place = torch.cat([found[number][1], place_qk + first], dim=1)
            # What was found before lies earlier in the gallery, so a stable order keeps the earlier of equals.
            order = similarity.argsort(dim=1, descending=True, stable=True)[:, :num_neighbours]
            found[number] = similarity.gather(1, order), place.gather(1, order)
    return torch.cat([each for each, _ in found]).cpu(), torch.cat([each for _, each in found]).cpu()


def _largest(similarity_qg: Float[Tensor, "q g"], count: int) -> Int[Tensor, "q k"]:
    """Places of each row's largest values in the order of the row; of equal ones at the edge the earlier."""
    edge_q1 = similarity_qg.topk(count, dim=1).values[:, -1:]
    chosen_qg = similarity_qg >= edge_q1
    (tied,) = torch.where(chosen_qg.sum(1) > count)
    if len(tied):
        chosen_qg[tied] = _earlier(similarity_qg[tied], edge_q1[tied], count)
    return chosen_qg.nonzero()[:, 1].view(len(similarity_qg), count)


def _earlier(similarity_qg: Tensor, edge_q1: Tensor, count: int) -> Bool[Tensor, "q g"]:
    """All that lie above the edge, and of those on it the first for whom there is room."""
    above_qg, on_qg = similarity_qg > edge_q1, similarity_qg == edge_q1
    room_q1 = count - above_qg.sum(1, keepdim=True)
    return above_qg | (on_qg & (on_qg.cumsum(1, dtype=torch.int32) <= room_q1))


def _elect(similarity_qk: Float[Tensor, "q k"], label_qk: Int[Tensor, "q k"], num_classes: int) -> Int[Tensor, " q"]:
    votes_qK = torch.zeros(len(label_qk), num_classes, dtype=torch.int32)
    votes_qK.scatter_add_(1, label_qk, torch.ones_like(label_qk, dtype=torch.int32))
    weight_qK = torch.zeros(len(label_qk), num_classes, dtype=torch.double).scatter_add_(1, label_qk, similarity_qk)
    most_qK = votes_qK == votes_qK.amax(1, keepdim=True)
    return weight_qK.masked_fill_(~most_qK, -torch.inf).argmax(1)
