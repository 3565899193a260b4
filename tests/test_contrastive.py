"""Contrastive losses against their equations, and two ranks against one process.

Run as a script (`test_contrastive.py RANK FOLDER`) it is one of the two ranks.
"""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from distill.objective.contrastive import Temperatures, contrastive_loss

KINDS = ["softmax", "sigmoid"]


def temperatures(kind, num_cls=2):
    """Each pair with a temperature of its own; a bias that leaves gradients visible."""
    built = Temperatures(num_cls, temperature=0.2, kind=kind)
    with torch.no_grad():
        built.log_scale += torch.linspace(0, 0.7, num_cls)
        if built.bias is not None:
            built.bias.copy_(torch.linspace(-1, -2, num_cls))
    return built


def features(num_images=6, num_cls=2, width=5, dtype=torch.float32):
    torch.manual_seed(0)
    return torch.randn(num_images, num_cls, width).to(dtype), torch.randn(num_cls, num_images, width).to(dtype)


def infonce(image, text, scale, bias):
    """Cross-entropy of each image over captions and of each caption over images (CLIP, figure 3)."""
    scores = [[scale * a @ b / (a.norm() * b.norm()) for b in text] for a in image]
    rows = torch.stack([torch.stack(row) for row in scores])
    count = len(image)
    images = sum(torch.logsumexp(rows[i], 0) - rows[i, i] for i in range(count)) / count
    texts = sum(torch.logsumexp(rows[:, i], 0) - rows[i, i] for i in range(count)) / count
    return (images + texts) / 2


def siglip(image, text, scale, bias):
    """-1/B sum_ij log sigmoid(z_ij (t x_i y_j + b)), z = 1 on the diagonal and -1 off it (SigLIP, eq. 1)."""
    total = 0.0
    for i, a in enumerate(image):
        for j, b in enumerate(text):
            sign = 1 if i == j else -1
            total -= torch.log(torch.sigmoid(sign * (scale * a @ b / (a.norm() * b.norm()) + bias)))
    return total / len(image)


