"""Teachers by their contract: what they hold, how they follow, and that no gradient and no mode reaches them."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny_runs import opened, tiny, trained
from torch import Tensor, nn

import teachers
from distill.compose import Parts, compose
from distill.contracts import Batch, Teacher
from distill.encoders.vit import TimmViT
from distill.train.schedules import teacher_momentum
from distill.train.step import training_step
from distill.trained import load_trained
from teachers import Frozen, Momentum

CROPS = ("objective.cls.weight=1", "data.views.num_local=2")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training whose teacher was centred, to learn from."""
    return trained(tmp_path_factory.mktemp("teachers") / "run", "optim.steps=3", "optim.warmup=0", *CROPS)


def frozen(run: Path) -> tuple[str, ...]:
    return ("teacher.kind=frozen", f"teacher.checkpoint={run}")


@pytest.fixture(scope="module")
def kinds(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, ...]]:
    """Settings for every teacher there is."""
    torch.manual_seed(0)
    weights = tmp_path_factory.mktemp("timm") / "tiny.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), weights)
    from_timm = ("teacher.kind=frozen", "teacher.model=timm:vit_tiny_patch16_224", f"teacher.weights={weights}")
    return {
        "full": (),
        "head-only": ("teacher.scope=head",),
        "frozen": frozen(run),
        "timm": (*from_timm, "teacher.image_size=32", "objective.patch.target=features"),
        "partial": ("teacher.kind=partial", f"teacher.checkpoint={run}", "teacher.trainable=[norms]"),
        "ensemble": (
            *("teacher.kind=ensemble", "objective.patch.target=features", f"teacher.members.own.checkpoint={run}"),
            *(word.replace("teacher.", "teacher.members.other.", 1) for word in from_timm[1:]),
            "teacher.members.other.image_size=32",
        ),
    }


WITHOUT_GRADIENT = ["full", "head-only", "frozen", "timm"]
NAMES = [*WITHOUT_GRADIENT, "partial", "ensemble"]


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def batch_for(parts: Parts) -> Batch:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(4, 3, 32, 32, generator=generator)
    hidden = torch.rand(4, 16, generator=generator) < 0.5
    captions = torch.randint(1, 100, (2, 4, 24), generator=generator)
    return Batch(ids=list("abcd"), pixels=pixels, hidden=hidden, captions=captions, local_crops=None)


def test_every_public_teacher_is_made_by_some_recipe(kinds: dict[str, tuple[str, ...]], tmp_path: Path):
    made = {type(compose(tiny(tmp_path, *kinds[name])).teacher).__name__ for name in NAMES}
    # A cached one needs a cache: it is made in test_cached_teacher.
    assert made | {"Cached"} == set(teachers.__all__) == {"Cached", "Ensemble", "Frozen", "Momentum", "Partial"}


@pytest.mark.parametrize("name", NAMES)
def test_a_teacher_stays_in_eval_whatever_is_asked_of_it(name: str, kinds: dict, tmp_path: Path):
    teacher = compose(tiny(tmp_path, "student.image.extra={drop_path_rate: 0.5}", *kinds[name])).teacher
    assert isinstance(teacher, Teacher)
    for ask in (lambda: teacher.train(), lambda: teacher.train(True), lambda: nn.ModuleList([teacher]).train()):
        ask()
        assert not any(module.training for module in teacher.modules())
    assert teacher.train() is teacher


@pytest.mark.parametrize("name", WITHOUT_GRADIENT)
def test_targets_carry_no_history_and_no_parameter_asks_for_gradients(name: str, kinds: dict, tmp_path: Path):
    parts = compose(tiny(tmp_path, *kinds[name]))
    batch = batch_for(parts)
    targets = parts.teacher.targets(batch, parts.learner(batch))
    assert not targets.tokens.cls.requires_grad and not targets.tokens.patches.requires_grad
    assert not any(parameter.requires_grad for parameter in parts.teacher.parameters())
    assert len(list(parts.teacher.parameters())) > 0


@pytest.mark.parametrize("name", ["full", "head-only"])
def test_a_momentum_teacher_starts_as_a_copy_and_shares_no_memory(name: str, kinds: dict, tmp_path: Path):
    parts = compose(tiny(tmp_path, *kinds[name]))
    assert same(state(parts.teacher.heads), state(parts.learner.heads))
    places = {value.data_ptr() for value in parts.learner.state_dict().values()}
    assert not places & {value.data_ptr() for value in parts.teacher.state_dict().values()}
    if name == "full":
        assert same(state(parts.teacher.image), state(parts.learner.encoder.image))


