"""No dead options: flipping any single setting changes the losses, except where the setting promises not to.

The table is checked against the recipe's own fields: a new setting without an entry fails here.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator, tracking
from accelerate.utils import LoggerType
from tiny_inputs import write_inputs
from tiny_runs import losses, numbers, opened, own_accelerator, tiny, train_alone, trained

from distill.config import Member, Recipe
from distill.train import checkpoint, loop, resume
from distill.train.step import training_step

STEPS = ("optim.steps=4", "optim.warmup=0.25")
FROZEN = ("teacher.kind=frozen", "teacher.checkpoint=@runs/first")
PARTIAL = ("teacher.kind=partial", "teacher.checkpoint=@runs/first")
ADAPTERS = (*PARTIAL, "teacher.trainable=[adapters]", "teacher.rank=2")
CACHED = (*FROZEN, "data.scenes.num_train=16")
CROPS = ("objective.cls.weight=1", "data.views.num_local=2", "data.views.local_size=32")
FEATURES = (*FROZEN, "objective.patch.target=features")
TIMM = (
    "teacher.kind=frozen",
    "teacher.model=timm:vit_tiny_patch16_224",
    "teacher.weights=@timm/first.safetensors",
    "teacher.image_size=32",
    "objective.patch.target=features",
)
ENSEMBLE = (
    *("teacher.kind=ensemble", "objective.patch.target=features", "teacher.members.one.checkpoint=@runs/first"),
    "teacher.members.two.checkpoint=@runs/second",
)
CLUSTERS = (*FROZEN, "objective.patch.target=clusters", "objective.prototypes.balance=sinkhorn")
MLP = (*FEATURES, "objective.features.adapter=mlp")
COARSE = (*FEATURES, "student.image.patch_size=16")
TIPS = ("student.text.kind=tips", "student.text.tokenizer=@words/first.model", "student.text.width=48")
SIZES_OF_ITS_OWN = tuple(f"student.image.{size}=null" for size in ("patch_size", "width", "depth", "num_heads"))
SINKHORN = ("objective.prototypes.balance=sinkhorn",)
PARQUET = (
    "data.source=dataset",
    "data.dataset.format=parquet",
    "data.dataset.path=@mixed",
    "data.dataset.columns={alt: txt, short: json.captions, detailed: json.long}",
)
STREAM = (*PARQUET, "data.dataset.streaming=true", "data.dataset.shuffle_buffer=4")
BROKEN = (*PARQUET, "data.dataset.path=@broken", "data.dataset.max_broken_share=0.9")
FOLDER = (
    "data.source=dataset",
    "data.dataset.format=imagefolder",
    "data.dataset.path=@folder",
    "data.dataset.captions_file=@folder.json",
)


@dataclass(frozen=True)
class Switch:
    """Another value than the one `context` and the tiny recipe give. `@` stands for the folder of the inputs.

    `along` is what the other value is refused without: a frozen teacher needs to be named.
    """

    value: str
    context: tuple[str, ...] = ()
    along: tuple[str, ...] = ()


SWITCHES = {
    "seed": Switch("1"),
    "precision": Switch("bf16"),
    "data.source": Switch("dataset", tuple(word for word in PARQUET if word != "data.source=dataset")),
    "data.image_size": Switch("40"),
    "data.batch_size": Switch("16"),
    "data.scenes.tier": Switch("hard"),
    "data.scenes.split": Switch("compositional", ("data.scenes.tier=hard",)),
    "data.scenes.world_seed": Switch("1"),
    "data.scenes.num_train": Switch("50"),
    "data.scenes.cache": Switch("@scenes"),
    "data.dataset.format": Switch("webdataset", PARQUET),
    "data.dataset.path": Switch("@other", PARQUET),
    "data.dataset.captions_file": Switch("@other.json", FOLDER),
    "data.dataset.columns.image": Switch("second", PARQUET),
    "data.dataset.columns.alt": Switch("json.long", PARQUET),
    "data.dataset.columns.short": Switch("txt", PARQUET),
    "data.dataset.columns.detailed": Switch("txt", PARQUET),
    "data.dataset.streaming": Switch("true", PARQUET),
    "data.dataset.shuffle_buffer": Switch("20", STREAM),
    "data.dataset.max_broken_share": Switch("0.01", BROKEN),
    "data.views.global_scale": Switch("[0.3, 0.6]"),
    "data.views.flip": Switch("0.5"),
    "data.views.fixed": Switch("1", ("data.views.flip=0.5",)),
    "data.views.num_local": Switch("3", CROPS),
    "data.views.local_scale": Switch("[0.3, 0.6]", CROPS),
    "data.views.local_size": Switch("16", CROPS),
    "masking.ratio": Switch("0.5"),
    "masking.pattern": Switch("block"),
    "masking.image_share": Switch("0.5"),
    "masking.how": Switch("drop", ("objective.patch.supervise=visible",)),
    "teacher.kind": Switch("frozen", along=("teacher.checkpoint=@runs/first",)),
    "teacher.scope": Switch("head"),
    "teacher.momentum": Switch("0.5"),
    "teacher.momentum_end": Switch("0.95", ("teacher.momentum=0.9",)),
    "teacher.checkpoint": Switch("@runs/second", FROZEN),
    "teacher.model": Switch("timm:deit_tiny_patch16_224", TIMM),
    "teacher.weights": Switch("@timm/second.safetensors", TIMM),
    "teacher.image_size": Switch("48", FROZEN),
    "teacher.match": Switch("pixels", COARSE),
    "teacher.cache_storage": Switch("int8", (*CACHED, "teacher.cache=@fp32"), along=("teacher.cache=@int8",)),
    "teacher.cache_components": Switch("8", (*CACHED, "teacher.cache=@fp32"), along=("teacher.cache=@pca",)),
    "teacher.trainable": Switch("[norms]", (*PARTIAL, "teacher.trainable=[head]")),
    "teacher.last_k": Switch("2", (*PARTIAL, "teacher.trainable=[blocks]", "teacher.last_k=1")),
    "teacher.rank": Switch("3", ADAPTERS),
    "teacher.alpha": Switch("4", ADAPTERS),
    "teacher.lr_scale": Switch("0.5", (*PARTIAL, "teacher.trainable=[head]")),
    "teacher.members": Switch("{three: {checkpoint: @runs/second}}", ENSEMBLE),
    "teacher.balance": Switch("running_loss", ENSEMBLE),
    "teacher.drop": Switch("0.9", ENSEMBLE),
    "teacher.loss_weight": Switch("0", (*PARTIAL, "teacher.trainable=[head]")),
    "student.image.model": Switch(
        "timm:test_convnext", ("data.image_size=64", "student.image.num_cls=1"), along=SIZES_OF_ITS_OWN
    ),
    "student.image.patch_size": Switch("16"),
    "student.image.width": Switch("24"),
    "student.image.depth": Switch("1"),
    "student.image.num_heads": Switch("4"),
    "student.image.num_cls": Switch("1"),
    "student.image.extra": Switch("{init_values: 0.5}"),
    "student.image.init": Switch("@runs/second"),
    "student.image.update": Switch("freeze"),
    "student.image.last_k": Switch("2", ("student.image.update=last_k", "student.image.last_k=1")),
    "student.image.lr_scale": Switch("0.5"),
    "student.text.kind": Switch("tips", ("student.text.tokenizer=@words/first.model", "student.text.width=48")),
    "student.text.width": Switch("32"),
    "student.text.depth": Switch("2"),
    "student.text.num_heads": Switch("4"),
    "student.text.context_length": Switch("8"),
    "student.text.tokenizer": Switch("@words/second.model", TIPS),
    "student.text.init": Switch("@runs/second"),
    "student.text.update": Switch("freeze"),
    "student.text.last_k": Switch("2", ("student.text.depth=3", "student.text.update=last_k", "student.text.last_k=1")),
    "student.text.lr_scale": Switch("0.5"),
    "student.head.num_prototypes": Switch("16"),
    "student.head.hidden": Switch("32"),
    "student.head.bottleneck": Switch("16"),
    "student.head.shared": Switch("false", CROPS),
    "student.head.init": Switch("teacher", FROZEN),
    "objective.contrastive.weight": Switch("0.5"),
    "objective.contrastive.kind": Switch("sigmoid"),
    "objective.contrastive.temperature": Switch("0.1"),
    "objective.contrastive.first": Switch("[short]"),
    "objective.contrastive.second": Switch("[short]"),
    "objective.cls.weight": Switch("0.5", CROPS),
    "objective.patch.weight": Switch("1.0"),
    "objective.patch.supervise": Switch("masked"),
    "objective.patch.target": Switch("features", FROZEN),
    "objective.patch.normalise": Switch("ibot_plus_visible"),
    "objective.patch.visible_weight": Switch("0.5", ("objective.patch.normalise=ibot_plus_visible",)),
    "objective.prototypes.balance": Switch("sinkhorn"),
    "objective.prototypes.centre_momentum": Switch("0.5"),
    "objective.prototypes.sinkhorn_iterations": Switch("1", SINKHORN),
    "objective.prototypes.student_temperature": Switch("0.2"),
    "objective.prototypes.teacher_temperature": Switch("0.06"),
    "objective.prototypes.teacher_temperature_start": Switch("0.05"),
    "objective.prototypes.teacher_warmup": Switch("0.6"),
    "objective.features.patch_weight": Switch("0.5", FEATURES),
    "objective.features.cls_weight": Switch("0.5", FEATURES),
    "objective.features.loss": Switch("smooth_l1", FEATURES),
    "objective.features.gram_weight": Switch("0.5", FEATURES),
    "objective.features.rkd_weight": Switch("0.5", FEATURES),
    "objective.features.standardise": Switch("phi_s", FEATURES),
    "objective.features.momentum": Switch("0.5", FEATURES),
    "objective.features.adapter": Switch("mlp", FEATURES),
    "objective.features.adapter_hidden": Switch("24", MLP),
    "objective.features.student_layers": Switch("[1]", FEATURES),
    "objective.clusters.momentum": Switch("0.5", CLUSTERS),
    "optim.name": Switch("adafactor"),
    "optim.lr": Switch("1e-3"),
    "optim.schedule": Switch("linear"),
    "optim.warmup": Switch("0.5"),
    "optim.lr_end": Switch("0.5"),
    "optim.weight_decay": Switch("0.5"),
    "optim.betas": Switch("[0.8, 0.9]"),
    "optim.layer_decay": Switch("0.5"),
    "optim.head_lr_scale": Switch("0.5"),
    "optim.clip": Switch("0.5"),
    "optim.steps": Switch("5"),
}

ONE = "teacher.members.one."


def of_a_member(word: str) -> str:
    """A setting of a teacher that teaches alone, as that of one of several."""
    for alone, member in (("teacher.", ONE), ("objective.features.", f"{ONE}features.")):
        if word.startswith(alone) and not word.startswith(("teacher.kind", "teacher.members.")):
            return word.replace(alone, member, 1)
    return word


SWITCHES |= {
    of_a_member(key): Switch(
        switch.value,
        tuple(
            of_a_member(word)
            for word in (*ENSEMBLE[:2], *ENSEMBLE[3:], *switch.context)
            if word != "teacher.kind=frozen"
        ),
        tuple(map(of_a_member, switch.along)),
    )
    for key, switch in SWITCHES.items()
    if key.startswith("objective.features.")
    or key.removeprefix("teacher.") in {field.name for field in dataclasses.fields(Member)}
}
"""What a member of an ensemble has of its own is heard as if it taught alone."""
SWITCHES[f"{ONE}weight"] = Switch("0.5", ENSEMBLE)

SAME_RESULTS = {"optim.accumulate", "student.image.gradient_checkpointing", "compile", "teacher.cache", f"{ONE}cache"}
"""Settings that promise to change memory or time only; each has its own test that it is heard, below or, for the cache,
in test_cached_teacher and test_ensemble."""

ORCHESTRATION = {
    "name": "another",
    "evaluate.tasks": "[retrieval, linear_segmentation]",
    "evaluate.every": "2",
    "evaluate.side": "teacher",
    "evaluate.baselines": "true",
    "evaluate.num_images": "12",
    "evaluate.root": "@masks",
    "evaluate.columns.image": "picture",
    "evaluate.columns.label": "kind",
    "evaluate.columns.captions": "texts",
    "evaluate.columns.mask": "map",
    "evaluate.class_names": "@classes.txt",
    "evaluate.split": "test",
    "evaluate.segmentation": "@masks/second",
    "evaluate.classes": "@classes/second",
    "evaluate.pairs": "@pairs/second",
    "evaluate.instances": "@instances/second",
    "evaluate.index": "merged",
    "evaluate.classifier": "sgd",
    "evaluate.classifier_reads": "dinov2",
    "evaluate.geometry": "@geometry/second",
    "evaluate.depth_crop": "none",
    "evaluate.probe": "ridge",
    "evaluate.probe_steps": "3",
    "evaluate.decoder": "@decoder.safetensors",
    "evaluate.precision": "bf16",
    "evaluate.templates": "tcl",
    "evaluate.features": "final",
    "evaluate.mode": "slide",
    "evaluate.background": "named",
    "evaluate.background_score": "1.0",
    "evaluate.hidden_ratio": "0.5",
    "run.folder": "@elsewhere",
    "run.name": "another",
    "run.checkpoint_every": "100",
    "run.keep": "1",
    "run.log_every": "2",
    "run.tracker": "tensorboard",
    "run.workers": "3",
    "run.prefetch": "1",
    "run.resume": "false",
    "run.device": "auto",
}
"""Settings that never change what is trained."""

UNHEARD = (
    *(f"evaluate.columns.{name}" for name in ("image", "label", "captions", "mask")),
    *("evaluate.class_names", "evaluate.split", "evaluate.index", "evaluate.depth_crop"),
)
"""Settings that say nothing of these folders: one run flips them all, with the root."""

ALONG = {
    "evaluate.root": tuple(f"{key}={ORCHESTRATION[key]}" for key in UNHEARD),
    "evaluate.decoder": ("evaluate.probe=dpt",),
    "evaluate.classifier_reads": ("evaluate.tasks=[knn]",),  # these towers have two blocks
}
"""What such a setting cannot be flipped without."""

EVALUATING = (
    "evaluate.tasks=[zero_shot_segmentation, knn, linear_classification, compositional_pairs, instance_retrieval, "
    "depth, alignment]",
    "evaluate.every=3",
    "evaluate.num_images=8",
    "evaluate.segmentation=@masks/first",
    "evaluate.background=threshold",
    "evaluate.classes=@classes/first",
    "evaluate.pairs=@pairs/first",
    "evaluate.instances=@instances/first",
    "evaluate.geometry=@geometry/first",
    "evaluate.probe=linear",
    "evaluate.probe_steps=2",
    "run.checkpoint_every=2",
    "run.keep=3",
)


def all_settings(section: Any, prefix: str = "") -> Iterator[str]:
    """The dotted name of every field of a tree of dataclasses."""
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if is_dataclass(value):
            yield from all_settings(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of everything a recipe can name: trained teachers, timm files, tokenizers, data sets."""
    folder = tmp_path_factory.mktemp("inputs")
    for seed, name in enumerate(("first", "second")):
        trained(folder / "runs" / name, *CROPS, "optim.steps=1", f"seed={seed}")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def outcome(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[str, ...]], list[float] | str]:
    """The losses of a tiny run with these settings, or why there are none. Runs are carried out once each."""
    known: dict[tuple[str, ...], list[float] | str] = {}

    def outcome_of(settings: tuple[str, ...]) -> list[float] | str:
        if settings not in known:
            placed = [word.replace("@", f"{inputs}/") for word in settings]
            run = tmp_path_factory.mktemp("switch") / "run"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(resume, "save", lambda *arguments, **named: None)  # writing 100 checkpoints takes long
                try:
                    known[settings] = losses(trained(run, *STEPS, *placed))
                except ValueError as error:
                    known[settings] = str(error)
        return known[settings]

    return outcome_of


