"""Schedules as functions of progress, and which parameter gets which learning rate and decay."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tiny_runs import tiny

from distill.compose import compose
from distill.config import Optim, Recipe, Teacher
from distill.train.optim import build_optimizer, is_decayed, lr_scale, set_learning_rate, trained_parameters
from distill.train.schedules import learning_rate, teacher_momentum

STEPS = [step / 1000 for step in range(1000)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_learning_rate_rises_linearly_and_then_never_again(schedule: str):
    settings = Optim(schedule=schedule, warmup=0.1, lr_end=0.2)
    rates = [learning_rate(progress, settings) for progress in STEPS]
    assert rates[0] == 0.0
    assert rates[:100] == pytest.approx([step / 100 for step in range(100)])
    assert rates[100] == 1.0
    assert all(later <= earlier for earlier, later in pairwise(rates[100:]))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    # At a quarter, half and all of the way from the warm-up to the end.
    [
        ("cosine", [0.2 + 0.8 * 0.5 * (1 + math.sqrt(0.5)), 0.6, 0.2]),
        ("linear", [0.8, 0.6, 0.2]),
        ("constant", [1.0, 1.0, 1.0]),
    ],
)
def test_the_learning_rate_falls_as_its_schedule_says(schedule: str, expected: list[float]):
    settings = Optim(schedule=schedule, warmup=0.2, lr_end=0.2)
    assert [learning_rate(progress, settings) for progress in (0.4, 0.6, 1.0)] == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_learning_rate_is_defined_without_warm_up_and_with_nothing_else(schedule: str):
    assert learning_rate(0.0, Optim(schedule=schedule, warmup=0.0)) == 1.0
    rates = [learning_rate(progress, Optim(schedule=schedule, warmup=1.0)) for progress in STEPS]
    assert rates == pytest.approx(STEPS)


def test_the_teachers_momentum_rises_along_a_cosine():
    settings = Teacher(momentum=0.9, momentum_end=1.0)
    found = [teacher_momentum(progress, settings) for progress in (0.0, 0.25, 0.5, 1.0)]
    assert found == pytest.approx([0.9, 0.9 + 0.1 * 0.5 * (1 - math.sqrt(0.5)), 0.95, 1.0])
    rising = [teacher_momentum(progress, settings) for progress in STEPS]
    assert rising == sorted(rising)
    assert {teacher_momentum(progress, Teacher(momentum=0.99, momentum_end=0.99)) for progress in STEPS} == {0.99}


def recipe(folder: Path, *overrides: str) -> Recipe:
    return tiny(folder, "optim.lr=1e-2", "optim.weight_decay=0.1", *overrides)


def groups_by_name(made: Recipe) -> dict[str, dict]:
    """The optimiser's group of every trained parameter after a learning rate of 1 was set."""
    learner = compose(made).learner
    optimizer = build_optimizer(learner, made)
    set_learning_rate(optimizer, 1.0)
    group_of = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    found = {name: group_of[id(parameter)] for name, parameter in trained_parameters(learner)}
    assert len(found) == sum(len(group["params"]) for group in optimizer.param_groups)
    return found


def test_every_part_has_its_own_learning_rate(tmp_path: Path):
    scales = ("student.image.lr_scale=0.5", "student.text.lr_scale=0.25", "optim.head_lr_scale=2.0")
    rates = {name: group["lr"] for name, group in groups_by_name(recipe(tmp_path, *scales)).items()}
    expected = {"encoder.image.": 0.5, "encoder.text.": 0.25, "heads.": 2.0, "temperatures.": 1.0}
    for start, rate in expected.items():
        assert {found for name, found in rates.items() if name.startswith(start)} == {rate}, start
    assert all(name.startswith(tuple(expected)) for name in rates)


def test_layer_decay_slows_the_image_towers_early_layers(tmp_path: Path):
    made = recipe(tmp_path, "optim.layer_decay=0.5", "student.image.lr_scale=3")
    rates = {name: group["lr"] for name, group in groups_by_name(made).items()}
    prefix = "encoder.image.model."
    assert rates[f"{prefix}patch_embed.proj.weight"] == rates["encoder.image.mask_token"] == 3 * 0.25
    assert rates[f"{prefix}blocks.0.attn.qkv.weight"] == 3 * 0.5
    assert rates[f"{prefix}blocks.1.attn.qkv.weight"] == rates[f"{prefix}norm.weight"] == 3.0
    assert {rate for name, rate in rates.items() if not name.startswith("encoder.image.")} == {1.0}


def test_weight_decay_spares_biases_norms_tokens_positions_and_temperatures(tmp_path: Path):
    groups = groups_by_name(recipe(tmp_path))
    decayed = {name for name, group in groups.items() if group["weight_decay"] == 0.1}
    spared = {name for name, group in groups.items() if group["weight_decay"] == 0.0}
    assert decayed | spared == set(groups)
    assert {name.split(".")[-1] for name in decayed} <= {"weight", "in_proj_weight", "text_projection", "directions"}
    assert all("norm" not in name and "ln_" not in name for name in decayed)
    for name in ("mask_token", "model.cls_token", "model.reg_token", "model.pos_embed"):
        assert f"encoder.image.{name}" in spared
    assert "temperatures.log_scale" in spared and "encoder.text.model.positional_embedding" in spared
    assert {"encoder.image.model.patch_embed.proj.weight", "encoder.text.model.token_embedding.weight"} <= decayed


def test_decay_and_scale_are_decided_by_name_and_shape(tmp_path: Path):
    made = recipe(tmp_path)
    learner = compose(made).learner
    assert not is_decayed("heads.members.shared.mlp.0.bias", torch.nn.Parameter(torch.zeros(3)))
    assert is_decayed("heads.members.shared.mlp.0.weight", torch.nn.Parameter(torch.zeros(3, 3)))
    assert not is_decayed("encoder.image.mask_token", torch.nn.Parameter(torch.zeros(1, 1, 3)))
    assert lr_scale("adapters.patch.weight", learner, made) == 1.0


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("adafactor", torch.optim.Adafactor)])
def test_the_named_optimiser_is_built(name: str, kind: type, tmp_path: Path):
    made = recipe(tmp_path, f"optim.name={name}", "optim.betas=[0.7, 0.8]")
    optimizer = build_optimizer(compose(made).learner, made)
    assert type(optimizer) is kind
    if name == "adamw":
        assert all(group["betas"] == (0.7, 0.8) for group in optimizer.param_groups)


def test_a_recipe_that_trains_nothing_is_refused(tmp_path: Path):
    frozen = ("student.image.update=freeze", "student.text.update=freeze", "objective.patch.supervise=none")
    made = recipe(tmp_path, *frozen)
    learner = compose(made).learner
    learner.temperatures.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing is trained"):
        build_optimizer(learner, made)
