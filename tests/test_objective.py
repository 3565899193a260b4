"""The glue: names, weights, switches, steps and micro-batches of the whole objective."""

from dataclasses import fields, replace

import pytest
import torch
from torch.nn import functional

from distill import config
from distill.contracts import Predictions, Targets, Tokens
from distill.encoders.head import Heads, ProjectionHead
from distill.objective.adapters import Adapters
from distill.objective.contrastive import Temperatures, contrastive_loss
from distill.objective.features import resample_patches
from distill.objective.objective import Objective
from distill.objective.prototype_terms import Offsets, TargetFeatures
from distill.objective.transfer import Transfer

B, N, D, E, K, CROPS = 4, 6, 8, 10, 16, 3
GRID, TEACHER_GRID = (2, 3), (4, 3)
HIDDEN = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]]).bool()


def heads(width, seed, *, shared=False):
    torch.manual_seed(seed)

    def one():
        head = ProjectionHead(width=width, hidden=12, bottleneck=5, num_prototypes=K)
        for parameter in head.mlp.parameters():
            parameter.data.mul_(20)  # fresh heads give almost equal outputs, which would hide mistakes
        return head

    return Heads(shared=one()) if shared else Heads(cls=one(), patch=one())


def tokens(width, grid, seed):
    generator = torch.Generator().manual_seed(seed)
    count = grid[0] * grid[1]
    return Tokens(
        cls=torch.randn(B, 2, width, generator=generator),
        patches=torch.randn(B, count, width, generator=generator),
        grid=grid,
    )


class World:
    """One batch with everything an objective may ask for."""

    def __init__(self, **changes):
        self.settings = settings(**changes)
        generator = torch.Generator().manual_seed(7)
        self.predictions = Predictions(
            unmasked=tokens(D, GRID, 1),
            masked=tokens(D, GRID, 2),
            local_cls=torch.randn(CROPS, B, D, generator=generator),
            text=torch.randn(2, B, D, generator=generator),
        )
        self.targets = Targets(tokens=tokens(E, TEACHER_GRID, 3), heads=heads(E, 4).requires_grad_(False))
        torch.manual_seed(5)
        self.given = {
            "heads": heads(D, 6),
            "temperatures": Temperatures(2, temperature=0.1, kind=self.settings.contrastive.kind),
            "adapters": Adapters(D, E),
        }
        self.objective = Objective(self.settings, Transfer(self.settings, num_prototypes=K, teacher_width=E))

    def losses(self, *, hidden=HIDDEN, progress=0.05, **options):
        return self.objective(self.predictions, self.targets, hidden=hidden, progress=progress, **self.given | options)


BASE = config.Objective(cls=config.ClsLoss(weight=1.0))
FEATURES = {"patch.target": "features"}
CLUSTERS = {"patch.target": "clusters", "prototypes.balance": "sinkhorn"}


def settings(**changes):
    """The default objective with L_DINO; keys are `section.key`."""
    result = BASE
    for key, value in changes.items():
        section, name = key.split(".")
        result = replace(result, **{section: replace(getattr(result, section), **{name: value})})
    return result


def test_the_total_is_the_weighted_sum_of_the_named_terms():
    world = World(**{"contrastive.weight": 0.7, "cls.weight": 0.3, "patch.weight": 2.5})
    losses = world.losses()
    terms = losses.terms
    assert set(terms) == {"contrastive/first", "contrastive/second", "cls", "patch"}
    contrast = (terms["contrastive/first"] + terms["contrastive/second"]) / 2
    torch.testing.assert_close(losses.total.detach(), 0.7 * contrast + 0.3 * terms["cls"] + 2.5 * terms["patch"])
    assert set(losses.diagnostics) == {"patch/hidden", "patch/visible"}
    assert not any(value.requires_grad for value in (terms | losses.diagnostics).values())


def cross_entropy(student, teacher, student_head, teacher_head, temperature):
    targets = torch.softmax(teacher_head(teacher) @ teacher_head.prototypes().T / temperature, -1)
    return -(targets * torch.log_softmax(student_head(student) @ student_head.prototypes().T / 0.1, -1)).sum(-1)


