"""Health of features: ranks and correlations against numpy, collapsed and robust encoders, settings and edges."""

import math

import numpy as np
import pytest
import torch
from oracles import Painted, Scrambled, all_knowing, know_nothing, painted

from distill.contracts import Tokens
from distill.encoders.dual import DualEncoder
from distill.eval import sanity
from distill.eval.tasks import health
from distill.eval.tasks.health import Correlation, HealthSettings, Spread, zoom


class Pictures:
    class_names = ("any",)
    ignore = -1

    def __init__(self, pictures: torch.Tensor):
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pictures[start:stop], torch.zeros(len(self.pictures[start:stop]), dtype=torch.long)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def blocks(count: int, *, num_classes: int = 4) -> Pictures:
    """Pictures of four painted quarters."""
    drawn = torch.randint(num_classes, (count, 2, 2), generator=torch.Generator().manual_seed(0))
    return Pictures(torch.stack([painted(each.repeat_interleave(16, 0).repeat_interleave(16, 1)) for each in drawn]))


class Changed(Painted):
    """What the tokens of `Painted` become is a test's choice."""

    def __init__(self, change, **sizes):
        super().__init__(**sizes)
        self.change = change

    def forward(self, pixels: torch.Tensor, hidden: torch.Tensor | None = None) -> Tokens:
        found = super().forward(pixels)
        return Tokens(cls=self.change(found.cls), patches=self.change(found.patches), grid=found.grid)


def changed(change) -> DualEncoder:
    return DualEncoder(Changed(change, num_classes=4, patch_size=8), None)


def test_the_rank_of_sums_is_that_of_the_vectors_themselves():
    x = random(90, 7) * torch.tensor([9.0, 5, 3, 1, 1, 0.1, 0]) + 4
    spread = Spread()
    for part in x.split(40):
        spread.add(part)
    centred = x.double() - x.double().mean(0)
    assert spread.rank == pytest.approx(sanity.effective_rank(centred), abs=1e-9)
    variances = np.linalg.eigvalsh(np.cov(x.double().numpy().T)).clip(0)
    shares = variances[variances > 0] / variances.sum()
    assert spread.rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), abs=1e-6)
    assert spread.alive == pytest.approx((centred.square().sum() / x.double().square().sum()).item(), abs=1e-9)
    assert spread.largest_rank == 7


def test_equal_directions_have_full_rank_and_one_direction_has_rank_one():
    full, line = Spread(), Spread()
    full.add(torch.cat([torch.eye(5), -torch.eye(5)]))
    line.add(torch.arange(10.0)[:, None] * torch.tensor([1.0, 2, 3]))
    assert full.rank == pytest.approx(5) and line.rank == pytest.approx(1)
    same = Spread()
    same.add(torch.ones(4, 3))
    assert same.alive == 0 and math.isnan(same.rank)


def test_the_correlation_is_numpy_s_over_all_dimensions_together():
    here = random(80, 3) + 2
    there = here * 0.5 + random(80, 3, seed=1) - 7
    found = Correlation()
    for a, b in zip(here.split(30), there.split(30), strict=True):
        found.add(a, b)
    a, b = (x.double().numpy() - x.double().numpy().mean(0) for x in (here, there))
    assert found.value == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], abs=1e-9)
    constant = Correlation()
    constant.add(here, torch.ones(80, 3))
    assert math.isnan(constant.value)


def test_zooming_shows_the_window_it_says():
    maps = random(2, 3, 8, 8)
    found = zoom(maps, torch.tensor([[0.0, 0.0], [0.0, 1.0]]), side=0.5, size=(4, 4))
    torch.testing.assert_close(found[0], maps[0, :, :4, :4])
    torch.testing.assert_close(found[1], maps[1, :, :4, 4:])
    torch.testing.assert_close(zoom(maps, torch.rand(2, 2), side=1.0, size=(8, 8)), maps)


def test_features_of_what_is_there_survive_crops_and_sizes():
    found = health.evaluate(all_knowing(list("abcd")), blocks(60), HealthSettings())
    values = found.values
    # 0.93 to 1.00 were measured: patches at borders of the painted quarters mix.
    for name in ("crop_patches", "crop_cls", "patches_at_0.5x", "cls_at_0.5x", "patches_at_2x", "cls_at_2x"):
        assert values[name] > 0.9
    assert values["patch_rank"] == pytest.approx(3 / 4, abs=0.05)  # of shares of four classes that sum to one
    assert found.num_images == 60 and len(found.per_picture["cosine_crop_cls"]) == 60


def test_noise_agrees_with_nothing():
    generator = torch.Generator().manual_seed(0)
    found = health.evaluate(changed(lambda x: torch.randn(x.shape, generator=generator)), blocks(60), HealthSettings())
    # Four standard deviations: 960 patches and 60 CLS tokens of four dimensions.
    for view in ("crop_{}", "{}_at_0.5x", "{}_at_2x"):
        assert abs(found.values[view.format("patches")]) < 4 / (960 * 4) ** 0.5
        assert abs(found.values[view.format("cls")]) < 4 / (60 * 4) ** 0.5
    assert found.values["patch_rank"] > 0.95


def test_a_collapsed_encoder_raises_alarms_and_robustness_is_nothing_it_can_boast_of():
    found = health.evaluate(changed(torch.ones_like), blocks(10), HealthSettings())
    assert found.values["patches_alive"] == found.values["cls_alive"] == 0
    for name in ("crop_patches", "crop_cls", "patches_at_2x", "cls_at_0.5x", "patch_rank", "cls_rank"):
        assert math.isnan(found.values[name]), name
    assert any("these features have collapsed" in note for note in found.notes)
    assert any("CLS token is nearly the same" in note for note in found.notes)


def test_one_direction_is_an_alarm_and_four_are_none():
    line = health.evaluate(changed(lambda x: x[..., :1].expand_as(x).contiguous()), blocks(30), HealthSettings())
    assert any("along one direction only: it has collapsed" in note for note in line.notes)
    healthy = health.evaluate(
        DualEncoder(Scrambled(width=24, patch_size=7), None),
        Pictures(torch.rand(30, 3, 28, 28, generator=torch.Generator().manual_seed(0))),
        HealthSettings(),
    )
    assert not [note for note in healthy.notes if note.startswith("alarm") and "collapsed" in note]
    assert healthy.notes[0].startswith("effective rank of the patch features: ")


def test_health_does_not_depend_on_batches_and_knows_no_text():
    encoder, data = DualEncoder(Scrambled(width=12, patch_size=7), None), blocks(20)
    whole, parts = (health.evaluate(encoder, data, HealthSettings(batch_size=size)) for size in (20, 6))
    # Worst difference measured: 1e-14; other machines may multiply matrices of other sizes differently.
    assert parts.values == pytest.approx(whole.values, abs=1e-6)


@pytest.mark.parametrize(
    "change", [{"crop": 0.5}, {"scales": (0.75,)}, {"seed": 1}, {"precision": "bf16"}, {"num_looked": 2}]
)
def test_every_setting_of_health_is_heard(change):
    encoder, data = know_nothing(), blocks(40)
    before, after = (health.evaluate(encoder, data, HealthSettings(**each)) for each in ({}, change))
    assert (before.values, before.notes) != (after.values, after.notes)


def test_settings_and_sets_that_mean_nothing_are_refused():
    for wrong in ({"crop": 0.0}, {"crop": 1.5}, {"scales": (0.0,)}, {"num_looked": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            HealthSettings(**wrong)
    with pytest.raises(ValueError, match="at least two"):
        health.evaluate(know_nothing(), blocks(1), HealthSettings())
