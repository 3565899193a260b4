"""Relations between patches against loops written from their definitions, with gradients."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from distill.objective import relations
from distill.objective.relations import gram_loss, relational_loss

B, N, D, E = 4, 7, 5, 6
CHOSEN = torch.tensor([[1] * 7, [1, 0, 1, 0, 1, 1, 0], [0] * 7, [0, 1, 0, 0, 1, 0, 0]]).bool()


def tokens(seed: int, width: int) -> Tensor:
    return torch.randn(B, N, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gram(student: Tensor, teacher: Tensor) -> Tensor:
    losses = []
    for one, other, chosen in zip(student, teacher, CHOSEN, strict=True):
        places = chosen.nonzero().flatten().tolist()
        cos = torch.nn.functional.cosine_similarity
        pairs = [(cos(one[i], one[j], 0) - cos(other[i], other[j], 0)) ** 2 for i in places for j in places]
        losses.append(torch.stack(pairs).mean() if pairs else torch.zeros((), dtype=torch.float64))
    return torch.stack(losses)


def distances(x: Tensor, places: list[int]) -> list[Tensor]:
    found = [(x[i] - x[j]).norm() for i in places for j in places if i != j]
    return [distance / torch.stack(found).mean() for distance in found]


def angles(x: Tensor, places: list[int]) -> list[Tensor]:
    triplets = [(i, j, k) for j in places for i in places for k in places if len({i, j, k}) == 3]
    return [((x[i] - x[j]) / (x[i] - x[j]).norm()) @ ((x[k] - x[j]) / (x[k] - x[j]).norm()) for i, j, k in triplets]


def rkd(student: Tensor, teacher: Tensor) -> Tensor:
    losses = []
    for one, other, chosen in zip(student, teacher, CHOSEN, strict=True):
        places, loss = chosen.nonzero().flatten().tolist(), torch.zeros((), dtype=torch.float64)
        for relation, weight in ((distances, 1), (angles, 2)):
            found = relation(one, places)
            if found:
                loss = loss + weight * smooth_l1_loss(torch.stack(found), torch.stack(relation(other, places)))
        losses.append(loss)
    return torch.stack(losses)


CASES = {"gram": (gram_loss, {}, gram), "rkd": (relational_loss, {"turn": 3}, rkd)}
FEWEST = {"gram": 2, "rkd": 3}
"""Patches with which a relation says something: two have one distance, which is its own mean."""


@pytest.mark.parametrize("case", CASES)
def test_a_relation_is_its_definition_and_so_is_its_gradient(case: str):
    loss, options, reference = CASES[case]
    ours, theirs = tokens(1, D).requires_grad_(), tokens(1, D).requires_grad_()
    teacher = tokens(2, E).requires_grad_()
    got, expected = loss(ours, teacher, CHOSEN, **options), reference(theirs, teacher.detach())
    torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-9)
    got.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-9, rtol=1e-9)
    assert teacher.grad is None
    assert torch.equal(ours.grad.abs().sum(-1) > 0, CHOSEN & (CHOSEN.sum(1, keepdim=True) >= FEWEST[case]))


@pytest.mark.parametrize("case", CASES)
def test_chunks_do_not_change_a_relation(case: str, monkeypatch: pytest.MonkeyPatch):
    loss, options, _ = CASES[case]
    seen: list[int] = []
    whole: Callable = relations._again_in_backward

    def counted(function: Callable, *part: Tensor) -> Tensor:
        seen.append(len(part[0]))
        return whole(function, *part)

    monkeypatch.setattr(relations, "_again_in_backward", counted)
    losses, gradients = [], []
    for bound in (None, 1):
        student = tokens(1, D).requires_grad_()
        losses.append(loss(student, tokens(2, E), CHOSEN, max_elements=bound, **options))
        losses[-1].sum().backward()
        gradients.append(student.grad)
    assert seen == [B, 1, 1, 1, 1]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("case", CASES)
def test_a_student_that_is_a_turned_and_scaled_teacher_has_nothing_to_learn(case: str):
    loss, options, _ = CASES[case]
    teacher = tokens(2, E)
    turn = torch.linalg.qr(torch.randn(E, E, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
    assert loss(3 * teacher @ turn, teacher, CHOSEN, **options).max() < 1e-20
    assert loss(tokens(1, D), teacher, CHOSEN, **options).mean() > 1e-2


def test_of_many_patches_evenly_spaced_ones_are_taken_and_all_in_their_turn():
    chosen = torch.ones(2, 70, dtype=torch.bool)
    chosen[1, ::2] = False
    x = torch.arange(70.0).expand(2, 70)[..., None]
    seen: list[set[int]] = [set(), set()]
    for turn in range(3):
        taken_BTD, filled_BT = relations._take(x, chosen, turn)
        assert taken_BTD.shape[1] == relations.MAX_TOKENS == 32
        for image in range(2):
            places = taken_BTD[image, filled_BT[image], 0].long().tolist()
            assert len(places) <= 32 and len({b - a for a, b in pairwise(places)}) == 1
            seen[image] |= set(places)
    assert seen == [set(range(70)), set(range(1, 70, 2))]


def test_twins_among_the_patches_have_finite_gradients():
    student = torch.ones(1, 4, 3).requires_grad_()
    chosen = torch.ones(1, 4, dtype=torch.bool)
    teacher = torch.randn(1, 4, 3)
    (gram_loss(student, teacher, chosen) + relational_loss(student, teacher, chosen, turn=0)).sum().backward()
    assert student.grad.isfinite().all()
