"""Several teachers at once: losses, balance and dropping against loops, caches, views of their own, and refusals."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from tiny_inputs import write_timm
from tiny_runs import losses, numbers, opened, tiny, to_the_bit, train_alone, trained

from distill import cli
from distill.compose import compose
from distill.config import (
    InvalidCombination,
    Member,
    Recipe,
    by_teacher,
    cache_places,
    load_recipe,
    recipe_from_file,
    save_recipe,
)
from distill.config.ensemble import RESERVED
from distill.contracts import ManyTargets, Predictions, Targets, Tokens
from distill.data.plan import plan_step
from distill.encoders.dual import DualEncoder
from distill.objective.adapters import Adapters
from distill.objective.ensemble import MOMENTUM, EnsembleTransfer
from distill.objective.transfer import Transfer
from distill.study.cells import exchanged, substituted
from distill.study.keys import key_of
from distill.train.accumulate import split

OWN = ("teacher.kind=ensemble", "objective.patch.target=features", "teacher.members.own.checkpoint=@run")
TIMM = (
    "teacher.members.other.model=timm:vit_tiny_patch16_224",
    "teacher.members.other.weights=@timm/first.safetensors",
)
BOTH = (*OWN, *TIMM, "teacher.members.other.image_size=48")
UNLIKE = (
    *("teacher.members.own.weight=0.5", "teacher.members.own.features={loss: smooth_l1, student_layers: [1]}"),
    "teacher.members.other.features={cls_weight: 0, gram_weight: 0.5, standardise: phi_s, student_layers: [2, 1]}",
    "student.image.depth=3",
)
FIXED = (
    *("data.scenes.num_train=16", "data.views.fixed=2", "data.views.flip=0.5", "data.views.global_scale=[0.4, 1.0]"),
    "teacher.members.own.image_size=64",
)
SHARED = ("teacher.balance=running_loss", "teacher.drop=0.5")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained teacher with a text tower, and a timm model of another width and patch size without."""
    folder = tmp_path_factory.mktemp("inputs")
    trained(folder / "run", "optim.steps=2")
    write_timm(folder / "timm")
    return folder


@pytest.fixture
def ensemble(inputs: Path, tmp_path: Path) -> Callable[..., Recipe]:
    def recipe_of(*settings: str, name: str = "run") -> Recipe:
        return tiny(tmp_path / name, *(word.replace("@", f"{inputs}/") for word in settings))

    return recipe_of


# --- the losses, against what they are defined to be

B, N, WIDTHS, NAMES = 6, 5, {"a": 7, "b": 4, "c": 3}, ("a", "b", "c")
MEMBERS = {
    "a": "{weight: 2.0, features: {cls_weight: 0.5}}",
    "b": "{features: {loss: smooth_l1, patch_weight: 0, gram_weight: 0.3}}",
    "c": "{weight: 0.5, features: {loss: cosine_smooth_l1, rkd_weight: 0.7, cls_weight: 0}}",
}


def recipes_of_members() -> dict[str, Recipe]:
    words = [f"teacher.members.{name}={value}" for name, value in MEMBERS.items()]
    names = [f"teacher.members.{name}.model=timm:x" for name in MEMBERS]
    page = ("teacher.kind=ensemble", "objective.patch.target=features", "objective.patch.weight=1.5")
    return by_teacher(load_recipe("smoke", [*page, *words, *names]))


def transfers() -> dict[str, Transfer]:
    return {
        name: Transfer(alone.objective, num_prototypes=8, teacher_width=WIDTHS[name])
        for name, alone in recipes_of_members().items()
    }


def tokens(width: int, seed: int, *, requires_grad: bool = False) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    cls, patches = (torch.randn(B, n, width, generator=generator) for n in (1, N))
    return Tokens(cls=cls.requires_grad_(requires_grad), patches=patches.requires_grad_(requires_grad), grid=(1, N))


