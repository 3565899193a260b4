"""The gradient that the prototype cross-entropy hands to a target that learns, against its definition."""

import pytest
import torch
from test_prototypes import Allocations, TinyHead
from torch import Tensor

from distill.objective.prototypes import Target, bottleneck, prototype_cross_entropy


def naive(
    tokens: Tensor, student: TinyHead, teacher_tokens: Tensor, teacher: TinyHead, offset: Tensor, weights: Tensor
):
    """The cross-entropy by its definition, with every [M, K] tensor alive."""
    with torch.autocast("cpu", enabled=False):
        targets = torch.softmax(teacher(teacher_tokens) @ teacher.prototypes().T / 0.05 + offset, dim=1)
        logs = torch.log_softmax(student(tokens) @ student.prototypes().T / 0.1, dim=1)
    return -(weights[:, None] * targets * logs).sum()


def chunked(tokens, student, teacher_tokens, teacher, offset, weights, *, gradient=1.0, max_elements=None):
    rows = 1000 if max_elements is None else max(1, max_elements // len(teacher.raw))
    features = bottleneck(teacher_tokens, head=teacher, rows=rows)
    target = Target(features, teacher.prototypes(), offset, 0.05, gradient)
    return prototype_cross_entropy(
        tokens,
        student_head=student,
        target=target,
        student_temperature=0.1,
        weights_M=weights,
        max_elements=max_elements,
    ).loss


def problem(num_tokens=17, dtype=torch.float64, **sizes):
    torch.manual_seed(0)
    student, teacher = TinyHead(**sizes).to(dtype), TinyHead(**sizes).to(dtype)
    width, num_prototypes = student.trunk[0].in_features, len(student.raw)
    tokens, teacher_tokens = (torch.randn(num_tokens, width, dtype=dtype).requires_grad_() for _ in range(2))
    offset, weights = torch.randn(num_prototypes, dtype=dtype), torch.rand(num_tokens, dtype=dtype)
    return tokens, student, teacher_tokens, teacher, offset, weights


def gradients(loss: Tensor, *holders) -> list[list[Tensor]]:
    """Of each holder: a tensor, or a module with its parameters."""
    lists = [[one] if isinstance(one, Tensor) else list(one.parameters()) for one in holders]
    found = iter(torch.autograd.grad(loss, [value for values in lists for value in values]))
    return [[next(found) for _ in values] for values in lists]


@pytest.mark.parametrize("max_elements", [1, 30, 7 * 30, 2**22])
def test_the_target_gets_the_gradient_of_the_definition_and_the_student_keeps_its_own(max_elements: int):
    given = problem()
    tokens, student, teacher_tokens, teacher, *_ = given
    wanted = gradients(naive(*given) * 3, tokens, student, teacher_tokens, teacher)
    got = chunked(*given, gradient=0.25, max_elements=max_elements)
    torch.testing.assert_close(got, naive(*given), atol=0, rtol=1e-12)
    found = gradients(got * 3, tokens, student, teacher_tokens, teacher)
    for mine, theirs, factor in zip(found, wanted, (1, 1, 0.25, 0.25), strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert other.norm() > 0 and (one - factor * other).norm() <= 1e-12 * other.norm()


def test_one_head_for_both_gets_the_sum_of_both_gradients():
    tokens, head, teacher_tokens, _, *rest = problem()
    given = (tokens, head, teacher_tokens, head, *rest)
    (wanted,), (got,) = gradients(naive(*given), head), gradients(chunked(*given, max_elements=90), head)
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("learning", ["tokens", "trunk", "prototypes"])
def test_what_of_the_target_does_not_learn_is_left_out(learning: str):
    given = problem()
    _, student, teacher_tokens, teacher, *_ = given
    student.requires_grad_(False)
    parts = {"tokens": [teacher_tokens], "trunk": [*teacher.trunk.parameters()], "prototypes": [teacher.raw]}
    wanted = gradients(naive(*given), *parts[learning])
    for value in (given[0], teacher_tokens, *teacher.parameters()):
        value.requires_grad_(False)
    for value in parts[learning]:
        value.requires_grad_(True)
    chunked(*given, max_elements=90).backward()
    assert all(value.grad is None for name in parts if name != learning for value in parts[name])
    for value, (theirs,) in zip(parts[learning], wanted, strict=True):
        torch.testing.assert_close(value.grad, theirs, atol=1e-12, rtol=1e-10)


def test_a_target_without_gradient_is_a_constant_whatever_its_parts_ask_for():
    given = problem()
    chunked(*given, gradient=0.0).backward()
    assert given[2].grad is None and all(parameter.grad is None for parameter in given[3].parameters())
    with torch.no_grad():
        assert not chunked(*given).requires_grad


def test_under_bf16_autocast_the_targets_gradients_stay_within_bf16_rounding_of_the_definition():
    given = problem(num_tokens=64, dtype=torch.float32)
    wanted = gradients(naive(*given), given[2], given[3])
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            given[3](given[2])  # leaves casts without history in autocast's cache
        got = chunked(*given, max_elements=90)
    found = gradients(got, given[2], given[3])
    # Measured worst case: 1.1e-2 relative in norm.
    for mine, theirs in zip(found, wanted, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert one.dtype == torch.float32 and (one - other).norm() <= 2e-2 * other.norm()


def test_a_target_that_learns_costs_a_chunk_of_memory_and_not_the_logits():
    peaks = {}
    for gradient in (0.0, 1.0):
        given = problem(1024, torch.float32, width=64, hidden=64, bottleneck=32, num_prototypes=32_768)
        with Allocations() as allocations:
            chunked(*given, gradient=gradient, max_elements=2**22).backward()
        peaks[gradient] = allocations.peak
    logits, prototypes = 1024 * 32_768 * 4, 32_768 * 32 * 4
    # Measured: 1.1 times the prototypes, for their own gradient.
    assert peaks[1.0] - peaks[0.0] < 3 * prototypes < 0.1 * logits