def test_every_term_is_its_equation_at_a_fresh_centre():
    world = World()
    got = world.losses(progress=0.05).terms
    student, teacher = world.predictions, world.targets
    mine, theirs = world.given["heads"], teacher.heads
    contrast = contrastive_loss(
        student.unmasked.cls, student.text, temperatures=world.given["temperatures"], kind="softmax"
    )
    torch.testing.assert_close(torch.stack([got["contrastive/first"], got["contrastive/second"]]), contrast)
    crops = cross_entropy(student.local_cls, teacher.tokens.cls[:, 0].expand(CROPS, B, E), mine.cls, theirs.cls, 0.07)
    torch.testing.assert_close(got["cls"], crops.mean())
    aligned = resample_patches(teacher.tokens.patches, grid=TEACHER_GRID, new_grid=GRID)
    # A twentieth of the training is half of the warm-up from 0.04 to 0.07.
    patches = cross_entropy(student.masked.patches, aligned, mine.patch, theirs.patch, 0.055)
    torch.testing.assert_close(got["patch"], patches.mean())
    diagnostics = world.losses(progress=0.05).diagnostics
    torch.testing.assert_close(diagnostics["patch/hidden"], patches[HIDDEN].mean())
    torch.testing.assert_close(diagnostics["patch/visible"], patches[~HIDDEN].mean())


SWITCHES = {
    "contrastive.weight": 0.5,
    "contrastive.kind": "sigmoid",
    "cls.weight": 0.5,
    "patch.weight": 1.0,
    "patch.supervise": "masked",
    "patch.target": "features",
    "patch.normalise": "sum",
    "prototypes.balance": "sinkhorn",
    "prototypes.student_temperature": 0.2,
    "prototypes.teacher_temperature": 0.06,
    "prototypes.teacher_temperature_start": 0.05,
    "prototypes.teacher_warmup": 0.5,
}
AFTER_A_STEP = {"prototypes.centre_momentum": 0.5}
ELSEWHERE = {  # switch: (its other value, what makes it matter)
    "patch.visible_weight": (0.5, {"patch.normalise": "ibot_plus_visible"}),
    "prototypes.sinkhorn_iterations": (1, {"prototypes.balance": "sinkhorn"}),
    "features.patch_weight": (0.5, FEATURES),
    "features.cls_weight": (0.5, FEATURES),
    "features.loss": ("smooth_l1", FEATURES),
    "features.gram_weight": (0.5, FEATURES),
    "features.rkd_weight": (0.5, FEATURES),
}
AFTER_STEPS = {  # switch: (its other value, what makes it matter)
    "features.standardise": ("none", FEATURES),
    "features.momentum": (0.5, FEATURES),
    "clusters.momentum": (0.5, CLUSTERS),
}
NOT_THE_OBJECTIVES = {  # starting value or make of what it is given; choice of captions, made by the data
    "contrastive.temperature",
    "contrastive.first",
    "contrastive.second",
    "features.adapter",
    "features.adapter_hidden",
    "features.student_layers",
}


def total_after(steps=0, **changes):
    """Loss after `steps` optimiser steps on other teachers' tokens."""
    world = World(**changes)
    last = world.targets
    for step in range(steps):
        world.targets = replace(last, tokens=tokens(E, TEACHER_GRID, 100 + step))
        world.losses()
        world.objective.step()
    world.targets = last
    return world.losses().total.item()


@pytest.mark.parametrize("key", SWITCHES)
def test_flipping_a_switch_alone_changes_the_loss(key):
    assert total_after(**{key: SWITCHES[key]}) != total_after()


@pytest.mark.parametrize("key", ELSEWHERE)
def test_flipping_a_switch_where_it_applies_changes_the_loss(key):
    value, where = ELSEWHERE[key]
    assert total_after(**where | {key: value}) != total_after(**where)


def test_running_statistics_follow_their_settings():
    for key, value in AFTER_A_STEP.items():
        assert total_after(1, **{key: value}) != total_after(1)
    for key, (value, where) in AFTER_STEPS.items():
        assert total_after(3, **where | {key: value}) != total_after(3, **where)