def heard(transfer: EnsembleTransfer | Transfer, targets, adapters, student: Tokens):
    predictions = Predictions(unmasked=student, masked=None, local_cls=None, text=None)
    hidden = torch.tensor([[1, 0, 1, 0, 0]] * 4 + [[0] * 5] * 2).bool()
    return transfer(predictions, targets, hidden=hidden, heads=None, adapters=adapters, progress=0.3, overhear=True)


def said(draws: torch.Tensor | None = None, seed: int = 0) -> ManyTargets:
    members = {name: Targets(tokens(width, seed + width), heads=None) for name, width in WIDTHS.items()}
    return ManyTargets(members, draws=draws)


def all_adapters() -> torch.nn.ModuleDict:
    torch.manual_seed(0)
    return torch.nn.ModuleDict({name: Adapters(6, width) for name, width in WIDTHS.items()})


def test_the_loss_of_several_is_the_sum_of_what_each_would_teach_alone():
    student, adapters, targets = tokens(6, 1, requires_grad=True), all_adapters(), said()
    together = heard(EnsembleTransfer(transfers()), targets, adapters, student)
    together.total.backward()
    gradient, student.patches.grad = student.patches.grad, None
    alone = {
        name: heard(member, targets.members[name], adapters[name], student) for name, member in transfers().items()
    }
    total = sum(each.total for each in alone.values())
    total.backward()
    torch.testing.assert_close(together.total, total)
    torch.testing.assert_close(gradient, student.patches.grad)
    assert set(together.terms) == {f"{name}/{term}" for name in NAMES for term in alone[name].terms}
    for name in NAMES:
        for term, value in alone[name].terms.items():
            torch.testing.assert_close(together.terms[f"{name}/{term}"], value)
        for key, value in alone[name].diagnostics.items():
            torch.testing.assert_close(together.diagnostics[f"{name}/{key}"], value, equal_nan=True)


def losses_by_image(adapters, targets: ManyTargets) -> torch.Tensor:
    """[T, B], each with its weight: the loss of the batch is their sum, and an image alone gives B times its own."""
    student, found = tokens(6, 1), []
    for name, member in transfers().items():
        own = targets.members[name].tokens
        found.append([])
        for image in range(B):
            part = slice(image, image + 1)
            predictions = Predictions(
                unmasked=Tokens(cls=student.cls[part], patches=student.patches[part], grid=(1, N)),
                masked=None,
                local_cls=None,
                text=None,
            )
            one = Targets(Tokens(cls=own.cls[part], patches=own.patches[part], grid=(1, N)), heads=None)
            hidden = torch.tensor([[1, 0, 1, 0, 0]] if image < 4 else [[0] * 5]).bool()
            loss = member(predictions, one, hidden=hidden, heads=None, adapters=adapters[name], progress=0.3)
            found[-1].append(loss.total / B)
    return torch.tensor([[value.item() for value in row] for row in found])


WEIGHTS = torch.tensor([1.5 * 2, 1.5, 1.5 * 0.5])


def test_dropping_keeps_the_teacher_with_the_largest_loss_and_every_picture_weighs_the_same():
    adapters = all_adapters()
    draws = torch.rand(B, 3, generator=torch.Generator().manual_seed(4))
    losses_TB = losses_by_image(adapters, said())
    expected, kept = 0.0, torch.zeros(3)
    for image in range(B):
        largest = max(range(3), key=lambda t: losses_TB[t, image] / WEIGHTS[t])
        heard_by = [t == largest or draws[image, t] >= 0.6 for t in range(3)]
        share = WEIGHTS.sum() / sum(WEIGHTS[t] for t in range(3) if heard_by[t])
        expected += sum(share * losses_TB[t, image] for t in range(3) if heard_by[t])
        kept += torch.tensor(heard_by).float() / B
    assert 0 < kept.min() < kept.max() and (kept < 1).any()
    transfer = EnsembleTransfer(transfers(), drop=0.6)
    found = heard(transfer, said(draws), adapters, tokens(6, 1))
    torch.testing.assert_close(found.total, expected)
    torch.testing.assert_close(torch.stack([found.diagnostics[f"{name}/kept"] for name in NAMES]), kept)
    for drop, number in ((1.0, 1), (0.0, 3)):
        transfer = EnsembleTransfer(transfers(), drop=drop)
        found = heard(transfer, said(draws), adapters, tokens(6, 1))
        if drop:
            assert sum(found.diagnostics[f"{name}/kept"] for name in NAMES) == pytest.approx(number)
    assert heard(transfer.eval(), said(), adapters, tokens(6, 1)).total.item() == pytest.approx(losses_TB.sum().item())


