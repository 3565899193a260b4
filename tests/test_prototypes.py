"""Chunked prototype cross-entropy and balancing against versions written straight from their definitions.

Run as a script (`test_prototypes.py RANK FOLDER`) it is one of two ranks of the tests on distributed statistics.
"""

import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from distill.objective.balance import Balance, centre_offset, sinkhorn_offset
from distill.objective.prototypes import Target, bottleneck, prototype_cross_entropy
from distill.objective.standardise import Standardiser


class TinyHead(nn.Module):
    """The contract of a projection head, in any precision."""

    def __init__(self, width=12, hidden=20, bottleneck=6, num_prototypes=30):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, bottleneck))
        self.raw = nn.Parameter(torch.randn(num_prototypes, bottleneck))

    def forward(self, tokens):
        z = self.trunk(tokens)
        return functional.normalize(z if z.dtype == torch.float64 else z.float(), dim=-1)

    def prototypes(self):
        return functional.normalize(self.raw, dim=-1)


def batch(num_tokens=17, dtype=torch.float64, seed=0, **sizes):
    torch.manual_seed(seed)
    student, teacher = TinyHead(**sizes).to(dtype), TinyHead(**sizes).to(dtype).requires_grad_(False)
    width = student.trunk[0].in_features
    tokens = torch.randn(num_tokens, width, dtype=dtype)
    target = Target(
        features=bottleneck(torch.randn(num_tokens, width, dtype=dtype), head=teacher, rows=5),
        prototypes=teacher.prototypes(),
        offset=torch.randn(len(teacher.raw), dtype=dtype),
        temperature=0.05,
    )
    return student, tokens.requires_grad_(), target, torch.rand(num_tokens, dtype=dtype)


def naive(tokens, head, target, temperature, weights):
    """The three lines of the definition, with every [M, K] tensor alive."""
    targets = torch.softmax(target.features @ target.prototypes.T / target.temperature + target.offset, dim=1)
    with torch.autocast("cpu", enabled=False):
        z, prototypes = head(tokens), head.prototypes()
        logs = torch.log_softmax(z @ prototypes.T / temperature, dim=1)
    per_token = -(targets * logs).sum(1)
    return (weights * per_token).sum(), per_token


def chunked(tokens, head, target, weights, **options):
    return prototype_cross_entropy(
        tokens, student_head=head, target=target, student_temperature=0.1, weights_M=weights, **options
    )


def gradients(loss, tokens, head):
    head.zero_grad()
    tokens.grad = None
    loss.backward()
    return [tokens.grad.clone(), *(parameter.grad.clone() for parameter in head.parameters())]


@pytest.mark.parametrize("max_elements", [1, 30, 7 * 30, 2**22])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_chunks_of_any_size_give_the_values_and_gradients_of_the_definition(dtype, tolerance, max_elements):
    head, tokens, target, weights = batch(dtype=dtype)
    expected, expected_per_token = naive(tokens, head, target, 0.1, weights)
    wanted = gradients(expected * 3, tokens, head)
    got = chunked(tokens, head, target, weights, max_elements=max_elements)
    torch.testing.assert_close(got.loss, expected, atol=0, rtol=max(tolerance, 1e-12))
    torch.testing.assert_close(got.per_token, expected_per_token, atol=tolerance, rtol=tolerance)
    for mine, theirs in zip(gradients(got.loss * 3, tokens, head), wanted, strict=True):
        assert (mine - theirs).norm() <= tolerance * theirs.norm()


def test_under_bf16_autocast_the_gradients_stay_within_bf16_rounding_of_the_definition():
    head, tokens, target, weights = batch(dtype=torch.float32, num_tokens=64)
    wanted = gradients(naive(tokens, head, target, 0.1, weights)[0], tokens, head)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            head(tokens)  # leaves casts without history in autocast's cache
        got = chunked(tokens, head, target, weights, max_elements=90)
    assert got.loss.dtype == torch.float32
    # Worst measured over ten seeds: 1.1e-2 relative in norm; one bf16 rounding is 4e-3.
    for mine, theirs in zip(gradients(got.loss, tokens, head), wanted, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - theirs).norm() <= 2e-2 * theirs.norm()


def test_a_frozen_head_gets_no_gradient_and_passes_it_on_to_the_tokens():
    head, tokens, target, weights = batch()
    wanted = gradients(naive(tokens, head, target, 0.1, weights)[0], tokens, head)[0]
    head.zero_grad()
    head.requires_grad_(False)
    tokens.grad = None
    chunked(tokens, head, target, weights, max_elements=90).loss.backward()
    torch.testing.assert_close(tokens.grad, wanted)
    assert all(parameter.grad is None for parameter in head.parameters())


