"""The partly trainable teacher: what is named learns as the definition says, and nothing else changes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from test_prototypes import Allocations, TinyHead
from test_ranks import ended, start_ranks, worst
from tiny_runs import losses, opened, tiny, to_the_bit, trained, words
from torch import Tensor, nn

from distill.compose import compose, load_trained
from distill.config import InvalidCombination, InvalidValue, Recipe, Teacher, load_recipe
from distill.eval.command import load_encoder
from distill.objective.prototypes import Target, bottleneck, prototype_cross_entropy
from distill.train import checkpoint, loop
from distill.train.learner import Learner
from distill.train.optim import clip_gradients, parameter_groups, trained_parameters
from distill.train.step import training_step
from teachers import Partial

CROPS = ("objective.cls.weight=1", "data.views.num_local=2")
# Decay and momentum would move what gets no gradient, if the optimiser held it.
EAGER = ("optim.warmup=0", "optim.weight_decay=0.5", "optim.lr=1e-2")
PARTS = {
    "head": ("teacher.trainable=[head]",),
    "blocks": ("teacher.trainable=[blocks]", "teacher.last_k=1"),
    "norms": ("teacher.trainable=[norms]",),
    "all three": ("teacher.trainable=[head,blocks,norms]", "teacher.last_k=1"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training whose teacher was centred, to learn from."""
    return trained(tmp_path_factory.mktemp("teachers") / "run", "optim.steps=2", "optim.warmup=0", *CROPS)


def partial(run: Path, *settings: str) -> tuple[str, ...]:
    return ("teacher.kind=partial", f"teacher.checkpoint={run}", *(settings or PARTS["head"]))


def named(part: str, names: set[str]) -> set[str]:
    """The parameters of a part by their names alone; the tower has two blocks."""
    image = {name for name in names if name.startswith("encoder.image.")}
    last = ("encoder.image.model.blocks.1.", "encoder.image.model.norm.")
    return {
        "head": {name for name in names if name.startswith("heads.")},
        "blocks": {name for name in image if name.startswith(last)},
        "norms": {name for name in image if "norm" in name or name.endswith(".bias")},
    }[part]


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def stepped(recipe: Recipe, *, steps: int = 3) -> tuple[dict[str, Tensor], dict[str, Tensor], list[float]]:
    """The teacher's state before and after some steps, and their losses."""
    found = []
    with opened(recipe) as training:
        before = state(training.parts.teacher)
        for number, batch in zip(range(steps), training.stream, strict=False):
            step = training_step(
                batch,
                model=training.model,
                parts=training.parts,
                optimizer=training.optimizer,
                accelerator=training.accelerator,
                progress=number / 10,
                overhear=True,
            )
            assert not any(value.requires_grad for value in step.losses.diagnostics.values())
            found.append(step.losses.total.item())
        return before, state(training.parts.teacher), found


@pytest.mark.parametrize("part", PARTS)
def test_exactly_the_named_parts_learn_and_the_losses_notice(part: str, run: Path, tmp_path: Path):
    before, after, found = stepped(tiny(tmp_path / "run", *EAGER, *CROPS, *partial(run, *PARTS[part])))
    names = {name for name, _ in compose(tiny(tmp_path)).teacher.named_parameters()}
    names = {f"encoder.{name}" if name.startswith("image.") else name for name in names}
    parts = ("head", "blocks", "norms") if part == "all three" else (part,)
    expected = set().union(*(named(one, names) for one in parts))
    assert expected
    assert {name for name in before if not torch.equal(before[name], after[name])} == expected
    *_, still = stepped(tiny(tmp_path / "frozen", *EAGER, *CROPS, "teacher.kind=frozen", f"teacher.checkpoint={run}"))
    assert found[0] == still[0] and found[2] != still[2]


def test_the_side_teacher_of_a_run_is_its_start_with_what_it_learnt(run: Path, tmp_path: Path):
    student = trained(tmp_path / "student", *EAGER, *partial(run, *PARTS["blocks"]))
    start, found = load_trained(run).encoder.state_dict(), load_encoder(student, "teacher")[0].state_dict()
    moved = {f"encoder.{name}" for name in start if not torch.equal(start[name], found[name])}
    assert moved == named("blocks", {f"encoder.{name}" for name in start})


