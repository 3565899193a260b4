"""Clusters of a teacher's features: found, balanced, revived, and the same however a batch is cut."""

import copy
from pathlib import Path

import pytest
import torch
from tiny_runs import to_the_bit, trained
from torch import Tensor
from torch.nn.functional import normalize

from distill.objective.balance import sinkhorn_offset
from distill.objective.clusters import EMPTY, Clusters
from distill.objective.standardise import Standardiser
from distill.train import checkpoint
from distill.trained import load_trained

WIDTH, KINDS = 12, 6


def mixture(tokens: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Tokens of six kinds around a common mean, some dimensions a hundred times as large; and which kind each is."""
    centres = torch.randn(KINDS, WIDTH, generator=torch.Generator().manual_seed(77))
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(KINDS, (tokens,), generator=generator)
    scale = torch.ones(WIDTH)
    scale[:2] = 100.0
    return (centres[kind] + 0.2 * torch.randn(tokens, WIDTH, generator=generator)) * scale + 5.0, kind


def fresh(num_clusters: int = KINDS, *, momentum: float = 0.9, seed: int = 0) -> Clusters:
    standardiser = Standardiser(WIDTH, momentum=0.99)
    return Clusters(WIDTH, num_clusters=num_clusters, momentum=momentum, standardiser=standardiser, seed=seed)


def offset_of(clusters: Clusters, *batches: Tensor) -> Tensor:
    features = torch.cat([clusters(batch) for batch in batches])
    return sinkhorn_offset(features, prototypes_Kd=clusters.prototypes(), temperature=0.1, iterations=3)


def take_step(clusters: Clusters, *batches: Tensor) -> None:
    offset = offset_of(clusters, *batches)
    for batch in batches:
        clusters.observe(batch, clusters(batch), offset_K=offset, temperature=0.1)
    clusters.step()


def assignment(clusters: Clusters, batch: Tensor) -> Tensor:
    scores = clusters(batch) @ clusters.prototypes().T / 0.1
    return (scores + offset_of(clusters, batch)).softmax(1)


def test_clusters_find_the_kinds_of_tokens_and_give_each_its_share():
    clusters = fresh()
    for step in range(60):
        take_step(clusters, mixture(96, seed=step)[0])
    tokens, kind = mixture(600, seed=1000)
    found = assignment(clusters, tokens)
    table = torch.zeros(KINDS, KINDS).index_put_((kind, found.argmax(1)), torch.ones(600), accumulate=True)
    assert table.amax(0).sum() / 600 > 0.97  # purity
    torch.testing.assert_close(found.mean(0), torch.full((KINDS,), 1 / KINDS), atol=0.02, rtol=0)


def test_one_step_is_the_mean_of_what_was_assigned():
    clusters = fresh()
    first, second = mixture(64, seed=0)[0], mixture(64, seed=1)[0]
    before = clusters.sums.clone()
    take_step(clusters, first)
    assert torch.equal(clusters.sums, before) and clusters.standardiser.num_steps == 1  # measured only
    assigned, features = assignment(clusters, second), clusters(second)
    take_step(clusters, second)
    means = assigned.T @ features / 64
    torch.testing.assert_close(clusters.sums, means)  # the first average holds nothing else
    torch.testing.assert_close(clusters.prototypes(), normalize(means, dim=-1))
    third = mixture(64, seed=2)[0]
    expected = assignment(clusters, third).T @ clusters(third) / 64
    rate = 0.1 / (1 - 0.9**2)
    take_step(clusters, third)
    torch.testing.assert_close(clusters.sums, (1 - rate) * means + rate * expected)


def test_micro_batches_fit_what_one_batch_fits():
    whole, pieces = fresh(), fresh()
    for step in range(4):
        tokens = mixture(60, seed=step)[0]
        take_step(whole, tokens)
        take_step(pieces, *tokens.split([7, 33, 20]))
    for ours, theirs in zip(pieces.state_dict().values(), whole.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_chunks_do_not_change_a_fit():
    whole, chunks = fresh(), fresh()
    tokens = mixture(50, seed=0)[0]
    for clusters, bound in ((whole, None), (chunks, 3 * KINDS)):
        options = {"offset_K": offset_of(clusters, tokens), "temperature": 0.1, "max_elements": bound}
        clusters.observe(tokens, clusters(tokens), **options)
    torch.testing.assert_close(chunks.observed_sums, whole.observed_sums)
    assert torch.equal(chunks.observed_choices, whole.observed_choices)


def test_a_cluster_that_nobody_chooses_takes_half_of_the_most_chosen_one():
    clusters = fresh(num_clusters=KINDS + 1)
    for step in range(40):
        take_step(clusters, mixture(96, seed=step)[0])
    clusters.first_choices.copy_(torch.tensor([0.3, 0.0, 0.15, 0.14, 0.1, 0.1, 0.21]))
    before, shares = clusters.prototypes().clone(), clusters.first_choices.clone()
    twin = copy.deepcopy(clusters)
    for each in (clusters, twin):
        each._revive()
    assert torch.equal(clusters.sums, twin.sums)
    after = clusters.prototypes()
    moved = [k for k in range(KINDS + 1) if not torch.equal(after[k], before[k])]
    assert moved == [0, 1]
    assert (after[:2] @ before[0] > 0.98).all() and after[0] @ after[1] < 0.999
    torch.testing.assert_close(clusters.first_choices[:2], shares[:1].repeat(2) / 2)
    torch.testing.assert_close(clusters.first_choices.sum(), shares.sum())


def test_lost_clusters_find_tokens_again():
    """Centroids that lie together, far from everything, get a little of all tokens and are nobody's first choice."""
    clusters = fresh(num_clusters=2 * KINDS, momentum=0.8)
    take_step(clusters, mixture(240, seed=0)[0])
    take_step(clusters, mixture(240, seed=1)[0])
    clusters.sums[:4] = clusters.sums[0]
    fewest = []
    for step in range(60):
        take_step(clusters, mixture(240, seed=2 + step)[0])
        fewest.append(float(clusters.first_choices.min()) * 2 * KINDS)
    assert min(fewest) < 0.05 and fewest[-1] > EMPTY
    assert clusters.prototypes().unique(dim=0).shape[0] == 2 * KINDS


def test_without_tokens_nothing_moves():
    clusters = fresh()
    take_step(clusters, mixture(60, seed=0)[0])
    take_step(clusters, mixture(60, seed=1)[0])
    before = {name: value.clone() for name, value in clusters.state_dict().items()}
    clusters.step()
    assert all(torch.equal(value, before[name]) for name, value in clusters.state_dict().items())
    assert not list(clusters.parameters())


@pytest.fixture(scope="module")
def headless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of captions alone: a teacher without a head."""
    folder = tmp_path_factory.mktemp("headless") / "run"
    return trained(folder, "optim.steps=2", "objective.patch.supervise=none")


def on_clusters(teacher: Path) -> tuple[str, ...]:
    return (
        "teacher.kind=frozen",
        f"teacher.checkpoint={teacher}",
        "objective.patch.target=clusters",
        "objective.prototypes.balance=sinkhorn",
    )


def test_a_run_on_clusters_goes_on_to_the_bit_and_leaves_a_student_with_a_head(headless: Path, tmp_path: Path):
    crops = ("objective.cls.weight=1", "data.views.num_local=2", "student.head.shared=false")
    settings = (*on_clusters(headless), *crops, "run.checkpoint_every=3")
    whole = trained(tmp_path / "whole", *settings)
    halves = trained(tmp_path / "halves", *settings)
    later = checkpoint.folder_of(halves, 6)
    (later / "student.safetensors").unlink()  # not whole any more: the run goes on after step 3
    (halves / "summary.json").unlink()
    trained(tmp_path / "halves", *settings)
    assert to_the_bit(halves) == to_the_bit(whole)
    for name in ("student", "objective", "optimizer"):
        ours, theirs = checkpoint.find(halves).tensors(name), checkpoint.find(whole).tensors(name)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    kept = checkpoint.find(whole).tensors("objective")
    assert {"transfer.prototypes.patch_clusters.sums", "transfer.prototypes.cls_clusters.sums"} <= set(kept)
    assert kept["transfer.prototypes.patch_clusters.num_steps"] == 5  # the first step measured
    student = load_trained(whole)
    assert student.heads.patch is not None and student.heads.patch is not student.heads.cls


def test_a_prototype_teacher_without_a_head_is_refused_and_told_of_clusters(headless: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"use objective\.patch\.target=clusters"):
        trained(tmp_path / "run", "teacher.kind=frozen", f"teacher.checkpoint={headless}")