def test_only_the_prototypes_may_train():
    head, tokens, target, weights = batch()
    wanted = gradients(naive(tokens, head, target, 0.1, weights)[0], tokens, head)[1:]
    head.zero_grad()
    head.trunk.requires_grad_(False)
    chunked(tokens.detach(), head, target, weights, max_elements=90).loss.backward()
    torch.testing.assert_close(head.raw.grad, wanted[0])  # the head lists its own parameter first
    assert all(parameter.grad is None for parameter in head.trunk.parameters())


def test_tokens_without_history_still_train_the_head():
    head, tokens, target, weights = batch()
    wanted = gradients(naive(tokens, head, target, 0.1, weights)[0], tokens, head)[1:]
    head.zero_grad()
    chunked(tokens.detach(), head, target, weights, max_elements=90).loss.backward()
    for parameter, theirs in zip(head.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, theirs)


def test_without_gradients_the_value_is_the_same_and_has_no_history():
    head, tokens, target, weights = batch()
    with torch.no_grad():
        silent = chunked(tokens, head, target, weights)
    assert not silent.loss.requires_grad
    torch.testing.assert_close(silent.loss, chunked(tokens, head, target, weights).loss.detach())


def test_no_tokens_at_all_cost_nothing_and_still_reach_the_head():
    head, tokens, target, weights = batch()
    empty = Target(target.features[:0], target.prototypes, target.offset, target.temperature)
    got = chunked(tokens[:0], head, empty, weights[:0])
    got.loss.backward()
    assert got.loss == 0
    assert head.raw.grad.abs().sum() == 0


def test_a_prediction_equal_to_its_target_has_no_gradient():
    head, tokens, _, weights = batch()
    same = Target(head(tokens).detach(), head.prototypes().detach(), torch.zeros(30, dtype=torch.float64), 0.1)
    got = chunked(tokens, head, same, weights, max_elements=90)
    got.loss.backward()
    assert got.loss > 0.5
    assert tokens.grad.abs().max() < 1e-12


class Allocations(TorchDispatchMode):
    """Bytes of live storages made while it is on, and their peak."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        given = {leaf.untyped_storage()._cdata for leaf in tree_iter((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        for leaf in tree_iter(made):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in given:
                self._count(leaf.untyped_storage())
        return made

    def _count(self, storage):
        if storage in self.known:
            return
        self.known.add(storage)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, storage.nbytes())

    def _forget(self, num_bytes):
        self.live -= num_bytes


def peak_bytes(loss_of):
    head, tokens, target, weights = batch(
        1024, torch.float32, width=64, hidden=64, bottleneck=32, num_prototypes=32_768
    )
    with Allocations() as allocations:
        loss_of(head, tokens, target, weights).backward()
    return allocations.peak


def first(target, count):
    return Target(target.features[:count], target.prototypes, target.offset, target.temperature)


def test_hearing_all_tokens_needs_no_more_memory_than_a_quarter_of_them_and_far_less_than_the_logits():
    everything = peak_bytes(lambda head, tokens, target, weights: chunked(tokens, head, target, weights).loss)
    masked = peak_bytes(
        lambda head, tokens, target, weights: chunked(tokens[:256], head, first(target, 256), weights[:256]).loss
    )
    whole = peak_bytes(lambda head, tokens, target, weights: naive(tokens, head, target, 0.1, weights)[0])
    print(f"peak MiB: all {everything / 2**20:.1f}, quarter {masked / 2**20:.1f}, naive {whole / 2**20:.1f}")
    assert whole > 3 * 1024 * 32_768 * 4  # the tracker sees several logits-sized tensors
    assert everything <= 1.1 * masked
    assert everything <= 0.25 * whole


def dense_sinkhorn(scores, temperature, iterations):
    """SwAV's algorithm 1 (supplement), line by line, on the whole [K, M] matrix. Returns the [M, K] assignment."""
    q = torch.exp(scores / temperature).T
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(1, keepdim=True) / q.shape[0]
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


@pytest.mark.parametrize("iterations", [1, 3, 10])
@pytest.mark.parametrize("max_elements", [1, 90, 2**22])
def test_softmax_with_the_sinkhorn_offset_is_dense_sinkhorn(iterations, max_elements):
    _, _, target, _ = batch(num_tokens=40)
    scores = target.features @ target.prototypes.T
    offset = sinkhorn_offset(
        target.features,
        prototypes_Kd=target.prototypes,
        temperature=0.05,
        iterations=iterations,
        max_elements=max_elements,
    )
    wanted = dense_sinkhorn(scores, 0.05, iterations)
    torch.testing.assert_close(torch.softmax(scores / 0.05 + offset, 1), wanted, atol=1e-10, rtol=1e-8)


