"""Patch weights, selection and feature distances against loops written from their definitions."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from distill.objective.adapters import Adapters
from distill.objective.features import feature_distance, resample_patches
from distill.objective.patch import mean_where, patch_weights, select
from distill.objective.standardise import Standardiser

HIDDEN = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]]).bool()
VISIBLE_WEIGHT = 0.5


def loop(losses, hidden, supervise, normalise):
    """The loss image by image, as the docstring of `patch_weights` puts it."""

    def mean(values):
        return values.mean() if len(values) else torch.zeros(())

    total = 0.0
    for image, mask in zip(losses, hidden, strict=True):
        first = image[mask] if supervise in ("masked", "all") else image[:0]
        second = image[~mask] if supervise in ("visible", "all") else image[:0]
        if normalise == "per_image":
            total += mean(torch.cat([first, second]))
        elif normalise == "ibot_plus_visible":
            total += mean(first) + VISIBLE_WEIGHT * mean(second)
        else:
            total += torch.cat([first, second]).sum()
    return total / len(losses)


def weights_of(supervise, normalise, hidden=HIDDEN):
    return patch_weights(hidden, supervise=supervise, normalise=normalise, visible_weight=VISIBLE_WEIGHT)


@pytest.mark.parametrize("supervise", ["masked", "visible", "all"])
@pytest.mark.parametrize("normalise", ["per_image", "ibot_plus_visible", "sum"])
def test_every_normalisation_is_the_loop_over_images(supervise, normalise):
    torch.manual_seed(0)
    losses = torch.rand(HIDDEN.shape)
    got = (weights_of(supervise, normalise) * losses).sum()
    torch.testing.assert_close(got, loop(losses, HIDDEN, supervise, normalise))


def test_no_two_settings_weigh_a_half_masked_batch_alike():
    seen = [weights_of(*pair) for pair in [("masked", "sum"), ("visible", "sum"), ("all", "sum")]]
    seen += [weights_of(supervise, "per_image") for supervise in ("masked", "visible", "all")]
    seen += [weights_of("visible", "ibot_plus_visible"), weights_of("all", "ibot_plus_visible")]
    for index, first in enumerate(seen):
        assert not any(torch.equal(first, second) for second in seen[index + 1 :])


def test_per_image_weights_do_not_make_an_image_louder_when_more_of_it_is_hidden():
    share = weights_of("masked", "per_image").sum(1)
    torch.testing.assert_close(share, torch.tensor([0.25, 0.25, 0.0, 0.25]))


def test_selection_keeps_the_tokens_with_weight_and_their_places():
    torch.manual_seed(0)
    tokens = torch.randn(4, 6, 3, requires_grad=True)
    weights = weights_of("masked", "per_image")
    chosen = select(tokens, weights)
    torch.testing.assert_close(chosen.tokens, tokens[HIDDEN])
    torch.testing.assert_close(chosen.weights, weights[HIDDEN])
    assert chosen.index.tolist() == HIDDEN.flatten().nonzero().flatten().tolist()
    chosen.tokens.sum().backward()
    torch.testing.assert_close(tokens.grad, HIDDEN[..., None].expand(4, 6, 3).float())


def test_the_mean_for_the_log_is_nan_when_nothing_is_chosen():
    values = torch.tensor([1.0, 2.0, 4.0])
    assert mean_where(values, torch.tensor([True, False, True])) == 2.5
    assert mean_where(values, torch.zeros(3, dtype=torch.bool)).isnan()


def test_cosine_distance_is_one_minus_cosine_and_reaches_only_the_prediction():
    torch.manual_seed(0)
    prediction, target = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    distances = feature_distance(prediction, target)
    expected = torch.stack([1 - a @ b / (a.norm() * b.norm()) for a, b in zip(prediction, target, strict=True)])
    torch.testing.assert_close(distances, expected)
    distances.sum().backward()
    assert prediction.grad.abs().sum() > 0
    assert target.grad is None


def smooth_l1(a, b):
    return sum(0.5 * d * d if abs(d) < 1 else abs(d) - 0.5 for d in (a - b)) / len(a)


@pytest.mark.parametrize(("kind", "cosine", "absolute"), [("smooth_l1", 0, 1), ("cosine_smooth_l1", 0.5, 0.5)])
def test_other_distances_are_their_definitions_with_their_gradients(kind, cosine, absolute):
    torch.manual_seed(0)
    ours, target = (2 * torch.randn(5, 4)).requires_grad_(), torch.randn(5, 4, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    weights = torch.rand(5)
    found = feature_distance(ours, target, kind=kind)
    distances = [
        cosine * (1 - a @ b / (a.norm() * b.norm())) + absolute * smooth_l1(a, b)
        for a, b in zip(theirs, target.detach(), strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(distances))
    (weights * found).sum().backward()
    (weights * torch.stack(distances)).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert target.grad is None
    assert ((theirs - target).abs() > 1).any() and ((theirs - target).abs() < 1).any()


def test_the_standardiser_ends_the_first_step_with_the_statistics_of_all_its_micro_batches():
    torch.manual_seed(0)
    features = torch.randn(40, 3) * torch.tensor([1.0, 0.1, 20.0]) + torch.tensor([0.0, 50.0, -3.0])
    standardise = Standardiser(3, momentum=0.99)
    for chunk in features.split([7, 33]):
        standardise.observe(chunk)
        torch.testing.assert_close(standardise(chunk), chunk)  # unchanged before the step
    standardise.step()
    torch.testing.assert_close(standardise.mean, features.mean(0))
    torch.testing.assert_close(standardise.variance, features.var(0, correction=0), atol=0, rtol=1e-3)
    standardised = standardise(features)
    assert standardised.mean(0).abs().max() < 1e-3
    assert (standardised.std(0, correction=0) - 1).abs().max() < 0.05


@pytest.mark.parametrize(("momentum", "shares"), [(0.5, [1 / 7, 2 / 7, 4 / 7]), (1.0, [1 / 3] * 3), (0.0, [0, 0, 1])])
def test_running_statistics_are_those_of_the_weighted_mixture_of_all_steps(momentum, shares):
    torch.manual_seed(0)
    batches = [torch.randn(16, 2, dtype=torch.float32) + shift for shift in (0.0, 3.0, -2.0)]
    standardise = Standardiser(2, momentum=momentum)
    for batch in batches:
        standardise.observe(batch)
        standardise.step()
    mean = sum(share * batch.mean(0) for share, batch in zip(shares, batches, strict=True))
    square = sum(share * batch.square().mean(0) for share, batch in zip(shares, batches, strict=True))
    torch.testing.assert_close(standardise.mean, mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(standardise.variance, square - mean.square(), atol=1e-4, rtol=1e-4)


def test_a_step_without_observations_leaves_the_statistics():
    standardise = Standardiser(2, momentum=0.9)
    standardise.observe(torch.randn(8, 2))
    standardise.step()
    before = {name: value.clone() for name, value in standardise.state_dict().items()}
    standardise.step()
    assert all(torch.equal(value, before[name]) for name, value in standardise.state_dict().items())
    assert set(before) == {"mean", "variance", "num_steps"}


def test_resampling_a_linear_ramp_gives_the_ramp_on_the_new_grid():
    rows = (torch.arange(8) + 0.5) / 8
    ramp = rows[:, None].expand(8, 6).reshape(1, 48, 1)
    coarse = resample_patches(ramp, grid=(8, 6), new_grid=(4, 3)).view(4, 3)
    expected = (torch.arange(4) + 0.5) / 4
    torch.testing.assert_close(coarse[1:-1], expected[1:-1, None].expand(2, 3))
    assert resample_patches(ramp, grid=(8, 6), new_grid=(8, 6)) is ramp


def test_resampling_to_a_finer_grid_is_bilinear_interpolation():
    torch.manual_seed(0)
    patches = torch.randn(2, 6, 5)
    maps = patches.transpose(1, 2).reshape(2, 5, 2, 3)
    expected = functional.interpolate(maps, (4, 7), mode="bilinear").flatten(2).transpose(1, 2)
    torch.testing.assert_close(resample_patches(patches, grid=(2, 3), new_grid=(4, 7)), expected)


def test_adapters_go_from_the_students_width_to_the_teachers():
    adapters = Adapters(5, 9)
    assert adapters.cls(torch.zeros(2, 5)).shape == adapters.patch(torch.zeros(2, 5)).shape == (2, 9)
    assert isinstance(adapters.patch, nn.Linear)


def test_an_mlp_adapter_has_its_hidden_width_and_a_ladder_adds_up():
    torch.manual_seed(0)
    adapters = Adapters(5, 9, hidden=7, places=(0, 2))
    assert [tuple(part.weight.shape) for part in adapters.patch if isinstance(part, nn.Linear)] == [(7, 5), (9, 7)]
    last, first, second = torch.randn(3, 4, 5).unbind()
    expected = adapters.patch(last) + adapters.layers[0](first) + adapters.layers[1](second)
    heard = adapters.heard([first, torch.full_like(first, torch.nan), second])
    torch.testing.assert_close(adapters.patches(last, heard), expected)
    normed = functional.layer_norm(first, (5,))
    torch.testing.assert_close(adapters.layers[0](first), adapters.layers[0][1](normed))