def test_a_head_only_teacher_holds_no_encoder_and_takes_the_students_tokens(kinds: dict, tmp_path: Path):
    parts = compose(tiny(tmp_path, *kinds["head-only"]))
    assert parts.teacher.image is None
    assert all(name.startswith("heads.") for name in parts.teacher.state_dict())
    held = sum(value.numel() for value in parts.teacher.state_dict().values())
    assert held == sum(value.numel() for value in parts.learner.heads.state_dict().values())
    batch = batch_for(parts)
    predictions = parts.learner(batch)
    targets = parts.teacher.targets(batch, predictions)
    assert torch.equal(targets.tokens.patches, predictions.unmasked.patches)
    assert targets.heads is parts.teacher.heads


def shaken(module: nn.Module) -> nn.Module:
    """A copy with other weights and buffers."""
    other = copy.deepcopy(module)
    with torch.no_grad():
        for value in other.state_dict().values():
            value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(3)))
    return other


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.994, 1.0])
@pytest.mark.parametrize("name", ["full", "head-only"])
def test_a_momentum_teacher_follows_by_the_moving_average(name: str, momentum: float, kinds: dict, tmp_path: Path):
    parts = compose(tiny(tmp_path, *kinds[name]))
    image, heads = shaken(parts.learner.encoder.image), shaken(parts.learner.heads)
    student = {f"image.{key}": value for key, value in state(image).items()} if name == "full" else {}
    student |= {f"heads.{key}": value for key, value in state(heads).items()}
    before = state(parts.teacher)
    parts.teacher.follow(image, heads, momentum=momentum)
    after = state(parts.teacher)
    assert after.keys() == student.keys()
    buffers = {name for name, _ in parts.teacher.named_buffers()}
    for key, value in after.items():
        expected = student[key] if key in buffers else momentum * before[key] + (1 - momentum) * student[key]
        torch.testing.assert_close(value, expected, rtol=0, atol=5e-7)
    assert same(after, before) == (momentum == 1.0 and not buffers)
    if momentum == 0.0:
        assert same(after, student)


@pytest.mark.parametrize("name", ["frozen", "timm", "partial"])
def test_only_a_momentum_teacher_follows(name: str, kinds: dict, tmp_path: Path):
    parts = compose(tiny(tmp_path, *kinds[name]))
    before = state(parts.teacher)
    heads = None if parts.learner.heads is None else shaken(parts.learner.heads)
    parts.teacher.follow(shaken(parts.learner.encoder.image), heads, momentum=0.0)
    assert same(state(parts.teacher), before)


def test_in_training_the_teacher_is_the_moving_average_of_the_students(tmp_path: Path):
    """Against an average in float64 over what the student was after every step, by the schedule of the recipe."""
    recipe = tiny(tmp_path / "run", "teacher.momentum=0.5", "teacher.momentum_end=0.9", "optim.warmup=0")
    with opened(recipe) as training:
        wanted = {name: value.double() for name, value in state(training.parts.teacher.image).items()}
        parameters = {name for name, _ in training.parts.teacher.image.named_parameters()}
        for step, _ in enumerate(stepping(training)):
            momentum = teacher_momentum(step / recipe.optim.steps, recipe.teacher)
            for name, value in state(training.parts.learner.encoder.image).items():
                if name in parameters:
                    wanted[name] = momentum * wanted[name] + (1 - momentum) * value.double()
        found = state(training.parts.teacher.image)
        student = state(training.parts.learner.encoder.image)
    assert step == 5
    for name in wanted:
        # Measured worst case: 1.2e-7 on values up to 1.1.
        torch.testing.assert_close(found[name].double(), wanted[name], rtol=0, atol=1e-6)
    assert not same(found, student)


def stepping(training) -> Iterator[Batch]:
    """Every batch of a training after its step."""
    for number, batch in enumerate(training.stream):
        training_step(
            batch,
            model=training.model,
            parts=training.parts,
            optimizer=training.optimizer,
            accelerator=training.accelerator,
            progress=number / training.recipe.optim.steps,
        )
        yield batch