def test_history_begins_with_the_first_part_that_learns_and_the_teacher_stays_in_eval(run: Path, tmp_path: Path):
    for part, has_history in (("head", False), ("blocks", True), ("norms", True)):
        with opened(tiny(tmp_path / part, *partial(run, *PARTS[part]))) as training:
            teacher, batch = training.parts.teacher, next(training.stream)
        assert isinstance(teacher, Partial)
        asked = {name for name, _ in trained_parameters(teacher)}
        assert not any(module.training for module in teacher.train().modules())
        assert teacher.targets(batch, None).tokens.patches.requires_grad is has_history
        assert asked == {name for name, _ in trained_parameters(teacher)} != set()


def test_the_student_may_start_as_a_copy_of_the_teachers_start(run: Path, tmp_path: Path):
    inits = ("student.image.init=teacher", "student.text.init=teacher", "student.head.init=teacher")
    parts, source = compose(tiny(tmp_path, *CROPS, *partial(run), *inits)), load_trained(run)
    for ours, theirs in ((parts.learner.encoder, source.encoder), (parts.learner.heads, source.heads)):
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    places = {value.data_ptr() for value in parts.teacher.state_dict().values()}
    assert not places & {value.data_ptr() for value in parts.learner.state_dict().values()}
    centre = parts.objective.state_dict()["patch_balance.centre"]
    assert torch.equal(centre, source.balance["patch_balance.centre"]) and centre.abs().sum() > 0


def test_without_weight_for_the_teacher_the_student_is_a_frozen_teachers_to_the_bit(run: Path, tmp_path: Path):
    settings = partial(run, *PARTS["all three"], "teacher.loss_weight=0")
    ours = trained(tmp_path / "partial", *EAGER, *CROPS, *settings)
    theirs = trained(tmp_path / "frozen", *EAGER, *CROPS, "teacher.kind=frozen", f"teacher.checkpoint={run}")
    assert to_the_bit(ours) == to_the_bit(theirs)
    mine, wanted = (checkpoint.find(folder).tensors("student") for folder in (ours, theirs))
    assert all(torch.equal(mine[name], wanted[name]) for name in wanted)
    start = state(compose(tiny(tmp_path, *CROPS, *settings)).teacher)
    assert all(torch.equal(value, start[name]) for name, value in checkpoint.find(ours).tensors("teacher").items())