def test_every_setting_of_the_objective_has_a_test_above():
    known = {*SWITCHES, *ELSEWHERE, *AFTER_A_STEP, *AFTER_STEPS, *NOT_THE_OBJECTIVES}
    every = {f"{part.name}.{key.name}" for part in fields(BASE) for key in fields(getattr(BASE, part.name))}
    assert every
    assert known == every


@pytest.mark.parametrize("supervise", ["masked", "visible", "all"])
@pytest.mark.parametrize(
    "target",
    [{}, FEATURES, CLUSTERS, FEATURES | {"features.gram_weight": 1.0, "features.rkd_weight": 1.0}],
    ids=["prototypes", "features", "clusters", "relations"],
)
def test_the_gradient_reaches_the_supervised_patches_and_no_others(supervise, target):
    world = World(**target | {"patch.supervise": supervise, "contrastive.weight": 0.0, "cls.weight": 0.0})
    world.predictions.masked.patches.requires_grad_()
    losses = world.losses()
    losses.total.backward()
    touched = world.predictions.masked.patches.grad.abs().sum(-1) > 0
    assert torch.equal(touched, {"masked": HIDDEN, "visible": ~HIDDEN, "all": torch.ones_like(HIDDEN)}[supervise])
    sorts = {"masked": {"patch/hidden"}, "visible": {"patch/visible"}, "all": {"patch/hidden", "patch/visible"}}
    assert set(losses.diagnostics) == sorts[supervise]


def test_the_masked_pass_feeds_the_patches_and_the_unmasked_one_the_contrast():
    world = World(**{"cls.weight": 0.0})
    before = world.losses().terms
    world.predictions = replace(world.predictions, unmasked=tokens(D, GRID, 50))
    other = world.losses().terms
    assert other["patch"] == before["patch"]
    assert other["contrastive/first"] != before["contrastive/first"]


def test_without_a_masked_pass_the_patch_loss_hears_the_unmasked_one():
    world = World()
    seen = tokens(D, GRID, 2)
    world.predictions = replace(world.predictions, unmasked=seen)
    expected = world.losses().terms["patch"]
    world.predictions = replace(world.predictions, masked=None)
    assert world.losses().terms["patch"] == expected


@pytest.mark.parametrize("off", [{"patch.supervise": "none"}, {"patch.weight": 0.0}])
def test_losses_that_are_off_need_nothing_and_leave_no_state(off):
    world = World(**off | {"cls.weight": 0.0})
    world.predictions = replace(world.predictions, masked=None, local_cls=None)
    world.targets = None
    losses = world.losses(heads=None, adapters=None)
    assert set(losses.terms) == {"contrastive/first", "contrastive/second"}
    assert not world.objective.state_dict()
    world.objective.step()


def test_contrast_alone_off_needs_no_text_and_no_unmasked_pass():
    world = World(**{"contrastive.weight": 0.0})
    world.predictions = replace(world.predictions, unmasked=None, text=None)
    assert set(world.losses(temperatures=None).terms) == {"cls", "patch"}


def test_local_crops_alone_need_no_global_pass_of_the_student():
    world = World(**{"contrastive.weight": 0.0, "patch.supervise": "none"})
    world.predictions = replace(world.predictions, unmasked=None, masked=None, text=None)
    losses = world.losses(temperatures=None)
    torch.testing.assert_close(losses.total.detach(), losses.terms["cls"])


def test_no_gradient_reaches_the_teacher():
    relations = FEATURES | {"features.gram_weight": 1.0, "features.rkd_weight": 1.0}
    for changes in ({}, FEATURES, CLUSTERS, relations):
        world = World(**changes)
        for part in (world.targets.tokens.cls, world.targets.tokens.patches):
            part.requires_grad_()
        world.targets.heads.requires_grad_(True)
        world.losses().total.backward()
        assert world.targets.tokens.patches.grad is None
        assert world.targets.tokens.cls.grad is None
        assert all(parameter.grad is None for parameter in world.targets.heads.parameters())


