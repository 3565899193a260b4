"""Depth, normals and trained linear segmentation as tasks: what knows everything reaches the ceiling that its patch
grid allows, what knows nothing lands at the mean predictor, and every head runs from a recipe.
"""

import dataclasses
import json

import pytest
import torch
from jaxtyping import Bool, Float
from oracles import Listed, Painted, Spoken, know_nothing, painted
from test_eval_tasks import TINY, asking, written
from torch import Tensor, nn

from distill.config import Evaluate, InvalidCombination, Recipe, Scenes
from distill.contracts import ImageEncoder, Tokens
from distill.data.scenes import SceneWorld
from distill.encoders.dual import DualEncoder, build_dual
from distill.eval import depth, geometry_probes, normals, trained_segmentation
from distill.eval.command import evaluate_checkpoint
from distill.eval.depth import DepthSettings
from distill.eval.geometry import depth_result, depth_sums, normals_result, normals_sums
from distill.eval.geometry_sets import SceneGeometry
from distill.eval.in_training import evaluate_in_training
from distill.eval.normals import NormalsSettings
from distill.eval.probe_training import ProbeTraining
from distill.eval.trained_segmentation import NormedLinear, TrainedLinearSettings

PATCH = 4
QUICK = ProbeTraining(steps=150, lr=0.02, weight_decay=0.0, warmup=0.1, decay="cosine", batch_size=8, flip=0.5)


class Told(ImageEncoder):
    """A patch is the mean of what was painted into it, scaled; the same at every block, and in CLS the mean of all.

    With `deaf` it always says the same.
    """

    num_cls, num_layers = 1, 4

    def __init__(self, *, deaf: bool = False):
        super().__init__()
        self.width, self.patch_size, self.deaf = 8, PATCH, deaf
        mixed = torch.randn(8, 3, generator=torch.Generator().manual_seed(3))
        self.mixed = nn.Parameter(torch.linalg.qr(mixed).Q, requires_grad=False)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return height // PATCH, width // PATCH

    def forward(self, pixels: Float[Tensor, "B 3 H W"], hidden: Bool[Tensor, "B N"] | None = None) -> Tokens:
        means = nn.functional.avg_pool2d(pixels, PATCH).flatten(2).transpose(1, 2) * 4 - 2
        patches = (torch.zeros_like(means) if self.deaf else means) @ self.mixed.T + 0.5
        return Tokens(cls=patches.mean(1, keepdim=True), patches=patches, grid=self.grid(*pixels.shape[-2:]))

    def intermediate(self, pixels: Float[Tensor, "B 3 H W"], blocks: tuple[int, ...]) -> tuple[Tokens, ...]:
        return (self(pixels),) * len(blocks)


class TruthPainted:
    """Scenes whose pixels are their depth, in tens of metres, or their normals, moved into [0, 1]."""

    def __init__(self, split: str, num_images: int, what: str):
        self.scenes = SceneGeometry(SceneWorld(Scenes(num_train=64), 32), split, num_images, what)
        self.what = what

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels, truth = self.batch(index, index + 1)
        return pixels[0], truth[0]

    def batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        truth = self.scenes.batch(start, stop)[1]
        if self.what == "depth":
            return (truth[:, None] / 10).expand(-1, 3, -1, -1).contiguous(), truth
        return (truth + 1) / 2, truth


def told(*, deaf: bool = False) -> DualEncoder:
    return DualEncoder(Told(deaf=deaf), None)


@pytest.fixture(scope="module")
def deep() -> tuple[TruthPainted, TruthPainted]:
    return TruthPainted("train", 48, "depth"), TruthPainted("heldout", 12, "depth")


@pytest.fixture(scope="module")
def facing() -> tuple[TruthPainted, TruthPainted]:
    return TruthPainted("train", 48, "normals"), TruthPainted("heldout", 12, "normals")


def through_the_grid(truth: Tensor, *, unit: bool = False) -> Tensor:
    """What is left of a truth [B, K, H, W] that only patch means are known of, or their directions."""
    means = nn.functional.avg_pool2d(truth, PATCH)
    means = nn.functional.normalize(means, dim=1) if unit else means
    return nn.functional.interpolate(means, truth.shape[-2:], mode="bilinear")


def depth_of_nothing(train: TruthPainted, data: TruthPainted) -> float:
    """RMSE of the mean depth of the training pictures."""
    truth = data.batch(0, len(data))[1]
    guess = train.batch(0, len(train))[1].mean()
    return depth_result(depth_sums(guess.expand_as(truth), truth, truth > 0), {}).values["rmse_metres"]