@pytest.fixture
def plain_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam divides every gradient by its size, and makes whole steps of the rounding errors where the true one is 0."""

    def build(learner: Learner, recipe: Recipe) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameter_groups(learner, recipe), lr=recipe.optim.lr)

    monkeypatch.setattr(loop, "build_optimizer", build)


@pytest.mark.parametrize("balance", ["centre", "sinkhorn"])
def test_four_micro_batches_are_one_batch(balance: str, run: Path, tmp_path: Path, plain_descent: None):
    steps = ("data.batch_size=16", "optim.steps=4", "optim.warmup=0", "optim.lr=0.05", f"run.folder={tmp_path}")
    settings = (*steps, *CROPS, *partial(run, *PARTS["all three"]), f"objective.prototypes.balance={balance}")
    whole, pieces = (trained(tmp_path / n, *settings, "masking.image_share=0.6", f"optim.accumulate={n}") for n in "14")
    # Measured worst cases, of losses and of weights: 2.3e-7 and 2.6e-7.
    assert max(abs(a - b) / b for a, b in zip(losses(pieces), losses(whole), strict=True)) < 3e-6
    for part in ("student", "teacher"):
        ours, theirs = (checkpoint.find(folder).tensors(part) for folder in (pieces, whole))
        assert ours.keys() == theirs.keys()
        assert (
            max(float((ours[k] - theirs[k]).abs().max() / theirs[k].abs().max().clamp(min=1e-2)) for k in ours) < 3e-6
        )
    start = load_trained(run).heads.state_dict()["members.shared.directions"]
    assert not torch.equal(theirs["heads.members.shared.directions"], start)


@pytest.mark.parametrize("optimiser", ["adamw", "adafactor"])
def test_a_resumed_run_is_an_uninterrupted_one_to_the_bit(optimiser: str, run: Path, tmp_path: Path):
    settings = [*EAGER, *partial(run, *PARTS["all three"]), f"optim.name={optimiser}", "run.checkpoint_every=3"]
    settings += ["run.keep=9", "evaluate.tasks=[retrieval]", "evaluate.num_images=8", "evaluate.baselines=true"]
    whole = trained(tmp_path / "whole", *settings)
    resumed = shutil.copytree(whole, tmp_path / "resumed")
    shutil.rmtree(checkpoint.folder_of(resumed, 6))
    (resumed / "summary.json").unlink()
    trained(resumed, *settings)
    assert to_the_bit(resumed) == to_the_bit(whole)
    ours, theirs = (checkpoint.verify(checkpoint.folder_of(folder, 6)) for folder in (resumed, whole))
    for name in ("student", "teacher", "objective", "optimizer"):
        mine, wanted = ours.tensors(name), theirs.tensors(name)
        assert mine.keys() == wanted.keys() and all(torch.equal(mine[key], wanted[key]) for key in wanted)
    learning = {name for name, _ in trained_parameters(compose(tiny(tmp_path, *settings)).teacher)}
    assert theirs.tensors("teacher").keys() == learning
    optimised = {name.split("/", 1)[1] for name in theirs.tensors("optimizer")}
    assert {name.removeprefix("teacher.") for name in optimised if name.startswith("teacher.")} == learning
    assert set(json.loads((whole / "baselines.json").read_text())) == {"untrained", "teacher"}


@pytest.mark.parametrize(("limit", "student", "teacher"), [(0.0, 10.0, 2.0), (3.0, 3.0, 2.0), (1.0, 1.0, 1.0)])
def test_the_teachers_gradient_is_averaged_over_ranks_and_clipped_on_its_own(
    limit: float, student: float, teacher: float, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The other rank is made up: it has no gradient at all."""

    def reduce(gradients: list[Tensor], reduction: str) -> list[Tensor]:
        assert reduction == "mean"
        return [gradient / 2 for gradient in gradients]

    with opened(tiny(tmp_path / "run", *partial(run, *PARTS["blocks"]))) as training:
        accelerator, parts = training.accelerator, training.parts
    for module, norm in ((parts.learner, 10.0), (parts.teacher, 4.0)):
        learning = [parameter for _, parameter in trained_parameters(module)]
        size = norm / sum(parameter.numel() for parameter in learning) ** 0.5
        for parameter in learning:
            parameter.grad = torch.full_like(parameter, size)
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    monkeypatch.setattr(accelerator, "reduce", reduce)
    monkeypatch.setattr(accelerator, "clip_grad_norm_", torch.nn.utils.clip_grad_norm_)
    found = clip_gradients(parts.learner, parts.teacher, limit=limit, accelerator=accelerator)
    assert found.item() == pytest.approx(10.0, rel=1e-3)
    for module, wanted in ((parts.learner, student), (parts.teacher, teacher)):
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        assert torch.nn.utils.get_total_norm(gradients).item() == pytest.approx(wanted, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", ["1", "2"])
def test_two_processes_are_one(accumulate: str, run: Path, tmp_path: Path):
    settings = ("optim.steps=20", *CROPS, *partial(run, *PARTS["all three"]), f"optim.accumulate={accumulate}")
    two = start_ranks(words(tmp_path / "two", *settings))
    trained(tmp_path / "one", *settings)
    assert ended(two) == [0, 0]
    # Measured worst case: 1.5e-5, after 20 steps of Adam in which the teacher moves too.
    assert worst(tmp_path / "two", tmp_path / "one") < 5e-5


RUN = "teacher.kind=partial teacher.checkpoint=run "
HEAD = RUN + "teacher.trainable=[head] "
MEANINGLESS = [
    (RUN, "teacher.trainable"),
    ("teacher.trainable=[head]", "teacher.trainable"),
    ("teacher.last_k=1", "teacher.last_k"),
    ("teacher.lr_scale=0.5", "teacher.lr_scale"),
    ("teacher.kind=frozen teacher.checkpoint=run teacher.loss_weight=0.5", "teacher.loss_weight"),
    (HEAD + "teacher.last_k=1", "teacher.last_k"),
    (RUN + "teacher.trainable=[blocks]", "teacher.last_k"),
    (HEAD + "objective.patch.target=features", "objective.patch.target"),
    ("teacher.kind=partial teacher.trainable=[head]", "teacher.checkpoint"),
    ("teacher.kind=partial teacher.trainable=[head] teacher.model=timm:x teacher.weights=x", "teacher.model"),
    (HEAD + "teacher.scope=head", "teacher.scope"),
    (HEAD + "objective.patch.supervise=none", "objective.patch.supervise"),
]


@pytest.mark.parametrize(("settings", "key"), MEANINGLESS, ids=lambda text: text)
def test_settings_that_mean_nothing_for_a_partial_teacher_are_refused(settings: str, key: str):
    with pytest.raises(InvalidCombination) as caught:
        load_recipe("ibotpp", settings.split())
    assert key in caught.value.keys


@pytest.mark.parametrize(
    "wrong", [{"lr_scale": 0.0}, {"loss_weight": -1.0}, {"last_k": -1}, {"trainable": ("head", "head")}]
)
def test_values_out_of_range_are_refused(wrong: dict):
    with pytest.raises(InvalidValue):
        Teacher(**wrong)


def test_more_last_blocks_than_the_teacher_has_are_refused(run: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"teacher.last_k is 3, but the teacher has 2 blocks"):
        compose(tiny(tmp_path, *partial(run, "teacher.trainable=[blocks]", "teacher.last_k=3")))


def naive(
    tokens: Tensor, student: TinyHead, teacher_tokens: Tensor, teacher: TinyHead, offset: Tensor, weights: Tensor
):
    """The cross-entropy by its definition, with every [M, K] tensor alive."""
    with torch.autocast("cpu", enabled=False):
        targets = torch.softmax(teacher(teacher_tokens) @ teacher.prototypes().T / 0.05 + offset, dim=1)
        logs = torch.log_softmax(student(tokens) @ student.prototypes().T / 0.1, dim=1)
    return -(weights[:, None] * targets * logs).sum()


def chunked(tokens, student, teacher_tokens, teacher, offset, weights, *, gradient=1.0, max_elements=None):
    rows = 1000 if max_elements is None else max(1, max_elements // len(teacher.raw))
    features = bottleneck(teacher_tokens, head=teacher, rows=rows)
    target = Target(features, teacher.prototypes(), offset, 0.05, gradient)
    return prototype_cross_entropy(
        tokens,
        student_head=student,
        target=target,
        student_temperature=0.1,
        weights_M=weights,
        max_elements=max_elements,
    ).loss


def problem(num_tokens=17, dtype=torch.float64, **sizes):
    torch.manual_seed(0)
    student, teacher = TinyHead(**sizes).to(dtype), TinyHead(**sizes).to(dtype)
    width, num_prototypes = student.trunk[0].in_features, len(student.raw)
    tokens, teacher_tokens = (torch.randn(num_tokens, width, dtype=dtype).requires_grad_() for _ in range(2))
    offset, weights = torch.randn(num_prototypes, dtype=dtype), torch.rand(num_tokens, dtype=dtype)
    return tokens, student, teacher_tokens, teacher, offset, weights


def gradients(loss: Tensor, *holders) -> list[list[Tensor]]:
    """Of each holder: a tensor, or a module with its parameters."""
    lists = [[one] if isinstance(one, Tensor) else list(one.parameters()) for one in holders]
    found = iter(torch.autograd.grad(loss, [value for values in lists for value in values]))
    return [[next(found) for _ in values] for values in lists]


def test_through_the_whole_objective_the_teacher_gets_the_gradient_of_the_definition(run: Path, tmp_path: Path):
    settings = partial(run, *PARTS["all three"], "teacher.loss_weight=0.5", "objective.contrastive.weight=0")
    with opened(tiny(tmp_path / "run", *CROPS, *settings, "objective.cls.weight=0.7")) as training:
        parts, batch = training.parts, next(training.stream)
    learner, teacher, prototypes = parts.learner, parts.teacher, parts.recipe.objective.prototypes

    def logits(tokens: Tensor, head: nn.Module, temperature: float) -> Tensor:
        return head(tokens) @ head.prototypes().T / temperature

    predictions, targets = learner(batch), teacher.targets(batch, None)
    kinds = {  # weight of the loss, the student's tokens, the teacher's for them, the centre
        "patch": (2.0, predictions.masked.patches, targets.tokens.patches, parts.objective.patch_balance.centre),
        "cls": (0.7, predictions.local_cls, targets.tokens.cls[:, 0], parts.objective.cls_balance.centre),
    }
    loss = torch.zeros(())
    for weight, student, taught, centre in kinds.values():
        wanted = logits(taught, teacher.heads.patch, prototypes.teacher_temperature)
        wanted = (wanted - centre / prototypes.teacher_temperature).softmax(-1)
        logs = logits(student, learner.heads.patch, prototypes.student_temperature).log_softmax(-1)
        loss = loss - weight * (wanted * logs).sum(-1).mean()
    learning = [parameter for _, parameter in trained_parameters(teacher)]
    expected = torch.autograd.grad(loss, learning, retain_graph=True)
    got = parts.objective(predictions, targets, hidden=batch.hidden, heads=learner.heads, progress=1.0).total
    torch.testing.assert_close(got, loss, rtol=1e-5, atol=0)
    found = torch.autograd.grad(got, learning)
    # Measured worst case: 4e-7.
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine - 0.5 * theirs).norm() <= 4e-6 * theirs.norm().clamp(min=1e-4)


@pytest.mark.parametrize("max_elements", [1, 30, 7 * 30, 2**22])
def test_the_target_gets_the_gradient_of_the_definition_and_the_student_keeps_its_own(max_elements: int):
    given = problem()
    tokens, student, teacher_tokens, teacher, *_ = given
    wanted = gradients(naive(*given) * 3, tokens, student, teacher_tokens, teacher)
    got = chunked(*given, gradient=0.25, max_elements=max_elements)
    torch.testing.assert_close(got, naive(*given), atol=0, rtol=1e-12)
    found = gradients(got * 3, tokens, student, teacher_tokens, teacher)
    for mine, theirs, factor in zip(found, wanted, (1, 1, 0.25, 0.25), strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert other.norm() > 0 and (one - factor * other).norm() <= 1e-12 * other.norm()


def test_one_head_for_both_gets_the_sum_of_both_gradients():
    tokens, head, teacher_tokens, _, *rest = problem()
    given = (tokens, head, teacher_tokens, head, *rest)
    (wanted,), (got,) = gradients(naive(*given), head), gradients(chunked(*given, max_elements=90), head)
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("learning", ["tokens", "trunk", "prototypes"])
def test_what_of_the_target_does_not_learn_is_left_out(learning: str):
    given = problem()
    _, student, teacher_tokens, teacher, *_ = given
    student.requires_grad_(False)
    parts = {"tokens": [teacher_tokens], "trunk": [*teacher.trunk.parameters()], "prototypes": [teacher.raw]}
    wanted = gradients(naive(*given), *parts[learning])
    for value in (given[0], teacher_tokens, *teacher.parameters()):
        value.requires_grad_(False)
    for value in parts[learning]:
        value.requires_grad_(True)
    chunked(*given, max_elements=90).backward()
    assert all(value.grad is None for name in parts if name != learning for value in parts[name])
    for value, (theirs,) in zip(parts[learning], wanted, strict=True):
        torch.testing.assert_close(value.grad, theirs, atol=1e-12, rtol=1e-10)


def test_a_target_without_gradient_is_a_constant_whatever_its_parts_ask_for():
    given = problem()
    chunked(*given, gradient=0.0).backward()
    assert given[2].grad is None and all(parameter.grad is None for parameter in given[3].parameters())
    with torch.no_grad():
        assert not chunked(*given).requires_grad


def test_under_bf16_autocast_the_targets_gradients_stay_within_bf16_rounding_of_the_definition():
    given = problem(num_tokens=64, dtype=torch.float32)
    wanted = gradients(naive(*given), given[2], given[3])
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            given[3](given[2])  # leaves casts without history in autocast's cache
        got = chunked(*given, max_elements=90)
    found = gradients(got, given[2], given[3])
    # Measured worst case: 1.1e-2 relative in norm.
    for mine, theirs in zip(found, wanted, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert one.dtype == torch.float32 and (one - other).norm() <= 2e-2 * other.norm()


def test_a_target_that_learns_costs_a_chunk_of_memory_and_not_the_logits():
    peaks = {}
    for gradient in (0.0, 1.0):
        given = problem(1024, torch.float32, width=64, hidden=64, bottleneck=32, num_prototypes=32_768)
        with Allocations() as allocations:
            chunked(*given, gradient=gradient, max_elements=2**22).backward()
        peaks[gradient] = allocations.peak
    logits, prototypes = 1024 * 32_768 * 4, 32_768 * 32 * 4
    # Measured: 1.1 times the prototypes, for their own gradient.
    assert peaks[1.0] - peaks[0.0] < 3 * prototypes < 0.1 * logits