def test_balancing_divides_by_running_means_of_the_steps_before():
    adapters, transfer = all_adapters(), EnsembleTransfer(transfers(), balance="running_loss")
    for member in transfer.members.values():
        member.eval()  # no statistics: the features stay as they are
    seen: list[torch.Tensor] = []
    for step in range(4):
        targets = [said(seed=100 * step), said(seed=100 * step + 50)]
        own = [losses_by_image_at_rest(adapters, each) for each in targets]
        found = [heard(transfer, each, adapters, tokens(6, 1)) for each in targets]
        weights = torch.tensor([MOMENTUM ** (len(seen) - 1 - i) for i in range(len(seen))])
        running = (
            sum(w * each for w, each in zip(weights, seen, strict=True)) / weights.sum() if seen else torch.ones(3)
        )
        scales = running.mean() / running
        for losses_T, each in zip(own, found, strict=True):
            torch.testing.assert_close(each.total, (scales * losses_T).sum())
            scale = torch.stack([each.diagnostics[f"{name}/scale"] for name in NAMES])
            torch.testing.assert_close(scale, scales)
        seen.append(sum(own) / 2 / WEIGHTS)
        transfer.step()
    assert scales.std() > 0.1


def test_what_terms_a_member_has_does_not_change_what_it_counts_when_balanced():
    """Two members with the same losses but for a factor: shares follow their weights, whatever the factor."""
    adapters, transfer = all_adapters(), EnsembleTransfer(transfers(), balance="running_loss")
    for member in transfer.members.values():
        member.eval()
    for _ in range(2):
        found = heard(transfer, said(), adapters, tokens(6, 1))
        transfer.step()
    own = losses_by_image_at_rest(adapters, said())
    scales = torch.stack([found.diagnostics[f"{name}/scale"] for name in NAMES])
    torch.testing.assert_close(scales * own / (scales * own).sum(), WEIGHTS / WEIGHTS.sum())


@pytest.mark.parametrize("drop", [0.0, 0.6])
def test_shares_are_exact_under_autocast(drop: float):
    """The members' losses are computed in float32 whatever the precision, and so is their sum."""
    adapters, draws = all_adapters(), torch.rand(B, 3, generator=torch.Generator().manual_seed(4))
    targets = said(draws if drop else None)
    plain = heard(EnsembleTransfer(transfers(), drop=drop), targets, adapters, tokens(6, 1))
    transfer = EnsembleTransfer(transfers(), drop=drop)
    for member in transfer.members.values():
        terms = member.terms
        member.terms = lambda *given, terms=terms, **named: _without_autocast(terms, *given, **named)
    with torch.autocast("cpu", torch.bfloat16):
        found = heard(transfer, targets, adapters, tokens(6, 1))
    torch.testing.assert_close(found.total, plain.total, rtol=1e-6, atol=0)


def _without_autocast(terms, *given, **named):
    with torch.autocast("cpu", enabled=False):
        return terms(*given, **named)


def losses_by_image_at_rest(adapters, targets: ManyTargets) -> torch.Tensor:
    """[T] of the whole batch, before any statistics."""
    members = transfers()
    return torch.stack(
        [heard(members[name], targets.members[name], adapters[name], tokens(6, 1)).total.detach() for name in NAMES]
    )