def turn_of_nothing(train: TruthPainted, data: TruthPainted) -> float:
    """RMSE of the mean normal of the training pictures."""
    truth = data.batch(0, len(data))[1]
    guess = train.batch(0, len(train))[1].mean((0, 2, 3))[:, None, None].expand_as(truth)
    return normals_result(normals_sums(guess, truth, truth[:, 0] > -9), {}).values["rmse_degrees"]


def test_ridge_on_the_true_depth_reaches_what_the_patch_grid_allows(deep):
    truth = deep[1].batch(0, 12)[1]
    left = through_the_grid(truth[:, None])[:, 0]
    ceiling = depth_result(depth_sums(left, truth, truth > 0), {}).values
    found = depth.evaluate(told(), *deep, DepthSettings(head="ridge", short_side=None, ridge=1e-9)).values
    for name, value in ceiling.items():
        assert found[name] == pytest.approx(value, abs=1e-4), name
    assert found["rmse_metres"] < 0.4 * depth_of_nothing(*deep)


def test_ridge_on_the_true_normals_reaches_what_the_patch_grid_allows(facing):
    truth = facing[1].batch(0, 12)[1]
    left = through_the_grid(truth, unit=True)
    ceiling = normals_result(normals_sums(left, truth, truth[:, 0] > -9), {}).values
    found = normals.evaluate(told(), *facing, NormalsSettings(head="ridge", short_side=None, ridge=1e-9)).values
    print(found, ceiling, turn_of_nothing(*facing))
    assert found["rmse_degrees"] == pytest.approx(ceiling["rmse_degrees"], abs=0.5)
    assert found["rmse_degrees"] < 0.6 * turn_of_nothing(*facing)


@pytest.mark.parametrize("head", ["linear", "dpt"])
def test_a_trained_head_reads_depth_that_is_there(head, deep, monkeypatch):
    monkeypatch.setattr(geometry_probes, "CHANNELS", 16)
    training = QUICK if head == "linear" else dataclasses.replace(QUICK, lr=3e-3, steps=100)
    settings = DepthSettings(head=head, training=training, num_bins=32, short_side=None)
    found = depth.evaluate(told(), *deep, settings).values
    print(head, found, depth_of_nothing(*deep))
    assert found["rmse_metres"] < 0.6 * depth_of_nothing(*deep)


@pytest.mark.parametrize("head", ["linear", "dpt"])
def test_a_trained_head_reads_normals_that_are_there(head, facing, monkeypatch):
    monkeypatch.setattr(geometry_probes, "CHANNELS", 16)
    training = QUICK if head == "linear" else dataclasses.replace(QUICK, lr=3e-3, steps=100)
    settings = NormalsSettings(head=head, training=training, short_side=None)
    found = normals.evaluate(told(), *facing, settings).values
    print(head, found, turn_of_nothing(*facing))
    assert found["rmse_degrees"] < 0.7 * turn_of_nothing(*facing)


@pytest.mark.parametrize("head", ["ridge", "linear"])
def test_features_that_say_nothing_land_at_the_mean_predictor(head, deep, facing):
    found = depth.evaluate(
        told(deaf=True), *deep, DepthSettings(head=head, training=QUICK, num_bins=32, short_side=None)
    ).values["rmse_metres"]
    print(head, found, depth_of_nothing(*deep))
    turned = normals.evaluate(
        told(deaf=True), *facing, NormalsSettings(head=head, training=QUICK, short_side=None)
    ).values["rmse_degrees"]
    print(head, turned, turn_of_nothing(*facing))
    tolerance = 1e-4 if head == "ridge" else 0.1
    assert found == pytest.approx(depth_of_nothing(*deep), rel=tolerance)
    assert turned == pytest.approx(turn_of_nothing(*facing), rel=tolerance)


def test_features_of_noise_land_near_the_mean_predictor(deep):
    """A random layer on pixels of noise: nothing in it knows of depth."""

    class Noisy(TruthPainted):
        def batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
            pixels, truth = super().batch(start, stop)
            return torch.rand(pixels.shape, generator=torch.Generator().manual_seed(start)), truth

    sets = (Noisy("train", 48, "depth"), Noisy("heldout", 12, "depth"))
    found = depth.evaluate(know_nothing(patch_size=PATCH), *sets, DepthSettings(head="ridge", short_side=None)).values
    print(found, depth_of_nothing(*deep))
    assert found["rmse_metres"] == pytest.approx(depth_of_nothing(*deep), rel=0.05)