def test_a_shared_head_learns_from_both_losses():
    gradients = []
    for changes in ({}, {"cls.weight": 0.0}, {"patch.supervise": "none"}):
        world = World(**changes | {"contrastive.weight": 0.0})
        world.given["heads"] = heads(D, 6, shared=True)
        world.losses().total.backward()
        gradients.append(world.given["heads"].cls.directions.grad)
    torch.testing.assert_close(gradients[0], gradients[1] + gradients[2])


def micro(world, rows):
    """The same batch, some of its images."""
    cut = lambda part: Tokens(cls=part.cls[rows], patches=part.patches[rows], grid=part.grid)  # noqa: E731
    predictions = Predictions(
        unmasked=cut(world.predictions.unmasked),
        masked=cut(world.predictions.masked),
        local_cls=world.predictions.local_cls[:, rows],
        text=None,
    )
    return predictions, replace(world.targets, tokens=cut(world.targets.tokens)), HIDDEN[rows]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prototypes.balance": "sinkhorn"},
        FEATURES,
        FEATURES | {"features.standardise": "phi_s", "features.gram_weight": 0.5, "features.rkd_weight": 0.5},
        CLUSTERS,
        CLUSTERS | {"patch.supervise": "masked", "features.standardise": "none", "cls.weight": 0.0},
    ],
    ids=["centre", "sinkhorn", "features", "phi_s and relations", "clusters", "clusters, masked"],
)
def test_two_micro_batches_make_the_step_of_one_batch(changes):
    whole, split = (World(**changes | {"contrastive.weight": 0.0}) for _ in range(2))
    for _ in range(3):
        expected = whole.losses().total
        whole.objective.step()
        parts = [micro(split, rows) for rows in (slice(0, 2), slice(2, 4))]
        got = split_total(split, parts)
        split.objective.step()
        torch.testing.assert_close(got, expected)
    for name, value in whole.objective.state_dict().items():
        torch.testing.assert_close(split.objective.state_dict()[name], value)


def split_total(world, parts):
    """Mean over micro-batches; Sinkhorn's offsets from all of them first."""
    objective, given, offsets = world.objective, world.given, None
    if (prototypes := objective.transfer.prototypes) is not None:
        features = [prototypes.target_features(targets, hidden=hidden, grid=GRID) for _, targets, hidden in parts]
        offsets = prototypes.offsets(features, heads=world.targets.heads, progress=0.05)
    return sum(
        objective(predictions, targets, hidden=hidden, progress=0.05, offsets=offsets, **given).total
        for predictions, targets, hidden in parts
    ) / len(parts)


def test_statistics_move_in_step_only_and_only_for_what_was_seen_in_training():
    world = World()
    world.losses()
    assert all((centre == 0).all() for centre in world.objective.state_dict().values())
    world.objective.eval()
    world.losses()
    assert world.objective.transfer.prototypes.patch_balance.observed_count == B * N
    world.objective.step()
    state = world.objective.state_dict()
    assert set(state) == {f"transfer.prototypes.{role}_balance.centre" for role in ("cls", "patch")}
    assert all((centre != 0).any() for centre in state.values())


def test_feature_targets_are_cosines_to_the_teachers_standardised_tokens():
    world = World(**FEATURES | {"cls.weight": 0.0, "contrastive.weight": 0.0, "features.cls_weight": 0.5})
    first = world.losses()
    aligned = resample_patches(world.targets.tokens.patches, grid=TEACHER_GRID, new_grid=GRID)
    adapters, student = world.given["adapters"], world.predictions.masked
    cosine = 1 - functional.cosine_similarity(adapters.patch(student.patches), aligned, dim=-1)
    torch.testing.assert_close(first.terms["patch"], cosine.mean().detach())
    wanted = world.targets.tokens.cls[:, 0]
    cls = 1 - functional.cosine_similarity(adapters.cls(student.cls[:, 0]), wanted, dim=-1)
    torch.testing.assert_close(first.terms["patch_cls"], cls.mean().detach())
    torch.testing.assert_close(first.total, 2 * (cosine.mean() + 0.5 * cls.mean()))
    world.objective.step()
    flat = aligned.flatten(0, 1)
    standardised = (flat - flat.mean(0)) / flat.std(0, correction=0)
    cosine = 1 - functional.cosine_similarity(adapters.patch(student.patches).flatten(0, 1), standardised, dim=-1)
    torch.testing.assert_close(world.losses().terms["patch"], cosine.mean().detach())