# --- runs


def test_an_ensemble_of_one_is_that_teacher(ensemble: Callable, inputs: Path, tmp_path: Path):
    alone = ("teacher.kind=frozen", f"teacher.checkpoint={inputs}/run", "objective.patch.target=features")
    theirs = losses(trained(tmp_path / "alone", *alone))
    assert train_alone(ensemble(*OWN)) == 0
    assert losses(tmp_path / "run") == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("settings", [(), UNLIKE, SHARED], ids=["alike", "unlike", "shared"])
def test_a_run_goes_on_to_the_bit(settings: tuple[str, ...], ensemble: Callable, tmp_path: Path):
    recipe = ensemble(*BOTH, *settings, "run.checkpoint_every=3")
    assert train_alone(recipe) == 0
    whole = to_the_bit(tmp_path / "run")
    for name in ("step_00000006", "../summary.json"):
        place = tmp_path / "run/checkpoints" / name
        place.unlink() if place.is_file() else [file.unlink() for file in place.iterdir()] and place.rmdir()
    assert train_alone(recipe) == 0
    assert to_the_bit(tmp_path / "run") == whole
    assert all(isinstance(value, float | int) for line in numbers(tmp_path / "run") for value in line.values())


def test_micro_batches_are_one_batch(ensemble: Callable, tmp_path: Path):
    for name, pieces in (("whole", 1), ("pieces", 4)):
        assert train_alone(ensemble(*BOTH, *UNLIKE, *SHARED, f"optim.accumulate={pieces}", name=name)) == 0
    assert losses(tmp_path / "pieces") == pytest.approx(losses(tmp_path / "whole"), rel=2e-5)


def test_each_teacher_is_run_once_at_its_own_size_without_history_and_stays(ensemble: Callable):
    with opened(ensemble(*BOTH, *SHARED, "teacher.members.own.image_size=64")) as training:
        teacher = training.parts.teacher
        seen: list[tuple[int, bool]] = []
        for tower in teacher.towers():
            tower.register_forward_pre_hook(lambda _, given: seen.append((given[0].shape[-1], torch.is_grad_enabled())))
        batch = next(training.stream)
        assert set(batch.teacher_pixels) == {64, 48} and batch.teacher_draws.shape == (8, 2)
        targets = teacher.targets(batch, None)
        assert seen == [(64, False), (48, False)]
        assert list(targets.members) == ["own", "other"] and targets.draws is batch.teacher_draws
        assert not any(parameter.requires_grad for parameter in teacher.parameters())
        assert not teacher.train().training and not any(module.training for module in teacher.modules())
        pieces = split(batch, 4)
        assert torch.equal(torch.cat([piece.teacher_draws for piece in pieces]), batch.teacher_draws)
        assert torch.equal(torch.cat([piece.teacher_pixels[64] for piece in pieces]), batch.teacher_pixels[64])


def test_which_teachers_a_picture_may_drop_does_not_depend_on_the_number_of_ranks(ensemble: Callable):
    recipe = ensemble(*BOTH, *SHARED)
    whole = [plan_step(recipe, step=step, grid=(4, 4), share=slice(0, 8)).teacher_draws for step in (0, 1)]
    parts = [plan_step(recipe, step=0, grid=(4, 4), share=part).teacher_draws for part in (slice(0, 3), slice(3, 8))]
    assert torch.equal(torch.cat(parts), whole[0]) and not torch.equal(*whole)
    assert plan_step(ensemble(*BOTH), step=0, grid=(4, 4), share=slice(0, 8)).teacher_draws is None


@pytest.mark.parametrize("cached", [("own",), ("other",), ("own", "other")], ids="+".join)
def test_a_cached_member_teaches_what_the_live_one_does(cached: tuple[str, ...], ensemble: Callable, tmp_path: Path):
    live = (*BOTH, *UNLIKE, *SHARED, *FIXED)
    assert train_alone(ensemble(*live, name="live")) == 0
    places = [f"teacher.members.{name}.cache={tmp_path}/{name}" for name in cached]
    recipe = ensemble(*live, *places, name="cached")
    assert train_alone(recipe) == 0
    assert losses(tmp_path / "cached") == pytest.approx(losses(tmp_path / "live"), rel=2e-5)
    assert len(compose(recipe).teacher.towers()) == 2 - len(cached)