@pytest.mark.parametrize(("hides", "expected"), [("0.75", (24, 16)), ("0", (16, 8))], ids=["masked", "nothing hidden"])
def test_head_only_averaging_saves_one_pass_of_the_encoder(
    hides: str, expected: tuple[int, int], kinds: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In pictures, because the student sees the unmasked and the masked ones in one call: 8 are a batch."""
    forward: Callable = TimmViT.forward
    seen: list[int] = []

    def counted(self: TimmViT, pixels: Tensor, hidden: Tensor | None = None, **named):
        seen.append(len(pixels))
        return forward(self, pixels, hidden, **named)

    monkeypatch.setattr(TimmViT, "forward", counted)
    found = {}
    for name in ("full", "head-only", "frozen"):
        with opened(tiny(tmp_path / name, f"masking.ratio={hides}", *kinds[name])) as training:
            seen.clear()
            next(stepping(training))
            found[name] = sum(seen)
    assert (found["full"], found["head-only"], found["frozen"]) == (*expected, expected[0])


def test_a_frozen_teacher_looks_at_pictures_of_its_own_size(run: Path, tmp_path: Path):
    teacher = compose(tiny(tmp_path, "teacher.image_size=48", *frozen(run))).teacher
    assert isinstance(teacher, Frozen)
    batch = batch_for(compose(tiny(tmp_path)))
    tokens = teacher.targets(batch, None).tokens
    assert tokens.grid == (6, 6) and tokens.patches.shape == (4, 36, 48)
    own = compose(tiny(tmp_path, *frozen(run))).teacher
    assert own.image_size == 32
    assert torch.equal(own.targets(batch, None).tokens.patches, own.image(batch.pixels).patches)


def test_a_frozen_teacher_of_ours_is_the_trained_student_with_its_heads_and_centres(run: Path, tmp_path: Path):
    parts, source = compose(tiny(tmp_path, *CROPS, *frozen(run))), load_trained(run)
    assert same(state(parts.teacher.encoder), state(source.encoder))
    assert same(state(parts.teacher.heads), state(source.heads))
    centre = parts.objective.state_dict()["transfer.prototypes.patch_balance.centre"]
    assert torch.equal(centre, source.balance["transfer.prototypes.patch_balance.centre"]) and centre.abs().sum() > 0


def test_a_student_may_start_as_its_teacher(run: Path, tmp_path: Path):
    inits = ("student.image.init=teacher", "student.text.init=teacher", "student.head.init=teacher")
    parts = compose(tiny(tmp_path, *frozen(run), *inits))
    assert same(state(parts.learner.encoder), state(parts.teacher.encoder))
    assert same(state(parts.learner.heads), state(parts.teacher.heads))
    places = {value.data_ptr() for value in parts.teacher.state_dict().values()}
    assert not places & {value.data_ptr() for value in parts.learner.state_dict().values()}


def test_teachers_that_lack_what_the_recipe_wants_are_refused(run: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="both must name the same prototypes"):
        compose(tiny(tmp_path, *frozen(run), "student.head.num_prototypes=16"))
    headless = trained(tmp_path / "headless", "optim.steps=1", "objective.patch.supervise=none")
    with pytest.raises(ValueError, match="without a patch head"):
        compose(tiny(tmp_path, *frozen(headless)))
    with pytest.raises(ValueError, match="neither a run folder nor a checkpoint"):
        compose(tiny(tmp_path, *frozen(tmp_path / "nowhere")))


def test_captions_alone_need_no_teacher(tmp_path: Path):
    parts = compose(tiny(tmp_path, "objective.patch.supervise=none"))
    assert parts.teacher is None and parts.learner.heads is None
    assert isinstance(compose(tiny(tmp_path)).teacher, Momentum)


def test_a_fresh_student_does_not_start_where_its_teacher_did(tmp_path: Path):
    """A run of ours and the student it teaches mostly have the same seed."""
    folder = trained(tmp_path / "untrained", "optim.steps=1", "optim.lr=0", "objective.patch.supervise=masked")
    parts = compose(tiny(tmp_path, "teacher.kind=frozen", f"teacher.checkpoint={folder}"))
    student, teacher = parts.learner.encoder.state_dict(), parts.teacher.encoder.state_dict()
    weights = [name for name in student if name.endswith("attn.qkv.weight")]
    assert weights and not any(torch.equal(student[name], teacher[name]) for name in weights)