def test_standardised_features_without_a_teachers_width_are_refused():
    with pytest.raises(ValueError, match="teacher's width"):
        Transfer(settings(**FEATURES), num_prototypes=K)


@pytest.mark.parametrize("balance", ["centre", "sinkhorn"])
def test_a_batch_without_any_hidden_patch_is_silent_when_only_hidden_ones_are_heard(balance):
    world = World(**{"patch.supervise": "masked", "cls.weight": 0.0, "prototypes.balance": balance})
    losses = world.losses(hidden=torch.zeros_like(HIDDEN))
    losses.total.backward()
    world.objective.step()
    assert losses.terms["patch"] == 0
    assert losses.diagnostics["patch/hidden"].isnan()
    assert all((value == 0).all() for value in world.objective.state_dict().values())


def test_the_patch_temperature_rises_with_progress_and_stays():
    world = World(**{"contrastive.weight": 0.0, "cls.weight": 0.0})
    values = [world.losses(progress=progress).total.item() for progress in (0.0, 0.05, 0.1, 1.0)]
    assert values[0] != values[1] != values[2]
    assert values[2] == values[3]


def test_chunks_do_not_change_the_objective():
    world = World()
    expected = world.losses()
    world.objective.transfer.prototypes.max_elements = 3 * K
    torch.testing.assert_close(world.losses().total, expected.total)


def test_bf16_autocast_stays_near_float32():
    world = World()
    expected = world.losses()
    with torch.autocast("cpu", torch.bfloat16):
        got = world.losses()
    assert got.total.dtype == torch.float32
    torch.testing.assert_close(got.total, expected.total, atol=0, rtol=0.02)


def test_features_and_offsets_are_absent_for_losses_without_prototypes():
    assert World(**FEATURES | {"cls.weight": 0.0}).objective.transfer.prototypes is None
    prototypes = World(**FEATURES).objective.transfer.prototypes
    world = World(**FEATURES)
    features = prototypes.target_features(world.targets, hidden=HIDDEN, grid=GRID)
    assert isinstance(features, TargetFeatures) and features.cls is not None and features.patch is None
    offsets = prototypes.offsets([features], heads=world.targets.heads, progress=0.0)
    assert isinstance(offsets, Offsets) and offsets.cls is not None and offsets.patch is None


@pytest.mark.parametrize("target", [{}, FEATURES, CLUSTERS], ids=["prototypes", "features", "clusters"])
@pytest.mark.parametrize("supervise", ["masked", "visible"])
def test_patches_that_are_not_heard_can_be_overheard_without_moving_anything(supervise, target):
    """With fresh centres and statistics a patch's loss does not depend on who else is heard."""
    both = World(**target).losses().diagnostics
    deaf, overhearing = (World(**target | {"patch.supervise": supervise}) for _ in range(2))
    losses, overheard = deaf.losses(), overhearing.losses(overhear=True)
    sort = {"masked": "hidden", "visible": "visible"}[supervise]
    assert set(losses.diagnostics) == {f"patch/{sort}"}
    torch.testing.assert_close(overheard.diagnostics, both)
    for world, found in ((deaf, losses), (overhearing, overheard)):
        found.total.backward()
        world.objective.step()
    assert torch.equal(losses.total, overheard.total)
    parts = (world.given["adapters" if target == FEATURES else "heads"] for world in (deaf, overhearing))
    for one, other in zip(*(part.parameters() for part in parts), strict=True):
        assert (one.grad is None and other.grad is None) or torch.equal(one.grad, other.grad)
    assert all(map(torch.equal, deaf.objective.state_dict().values(), overhearing.objective.state_dict().values()))