def test_the_student_starts_from_the_text_of_the_one_member_that_has_it(ensemble: Callable, inputs: Path):
    asks = ("student.text.init=teacher", "student.text.update=freeze", "objective.contrastive.temperature=null")
    parts = compose(ensemble(*BOTH, *asks))
    theirs: DualEncoder = parts.teacher.members["own"].encoder
    ours = parts.learner.encoder
    assert all(torch.equal(value, ours.text.state_dict()[name]) for name, value in theirs.text.state_dict().items())
    for members, said in (
        ((*OWN[:2], *TIMM), "no member of teacher.members has a text tower"),
        ((*OWN, f"teacher.members.twin.checkpoint={inputs}/run"), "members own and twin have a text tower"),
    ):
        with pytest.raises(ValueError, match=said):
            compose(ensemble(*members, *asks))


def test_what_is_wrong_with_a_member_is_said_of_it(ensemble: Callable):
    with pytest.raises(ValueError, match=r"teacher\.members\.other: .*does not exist"):
        compose(ensemble(*OWN, *TIMM, "teacher.members.other.weights=@timm/nowhere.safetensors"))
    with pytest.raises(ValueError, match=r"teacher\.members\.own\.features\.student_layers names \[2\]"):
        compose(ensemble(*OWN, "teacher.members.own.features.student_layers=[1, 2]"))
    with pytest.raises(InvalidCombination, match=r"cannot be called train: .*choose another"):
        ensemble(*OWN, "teacher.members.train.checkpoint=@run")
    assert {name for name in dir(torch.nn.ModuleDict()) if name.isalpha() and name.islower()} <= RESERVED


def test_members_can_be_left_out_again_and_an_empty_one_is_refused(ensemble: Callable, inputs: Path):
    frozen = ("teacher.members={}", "teacher.kind=frozen", f"teacher.checkpoint={inputs}/run")
    assert ensemble(*BOTH, *frozen).teacher.members == {}
    assert list(ensemble(*BOTH, "teacher.members={third: {checkpoint: x}}").teacher.members) == [
        "own",
        "other",
        "third",
    ]
    assert ensemble(*BOTH, "teacher.members.own={}") == ensemble(*BOTH)
    with pytest.raises(InvalidCombination, match=r"teacher\.members\.third, if it taught alone: .*exactly one of"):
        ensemble(*BOTH, "teacher.members.third={}")


def test_a_run_goes_on_when_a_members_cache_has_moved(ensemble: Callable, tmp_path: Path):
    assert train_alone(ensemble(*BOTH, *FIXED, f"teacher.members.own.cache={tmp_path}/here")) == 0
    (tmp_path / "here").rename(tmp_path / "there")
    moved = ensemble(*BOTH, *FIXED, f"teacher.members.own.cache={tmp_path}/there")
    assert train_alone(moved) == 0
    assert cache_places(moved) == ("teacher.cache", "teacher.members.own.cache", "teacher.members.other.cache")


def test_a_member_without_text_is_not_measured_on_what_needs_it(ensemble: Callable, tmp_path: Path, capfd):
    tasks = ("evaluate.baselines=true", "evaluate.tasks=[retrieval, linear_segmentation]", "evaluate.num_images=8")
    assert train_alone(ensemble(*BOTH, *tasks, "optim.steps=1")) == 0
    assert "teacher other has no text tower and is not measured on retrieval" in capfd.readouterr().err
    found = json.loads((tmp_path / "run" / "baselines.json").read_text())
    assert "retrieval/image_to_text_r1" in found["teacher own"] and "linear_segmentation/miou" in found["teacher other"]
    assert not any(name.startswith("retrieval") for name in found["teacher other"])