@pytest.mark.parametrize(("kind", "reference"), [("softmax", infonce), ("sigmoid", siglip)])
def test_each_cls_token_has_the_loss_of_the_equation_with_its_own_temperature(kind, reference):
    cls, text = features()
    learned = temperatures(kind)
    got = contrastive_loss(cls, text, temperatures=learned, kind=kind)
    for index in range(2):
        bias = None if learned.bias is None else learned.bias[index]
        expected = reference(cls[:, index], text[index], learned.log_scale[index].exp(), bias)
        torch.testing.assert_close(got[index], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_every_temperature_learns_from_its_own_loss_alone(kind):
    cls, text = features()
    learned = temperatures(kind)
    contrastive_loss(cls, text, temperatures=learned, kind=kind)[1].backward()
    assert learned.log_scale.grad[0] == 0
    assert learned.log_scale.grad[1] != 0


@pytest.mark.parametrize("kind", KINDS)
def test_one_cls_token_is_enough(kind):
    cls, text = features(num_cls=1)
    assert contrastive_loss(cls, text, temperatures=temperatures(kind, 1), kind=kind).shape == (1,)


def test_autocast_does_not_round_the_logits():
    cls, text = features()
    learned = temperatures("softmax")
    expected = contrastive_loss(cls, text, temperatures=learned, kind="softmax")
    with torch.autocast("cpu", torch.bfloat16):
        got = contrastive_loss(cls, text, temperatures=learned, kind="softmax")
    assert torch.equal(got, expected)


def test_bf16_features_are_taken():
    cls, text = features(dtype=torch.bfloat16)
    assert contrastive_loss(cls, text, temperatures=temperatures("softmax"), kind="softmax").dtype == torch.float32


def test_scales_are_kept_between_one_and_the_bound():
    learned = Temperatures(2, temperature=0.07, kind="softmax")
    torch.testing.assert_close(learned.log_scale.exp(), torch.full((2,), 1 / 0.07))
    with torch.no_grad():
        learned.log_scale.copy_(torch.tensor([9.0, -3.0]))
    learned.step()
    torch.testing.assert_close(learned.log_scale.detach(), torch.tensor([math.log(100), 0.0]))


@pytest.mark.parametrize("temperature", [0.005, 2.0])
def test_a_starting_temperature_that_the_bound_would_change_is_refused(temperature):
    with pytest.raises(ValueError, match="start inside it"):
        Temperatures(1, temperature=temperature, kind="softmax")


def test_a_wider_bound_allows_the_temperatures_tipsv2_released():
    Temperatures(2, temperature=0.0036, kind="softmax", max_scale=400.0)


def test_only_the_sigmoid_loss_has_a_bias():
    assert Temperatures(2, temperature=0.1, kind="softmax").bias is None
    assert Temperatures(2, temperature=0.1, kind="sigmoid").bias.tolist() == [-10, -10]


class Towers(nn.Module):
    """Something with parameters under both kinds of features."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.image, self.text = nn.Linear(5, 5), nn.Linear(5, 5)


def loss_and_gradients(kind, rows, **ranks):
    towers, learned = Towers(), temperatures(kind)
    cls, text = features()
    losses = contrastive_loss(
        towers.image(cls[rows]), towers.text(text[:, rows]), temperatures=learned, kind=kind, **ranks
    )
    losses.mean().backward()
    parameters = [*towers.parameters(), *learned.parameters()]
    return [losses.detach(), *(parameter.grad for parameter in parameters)]


def rank_main(rank: int, folder: Path) -> None:
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    mine = slice(3 * rank, 3 * rank + 3)
    torch.save([loss_and_gradients(kind, mine, rank=rank, world=2) for kind in KINDS], folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_the_mean_over_two_ranks_of_losses_and_gradients_is_that_of_the_global_batch(tmp_path):
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-W", "ignore", __file__]
    ranks = [
        subprocess.Popen([*arguments, str(rank), str(tmp_path)], env=environment, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=90)[1].decode() for rank in ranks]
    assert all(rank.returncode == 0 for rank in ranks), "\n".join(errors)
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for kind, first, second in zip(KINDS, *results, strict=True):
        expected = loss_and_gradients(kind, slice(None))
        assert not torch.equal(first[0], second[0])
        for one, two, whole in zip(first, second, expected, strict=True):
            torch.testing.assert_close((one + two) / 2, whole, atol=1e-6, rtol=1e-5)


def test_gradients_of_cached_features_are_those_of_the_whole_batch():
    """GradCache: differentiate by features, then feed those gradients back micro-batch by micro-batch."""
    expected = loss_and_gradients("softmax", slice(None))
    towers, learned = Towers(), temperatures("softmax")
    cls, text = features()
    with torch.no_grad():
        cached = [towers.image(cls).requires_grad_(), towers.text(text).requires_grad_()]
    contrastive_loss(*cached, temperatures=learned, kind="softmax").mean().backward()
    for rows in (slice(0, 2), slice(2, 6)):
        torch.autograd.backward(
            [towers.image(cls[rows]), towers.text(text[:, rows])], [cached[0].grad[rows], cached[1].grad[:, rows]]
        )
    parameters = [*towers.parameters(), *learned.parameters()]
    for parameter, whole in zip(parameters, expected[1:], strict=True):
        torch.testing.assert_close(parameter.grad, whole, atol=1e-6, rtol=1e-5)


def test_a_matching_pair_costs_less_than_a_mismatch():
    cls, _ = features()
    right = contrastive_loss(cls, cls.transpose(0, 1), temperatures=temperatures("softmax"), kind="softmax")
    wrong = contrastive_loss(cls, cls.transpose(0, 1).roll(1, 1), temperatures=temperatures("softmax"), kind="softmax")
    assert (right < wrong).all()
    assert functional.relu(right).equal(right)


if __name__ == "__main__":
    rank_main(int(sys.argv[1]), Path(sys.argv[2]))