def test_every_setting_has_an_entry():
    known = [*all_settings(Recipe()), *all_settings(Member(), ONE)]
    assert len(known) > 100
    entries = [*SWITCHES, *SAME_RESULTS, *ORCHESTRATION]
    assert sorted(entries) == sorted(known)
    assert all(key.startswith(("run.", "evaluate.")) or key == "name" for key in ORCHESTRATION)
    assert {key for key in known if key.startswith(("run.", "evaluate."))} <= set(ORCHESTRATION)


@pytest.mark.parametrize("key", SWITCHES)
def test_flipping_one_setting_alone_changes_the_losses(key: str, outcome: Callable):
    switch = SWITCHES[key]
    before = outcome(switch.context)
    after = outcome((*switch.context, *switch.along, f"{key}={switch.value}"))
    assert isinstance(before, list) and len(before) >= 4, before
    if key == "data.dataset.max_broken_share":
        assert isinstance(after, str) and "broken" in after
        return
    assert isinstance(after, list), after
    assert before != after


@pytest.fixture(scope="module")
def evaluated(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the orchestrated runs are compared with."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    return trained(folder, *STEPS, *(word.replace("@", f"{inputs}/") for word in EVALUATING))


@pytest.fixture(scope="module", params=[key for key in ORCHESTRATION if key not in UNHEARD])
def orchestrated(
    request: pytest.FixtureRequest, inputs: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A run with one setting of orchestration flipped: the setting, and the run's folder."""
    key, value = request.param, ORCHESTRATION[request.param]
    words = [word.replace("@", f"{inputs}/") for word in (*EVALUATING, *ALONG.get(key, ()), f"{key}={value}")]
    recipe = tiny(tmp_path_factory.mktemp("orchestrated") / "run", *STEPS, *words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Notebook)
        patch.setattr(tracking, "_available_trackers", [LoggerType.TENSORBOARD])
        assert train_alone(recipe) == 0
    return key, loop.run_folder(recipe)


class Notebook(tracking.GeneralTracker):
    """Stands in for a tracker whose package may not be here: accelerate drops those without a word."""

    name = "tensorboard"
    requires_logging_directory = True
    main_process_only = True

    def __init__(self, run_name: str, logging_dir: Path):
        super().__init__()
        self.file = Path(logging_dir) / "notebook.jsonl"

    @property
    def tracker(self) -> Path:
        return self.file

    def log(self, values: dict, step: int, **more: Any) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def test_orchestration_never_changes_the_training(orchestrated: tuple[str, Path], evaluated: Path):
    _, run = orchestrated
    found = {line["step"]: line for line in numbers(run) if "loss" in line}
    expected = {line["step"]: line for line in numbers(evaluated) if "loss" in line}
    assert len(found) >= 3
    assert found == {step: expected[step] for step in found}
    ours, theirs = (checkpoint.find(folder).tensors("student") for folder in (run, evaluated))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def scores(run: Path) -> list[dict[str, float]]:
    return [line for line in numbers(run) if "loss" not in line]


def logged_steps(run: Path) -> list[int]:
    return [line["step"] for line in numbers(run) if "loss" in line]


TRACES: dict[str, Callable[[Path], Any]] = {
    "name": lambda run: json.loads((run / "summary.json").read_text())["name"],
    "evaluate.baselines": lambda run: (run / "baselines.json").exists(),
    "run.folder": lambda run: run.parent.name,
    "run.name": lambda run: run.name,
    "run.checkpoint_every": checkpoint.all_steps,
    "run.keep": checkpoint.all_steps,
    "run.log_every": logged_steps,
    "run.tracker": lambda run: (run / "notebook.jsonl").exists(),
}
"""Where a setting of orchestration leaves a trace in the run's folder; others of `evaluate` do in the scores."""

TRACELESS = {
    *("run.workers", "run.prefetch", "run.resume", "run.device"),
    *("evaluate.decoder", "evaluate.classifier_reads", "evaluate.root"),
}
"""Heard in the tests that follow; the decoder and the crop in test_geometry_tasks, what linear classification reads in
test_eval_classes, and how data sets are found and read in test_eval_layouts and test_eval_tables."""


def test_a_setting_of_orchestration_leaves_its_trace(orchestrated: tuple[str, Path], evaluated: Path):
    key, run = orchestrated
    if key not in TRACELESS:
        trace = TRACES.get(key, scores)
        assert trace(run) != trace(evaluated)


def test_workers_and_prefetch_reach_the_stream(tmp_path: Path):
    with opened(tiny(tmp_path / "run", "run.workers=3", "run.prefetch=5")) as training:
        assert training.stream._pool._max_workers == 3
        assert training.stream._ready.maxsize == 5


def test_without_resume_a_run_with_checkpoints_is_refused(tmp_path: Path):
    run = trained(tmp_path / "run", "optim.steps=1")
    with pytest.raises(ValueError, match="holds checkpoints"):
        train_alone(tiny(run, "optim.steps=1", "run.resume=false"))


@pytest.mark.parametrize(("device", "on_cpu"), [("cpu", True), ("auto", False)])
def test_the_device_is_asked_of_accelerate(device: str, on_cpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[dict] = []

    def accelerator(**named: Any) -> Accelerator:
        asked.append(named)
        return Accelerator(**named)

    monkeypatch.setattr(loop, "Accelerator", accelerator)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    with own_accelerator():
        loop.build_accelerator(tiny(tmp_path, f"run.device={device}"))
    assert asked[0]["cpu"] is on_cpu


def test_a_tracker_that_is_not_installed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tracking, "_available_trackers", [])
    with pytest.raises(ValueError, match="pip install wandb"), pytest.warns(UserWarning), own_accelerator():
        loop.build_accelerator(tiny(tmp_path, "run.tracker=wandb"))


def first_step(recipe: Recipe) -> tuple[float, dict[str, int]]:
    """Loss of the first step with its gradient, and how often the learner and its first block ran for it."""
    calls = {"learner": 0, "block": 0}

    def count(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            calls[name] += 1

        return hook

    with opened(recipe) as training:
        training.parts.learner.register_forward_pre_hook(count("learner"))
        training.parts.learner.encoder.image.blocks()[0].register_forward_pre_hook(count("block"))
        stepped = training_step(
            next(training.stream),
            model=training.model,
            parts=training.parts,
            optimizer=training.optimizer,
            accelerator=training.accelerator,
            progress=0.5,
        )
        return stepped.losses.total.item(), calls


def test_gradient_checkpointing_computes_blocks_again_and_changes_no_loss(tmp_path: Path):
    plain, calls = first_step(tiny(tmp_path / "plain"))
    again, calls_again = first_step(tiny(tmp_path / "again", "student.image.gradient_checkpointing=true"))
    assert again == plain
    assert (calls["block"], calls_again["block"]) == (1, 2)


def test_accumulation_runs_the_learner_twice_for_every_micro_batch(tmp_path: Path):
    """That it changes no loss is the subject of test_accumulation."""
    assert first_step(tiny(tmp_path / "whole"))[1]["learner"] == 1
    assert first_step(tiny(tmp_path / "pieces", "optim.accumulate=4"))[1]["learner"] == 8


@pytest.mark.parametrize("teacher", [(), FROZEN], ids=["momentum", "frozen"])
def test_compile_reaches_the_image_towers_of_student_and_teacher(
    teacher: tuple[str, ...], inputs: Path, tmp_path: Path
):
    words = [word.replace("@", f"{inputs}/") for word in teacher]
    for wanted in (False, True):
        with opened(tiny(tmp_path / str(wanted), *words, f"compile={str(wanted).lower()}")) as training:
            towers = (training.parts.learner.encoder.image, training.parts.teacher.image)
            assert [tower._compiled_call_impl is not None for tower in towers] == [wanted, wanted]