def test_sinkhorn_leaves_tokens_of_weight_zero_out_and_counts_others_as_often_as_they_weigh():
    _, _, target, _ = batch(num_tokens=6)
    options = {"prototypes_Kd": target.prototypes, "temperature": 0.05, "iterations": 3, "max_elements": 60}
    weights = torch.tensor([1.0, 2.0, 0.0, 1.0, 0.0, 3.0], dtype=torch.float64)
    repeated = target.features.repeat_interleave(weights.long(), dim=0)
    torch.testing.assert_close(
        sinkhorn_offset(target.features, weights_M=weights, **options), sinkhorn_offset(repeated, **options)
    )


def test_sinkhorn_spreads_the_tokens_over_prototypes_at_a_temperature_where_exponentials_overflow():
    _, _, target, _ = batch(num_tokens=300, dtype=torch.float32)
    options = {"prototypes_Kd": target.prototypes, "temperature": 0.005, "iterations": 60}
    offset = sinkhorn_offset(target.features, **options)
    share = torch.softmax(target.features @ target.prototypes.T / 0.005 + offset, 1).mean(0)
    assert offset.isfinite().all()
    assert share.min() > 0.5 / 30


def test_without_tokens_the_sinkhorn_offset_is_zero():
    _, _, target, _ = batch()
    offset = sinkhorn_offset(target.features[:0], prototypes_Kd=target.prototypes, temperature=0.1, iterations=3)
    assert (offset == 0).all()


def balance(**options):
    return Balance(30, **{"kind": "centre", "momentum": 0.9, "iterations": 3} | options)


def test_the_centre_moves_once_a_step_by_the_mean_over_all_micro_batches():
    _, _, target, _ = batch(num_tokens=20, dtype=torch.float32)
    centring = balance()
    options = {"prototypes_Kd": target.prototypes}
    for rows in (slice(0, 3), slice(3, 20)):
        centring.observe(target.features[rows], **options)
        before = centring.offset(target.features[rows], temperature=0.1, **options)
        assert (before == 0).all()
    centring.step()
    expected = 0.1 * (target.features @ target.prototypes.T).mean(0)
    torch.testing.assert_close(centring.centre, expected)
    centring.step()
    torch.testing.assert_close(centring.centre, expected)  # nothing was observed in between
    offset = centring.offset(target.features, temperature=0.1, **options)
    torch.testing.assert_close(offset, centre_offset(expected, temperature=0.1))
    assert set(centring.state_dict()) == {"centre"}
    centring.observe(target.features[:3], **options)
    centring.step()  # the first step's observations are spent
    torch.testing.assert_close(
        centring.centre, 0.9 * expected + 0.1 * (target.features[:3] @ target.prototypes.T).mean(0)
    )


def rank_main(rank: int, folder: Path) -> None:
    """Rank 0 holds 4 of 11 tokens, rank 1 the others."""
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    _, _, target, _ = batch(num_tokens=11, dtype=torch.float32)
    mine = target.features[:4] if rank == 0 else target.features[4:]
    options = {"prototypes_Kd": target.prototypes}
    offset = sinkhorn_offset(mine, temperature=0.05, iterations=3, **options)
    centring = balance()
    centring.observe(mine, **options)
    observed = centring.observed_sum.clone()
    centring.step()
    lonely = sinkhorn_offset(mine[: 4 * rank], temperature=0.05, iterations=3, **options)
    standardise = Standardiser(6, momentum=0.9)
    standardise.observe(mine)
    standardise.step()
    statistics = torch.stack([standardise.mean, standardise.variance])
    torch.save([offset, centring.centre, lonely, statistics, observed], folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_ranks_with_unequal_token_counts_agree_with_one_process(tmp_path):
    results = run_two_ranks(__file__, tmp_path)
    _, _, target, _ = batch(num_tokens=11, dtype=torch.float32)
    options = {"prototypes_Kd": target.prototypes}
    centring = balance()
    centring.observe(target.features, **options)
    centring.step()
    mean, variance = target.features.mean(0), target.features.var(0, correction=0)
    for offset, centre, lonely, statistics, _ in results:
        wanted = sinkhorn_offset(target.features, temperature=0.05, iterations=3, **options)
        torch.testing.assert_close(offset, wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(centre, centring.centre)
        wanted = sinkhorn_offset(target.features[4:8], temperature=0.05, iterations=3, **options)
        torch.testing.assert_close(lonely, wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(statistics, torch.stack([mean, variance]))
    assert not torch.equal(results[0][-1], results[1][-1])  # what a rank observed was not changed by the others


def run_two_ranks(script: str, folder: Path) -> list:
    """Start `script RANK FOLDER` twice and return what they saved."""
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen([sys.executable, script, str(rank), str(folder)], env=environment, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=90)[1].decode() for rank in ranks]
    assert all(rank.returncode == 0 for rank in ranks), "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


if __name__ == "__main__":
    rank_main(int(sys.argv[1]), Path(sys.argv[2]))
