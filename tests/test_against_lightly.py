"""Our losses against lightly 1.6's, where both define the same thing.

Same: softmax((scores - centre) / temperature) targets, cross-entropy per token, per-image means over masked patches
(IBOTPatchLoss = masked/per_image), masked mean + weight * visible mean (IBOTPlusPlusPatchLoss with a mask =
all/ibot_plus_visible), a mean over all patches (IBOTPlusPlusPatchLoss without = all/per_image), the centre's rule.
Different: lightly takes finished [tokens, prototypes] logits and holds them; it moves the centre in every forward,
ours once per optimiser step; over ranks it averages the ranks' means, ours is the mean over all tokens. DINOLoss
leaves out the pairs of equal view index (its views are global crops on both sides); L_DINO here has none to leave
out, so one placeholder student view stands in for the teacher's own.
"""

import pytest
import torch
from lightly.loss import DINOLoss, IBOTPatchLoss
from lightly.loss.ibot_loss import IBOTPlusPlusPatchLoss
from torch import nn
from torch.nn import functional

from distill.objective.balance import Balance, centre_offset
from distill.objective.patch import patch_weights, select
from distill.objective.prototypes import Target, prototype_cross_entropy

K, D = 24, 8
STUDENT, TEACHER = 0.1, 0.05
HIDDEN = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]]).bool()


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.raw = nn.Parameter(torch.randn(K, D))

    def forward(self, tokens):
        return functional.normalize(tokens, dim=-1)

    def prototypes(self):
        return functional.normalize(self.raw, dim=-1)


def scores(head, tokens):
    return head(tokens) @ head.prototypes().T


@pytest.fixture
def world():
    """Student tokens, teacher tokens, head, centre."""
    torch.manual_seed(0)
    student = torch.randn(4, 6, D, requires_grad=True)
    return student, torch.randn(4, 6, D), Head(), 0.3 * torch.randn(K)


def ours(world, weights):
    student, teacher, head, centre = world
    chosen = select(student, weights)
    target = Target(
        features=head(teacher).detach().flatten(0, 1)[chosen.index],
        prototypes=head.prototypes().detach(),
        offset=centre_offset(centre, temperature=TEACHER),
        temperature=TEACHER,
    )
    return prototype_cross_entropy(
        chosen.tokens, student_head=head, target=target, student_temperature=STUDENT, weights_M=chosen.weights,
        max_elements=5 * K,
    ).loss  # fmt: skip


def same_value_and_gradient(mine, theirs, student, head):
    torch.testing.assert_close(mine, theirs)
    wanted = torch.autograd.grad(theirs, [student, head.raw])
    for got, expected in zip(torch.autograd.grad(mine, [student, head.raw]), wanted, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-4)


def lightly_loss(kind, centre):
    loss = kind(output_dim=K, teacher_temp=TEACHER, student_temp=STUDENT)
    loss.center.center.copy_(centre)
    return loss


def test_masked_per_image_is_lightlys_ibot(world):
    student, teacher, head, centre = world
    mask = HIDDEN.view(4, 2, 3)
    theirs = lightly_loss(IBOTPatchLoss, centre)(
        scores(head, teacher[HIDDEN]).detach(), scores(head, student[HIDDEN]), mask
    )
    weights = patch_weights(HIDDEN, supervise="masked", normalise="per_image", visible_weight=1.0)
    same_value_and_gradient(ours(world, weights), theirs, student, head)


@pytest.mark.parametrize("visible_weight", [0.0, 0.5, 1.0])
def test_ibot_plus_visible_is_lightlys_ibot_plus_plus_with_a_mask(world, visible_weight):
    student, teacher, head, centre = world
    theirs = lightly_loss(IBOTPlusPlusPatchLoss, centre)(
        scores(head, teacher).detach(), scores(head, student), HIDDEN, visible_loss_weight=visible_weight
    )
    weights = patch_weights(HIDDEN, supervise="all", normalise="ibot_plus_visible", visible_weight=visible_weight)
    same_value_and_gradient(ours(world, weights), theirs, student, head)


def test_all_per_image_is_lightlys_ibot_plus_plus_without_a_mask(world):
    student, teacher, head, centre = world
    theirs = lightly_loss(IBOTPlusPlusPatchLoss, centre)(scores(head, teacher).detach(), scores(head, student))
    weights = patch_weights(HIDDEN, supervise="all", normalise="per_image", visible_weight=1.0)
    same_value_and_gradient(ours(world, weights), theirs, student, head)


def test_the_mean_over_local_crops_is_lightlys_dino_loss(world):
    student, teacher, head, centre = world
    theirs = DINOLoss(output_dim=K, teacher_temp=TEACHER, student_temp=STUDENT)
    theirs.center.copy_(centre)
    crops = [scores(head, student[:, crop]) for crop in range(6)]
    expected = theirs([scores(head, teacher[:, 0]).detach()], [torch.zeros(4, K), *crops])
    features = head(teacher[:, 0]).detach().repeat(6, 1)
    target = Target(features, head.prototypes().detach(), centre_offset(centre, temperature=TEACHER), TEACHER)
    local = student.transpose(0, 1).flatten(0, 1)
    mine = prototype_cross_entropy(
        local, student_head=head, target=target, student_temperature=STUDENT, weights_M=torch.full((24,), 1 / 24)
    )
    same_value_and_gradient(mine.loss, expected, student, head)


def test_the_centre_moves_as_lightlys(world):
    student, teacher, head, centre = world
    theirs = lightly_loss(IBOTPlusPlusPatchLoss, centre)
    theirs(scores(head, teacher).detach(), scores(head, student).detach())
    mine = Balance(K, kind="centre", momentum=0.9, iterations=1)
    mine.centre.copy_(centre)
    mine.observe(head(teacher).flatten(0, 1).detach(), prototypes_Kd=head.prototypes().detach())
    mine.step()
    torch.testing.assert_close(mine.centre, theirs.center.value[0])