def test_the_start_message_and_the_baselines_name_every_member(ensemble: Callable, tmp_path: Path, capfd):
    recipe = ensemble(
        *BOTH,
        "evaluate.baselines=true",
        "evaluate.tasks=[linear_segmentation]",
        "evaluate.num_images=8",
        "optim.steps=1",
    )
    assert train_alone(recipe) == 0
    told = capfd.readouterr().err
    for name in ("own", "other"):
        assert f"teacher {name} " in told and f"teacher {name}: linear_segmentation" in told
    assert "teacher other: pictures of 48 pixels" in told


def test_a_page_with_members_comes_back_and_its_references_are_found(ensemble: Callable, tmp_path: Path):
    recipe = ensemble(*BOTH, *UNLIKE, *SHARED)
    save_recipe(recipe, tmp_path / "page.yaml")
    assert recipe_from_file(tmp_path / "page.yaml") == recipe
    with_cell = ensemble(*BOTH, "teacher.members.own.checkpoint=cell:big")
    found = substituted(with_cell, {"big": "runs/big"})
    assert found.teacher.members["own"].checkpoint == "runs/big"
    assert exchanged(found, {"runs/big": "cell:big"}) == with_cell


def test_a_runs_key_hears_members_but_not_where_their_caches_lie(ensemble: Callable):
    key = key_of(ensemble(*BOTH, *FIXED))
    for same in ("teacher.members.own.cache=anywhere", "teacher.members.own.features.patch_weight=1.0"):
        assert key_of(ensemble(*BOTH, *FIXED, same)) == key
    for other in ("teacher.members.own.weight=2", "teacher.members.other.features.loss=smooth_l1", "teacher.drop=0.5"):
        assert key_of(ensemble(*BOTH, *FIXED, other)) != key


def test_a_member_is_the_frozen_teacher_of_a_recipe_of_its_own(ensemble: Callable):
    recipe = ensemble(*BOTH, *UNLIKE)
    alone = by_teacher(recipe)
    assert [each.teacher.kind for each in alone.values()] == ["frozen", "frozen"]
    assert alone["own"].objective.patch.weight == 0.5 * recipe.objective.patch.weight
    assert alone["own"].objective.features == recipe.teacher.members["own"].features
    assert {each.name for each in fields(Member)} - {"weight", "features"} <= {
        f.name for f in fields(type(recipe.teacher))
    }
    plain = replace(recipe, teacher=replace(recipe.teacher, kind="frozen", checkpoint="x", members={}))
    assert by_teacher(plain) == {"": plain}


def test_the_caches_of_all_members_are_planned_and_written_from_the_command_line(inputs: Path, tmp_path: Path, capsys):
    words = [word.replace("@", f"{inputs}/") for word in (*BOTH, *FIXED)]
    words += ["precision=fp32", "run.device=cpu", "data.batch_size=8", "student.text.context_length=24"]
    assert cli.main(["cache", "plan", "smoke", *words]) == 0
    told = capsys.readouterr().out
    assert "teacher own: 32 views" in told and "teacher other: 32 views" in told
    stored = [*words, "teacher.members.own.cache_storage=int8", "teacher.members.own.cache_components=4"]
    assert cli.main(["cache", "plan", "smoke", *stored]) == 0
    assert "4" in capsys.readouterr().out
    assert cli.main(["cache", "write", "smoke", *words]) == 2
    assert "or set teacher.members.own.cache=FOLDER or teacher.members.other.cache" in capsys.readouterr().err
    assert cli.main(["cache", "write", "smoke", *words, "--to", str(tmp_path / "caches")]) == 0
    told = capsys.readouterr().out
    for name in ("own", "other"):
        assert f"teacher.members.{name}.cache={tmp_path}/caches/{name}" in told
        assert (tmp_path / "caches" / name / "index.json").exists()
