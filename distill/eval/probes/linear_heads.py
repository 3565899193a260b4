"""Linear classifiers on frozen features, two ways: stochastic gradient descent as in DINOv2, and L-BFGS.

Both train one head for each candidate of the one setting that has to be chosen, learning rate or penalty.
Legend: n pictures, B of a batch, D width, K classes, R candidates.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from distill.eval.metrics import MAX_ELEMENTS

MOMENTUM = 0.9
INITIAL_DEVIATION = 0.01
MAX_ITERATIONS = 500


@dataclass(frozen=True)
class Heads:
    """One linear map from features to class scores for each candidate."""

    weight_RKD: Float[Tensor, "R K D"]
    bias_RK: Float[Tensor, "R K"]

    def classes(self, features_nD: Float[Tensor, "n D"], rows_m: Int[Tensor, " m"] | None = None) -> Int[Tensor, "R m"]:
        """The class with the highest score, the lower of equal ones, of every row or of some; on the CPU."""
        step, device = max(1, MAX_ELEMENTS // self.bias_RK.numel()), self.bias_RK.device
        if rows_m is None:
            parts = features_nD.split(step)
        else:
            parts = (features_nD[rows_b] for rows_b in rows_m.to(features_nD.device).split(step))
        answers = [
            (torch.einsum("bd,rkd->rbk", part_BD.to(device), self.weight_RKD) + self.bias_RK[:, None]).argmax(2).cpu()
            for part_BD in parts
        ]
        return torch.cat(answers, dim=1)


def descend(
    features_nD: Float[Tensor, "n D"],
    label_n: Int[Tensor, " n"],
    *,
    num_classes: int,
    rates: tuple[float, ...],
    steps: int,
    batch_size: int,
    seed: int,
    rows_m: Int[Tensor, " m"] | None = None,
    device: torch.device | None = None,
) -> Heads:
    """SGD on the cross-entropy, momentum 0.9, no weight decay, learning rates that fall to 0 along a half cosine.

    The rates are for batches of 256 and grow with the batch, which is the whole set where that is smaller. All heads
    see the same batches: epochs in random order from the seed. float32, on the features' device or batch by batch on
    another one. `rows_m`: the pictures that are seen, all when not given; the others need not be cut away.
    """
    device = features_nD.device if device is None else device
    generator = torch.Generator().manual_seed(seed)
    shape = (len(rates), num_classes, features_nD.shape[1])
    weight_RKD = (torch.randn(shape, generator=generator) * INITIAL_DEVIATION).to(device)
    bias_RK = torch.zeros_like(weight_RKD[..., 0])
    weight_moment, bias_moment = torch.zeros_like(weight_RKD), torch.zeros_like(bias_RK)
    rows_m = torch.arange(len(features_nD)) if rows_m is None else rows_m.cpu()
    batch_size = min(batch_size, len(rows_m))
    rate_R = torch.tensor(rates, device=device) * batch_size / 256
    label_n = label_n.to(features_nD.device)
    for step, order_B in zip(range(steps), _orders(len(rows_m), batch_size, generator), strict=False):
        rows_B = rows_m[order_B].to(features_nD.device)
        x_BD, y_B = features_nD[rows_B].to(device), label_n[rows_B].to(device)
        # The gradient of the mean cross-entropy in the scores: probabilities, less one for the right class.
        slope_RBK = (torch.einsum("bd,rkd->rbk", x_BD, weight_RKD) + bias_RK[:, None]).softmax(2)
        slope_RBK[:, torch.arange(batch_size, device=y_B.device), y_B] -= 1
        slope_RBK /= batch_size
        weight_moment.mul_(MOMENTUM).add_(torch.einsum("rbk,bd->rkd", slope_RBK, x_BD))
        bias_moment.mul_(MOMENTUM).add_(slope_RBK.sum(1))
        now_R = rate_R * (1 + math.cos(math.pi * step / steps)) / 2
        weight_RKD -= now_R[:, None, None] * weight_moment
        bias_RK -= now_R[:, None] * bias_moment
    return Heads(weight_RKD, bias_RK)


def minimise(
    features_nD: Float[Tensor, "n D"], label_n: Int[Tensor, " n"], *, num_classes: int, penalties: tuple[float, ...]
) -> Heads:
    """argmin over W, b of the mean cross-entropy of W z + b plus half a penalty times |W|², z standardised x.

    Scikit-learn's LogisticRegression with C = 1 / (n penalty). L-BFGS from 0 in float64, each penalty from the
    solution of the one before; the heads are returned in float32, for features that are not standardised.
    """
    x_nD, label_n = features_nD.double(), label_n.to(features_nD.device)
    mean_D, deviation_D = x_nD.mean(0), x_nD.std(0, correction=0)
    # A constant feature says nothing: dividing by 1 leaves it at 0.
    scale_D = torch.where(deviation_D > 1e-6, deviation_D, 1.0)
    z_nD = (x_nD - mean_D) / scale_D
    weight_KD = z_nD.new_zeros(num_classes, z_nD.shape[1], requires_grad=True)
    bias_K = z_nD.new_zeros(num_classes, requires_grad=True)
    heads = []
    for penalty in penalties:
        _solve(weight_KD, bias_K, z_nD, label_n, penalty)
        raw_KD = weight_KD.detach() / scale_D
        heads.append((raw_KD.float(), (bias_K.detach() - raw_KD @ mean_D).float()))
    weights, biases = zip(*heads, strict=True)
    return Heads(torch.stack(weights), torch.stack(biases))


@torch.enable_grad()
def _solve(weight_KD: Tensor, bias_K: Tensor, z_nD: Tensor, label_n: Tensor, penalty: float) -> None:
    """Move the weight and the bias to the minimum."""
    optimiser = torch.optim.LBFGS(
        [weight_KD, bias_K],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=1e-8,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = functional.cross_entropy(z_nD @ weight_KD.T + bias_K, label_n) + penalty / 2 * weight_KD.square().sum()
        value.backward()
        return value

    optimiser.step(loss)


def _orders(count: int, batch_size: int, generator: torch.Generator) -> Iterator[Int[Tensor, " B"]]:
    """Batches of one epoch after the other without end, each epoch in a new order; what fills no batch is skipped."""
    while True:
        order = torch.randperm(count, generator=generator)
        yield from order[: count // batch_size * batch_size].split(batch_size)
