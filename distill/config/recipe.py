"""The recipe: one run as a tree of frozen dataclasses, and the rules about settings that mean nothing together."""

from dataclasses import dataclass, field
from typing import Literal

from distill.config.checks import InvalidCombination, Rule
from distill.config.data import Data, Masking
from distill.config.ensemble import problems_of_members, rules_of_the_ensemble
from distill.config.objective import Objective, Patch
from distill.config.student import Student
from distill.config.target_rules import hears_patches, rules_of_clusters, rules_of_features, rules_of_matching
from distill.config.teacher import Teacher
from distill.config.training import TASKS_WITH_TEXT, Evaluate, Optim, Run


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run. `precision` and `compile` change the last digits of results, so they are not under `run`."""

    name: str = "unnamed"
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast where the device has it."""
    compile: bool = False
    data: Data = field(default_factory=Data)
    masking: Masking = field(default_factory=Masking)
    teacher: Teacher = field(default_factory=Teacher)
    student: Student = field(default_factory=Student)
    objective: Objective = field(default_factory=Objective)
    optim: Optim = field(default_factory=Optim)
    evaluate: Evaluate = field(default_factory=Evaluate)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        for problem in _meaningless(self):
            raise problem


def _meaningless(recipe: Recipe) -> list[InvalidCombination]:
    """Every rule about settings that mean nothing together, as far as it is broken."""
    rules = [
        *rules_of_the_ensemble(recipe),
        *_rules_of_the_partial_teacher(recipe),
        *_rules_of_the_teacher(recipe),
        *_rules_of_fixed_views(recipe),
        *_rules_of_data_and_losses(recipe),
        *_rules_of_evaluation(recipe),
        *rules_of_features(recipe.objective),
        *rules_of_clusters(recipe.objective, teacher=recipe.teacher, student=recipe.student),
        *rules_of_matching(recipe.teacher),
    ]
    problems = [InvalidCombination(keys, message) for broken, keys, message in rules if broken]
    return problems or list(problems_of_members(recipe))


def _named(teacher: Teacher) -> str:
    return "an ensemble" if teacher.kind == "ensemble" else f"a {teacher.kind} teacher"


def _rules_of_the_partial_teacher(recipe: Recipe) -> list[Rule]:
    teacher, objective = recipe.teacher, recipe.objective
    is_partial = teacher.kind == "partial"
    settings = ("trainable", "last_k", "rank", "alpha", "lr_scale", "loss_weight")
    set_for_it = tuple(f"teacher.{name}" for name in settings if getattr(teacher, name) != getattr(Teacher(), name))
    return [
        (
            not is_partial and len(set_for_it) > 0,
            (*set_for_it, "teacher.kind"),
            f"{_named(teacher)} does not learn by gradient; {', '.join(set_for_it)} is heard with "
            "teacher.kind=partial only",
        ),
        (
            is_partial and not teacher.trainable,
            ("teacher.kind", "teacher.trainable"),
            "a partial teacher needs teacher.trainable: head, blocks, norms, adapters; without any use "
            "teacher.kind=frozen",
        ),
        (
            is_partial and ("blocks" in teacher.trainable) != (teacher.last_k > 0),
            ("teacher.last_k", "teacher.trainable"),
            "teacher.last_k is set exactly when teacher.trainable names blocks",
        ),
        (
            is_partial and ("adapters" in teacher.trainable) != (teacher.rank > 0),
            ("teacher.rank", "teacher.trainable"),
            "teacher.rank is set exactly when teacher.trainable names adapters",
        ),
        (
            is_partial and teacher.alpha != Teacher().alpha and "adapters" not in teacher.trainable,
            ("teacher.alpha", "teacher.trainable"),
            "teacher.alpha is heard with teacher.trainable=[adapters] only",
        ),
        (
            is_partial
            and teacher.model is not None
            and not teacher.model.startswith("distill:")
            and "head" not in teacher.trainable,
            ("teacher.model", "teacher.trainable"),
            "a released encoder has no projection head; as a partial one it gets a fresh head, which has to learn: "
            "name head in teacher.trainable",
        ),
        (
            is_partial and objective.patch.target == "features",
            ("objective.patch.target", "teacher.kind"),
            "feature targets of a teacher that learns collapse: a constant is closest to any student; use prototypes",
        ),
        (
            is_partial and objective.cls.weight == 0 and not hears_patches(objective.patch),
            ("teacher.kind", "objective.cls.weight", "objective.patch.supervise"),
            "a partial teacher hears the losses on patches and local crops, and both are switched off",
        ),
    ]


def _rules_of_the_teacher(recipe: Recipe) -> list[Rule]:
    teacher, student, objective = recipe.teacher, recipe.student, recipe.objective
    patch = objective.patch
    return [
        (
            teacher.kind in ("frozen", "partial") and (teacher.checkpoint is None) == (teacher.model is None),
            ("teacher.checkpoint", "teacher.model"),
            f"a {teacher.kind} teacher needs exactly one of teacher.checkpoint and teacher.model",
        ),
        (
            teacher.kind == "momentum" and (teacher.checkpoint is not None or teacher.model is not None),
            ("teacher.kind", "teacher.checkpoint", "teacher.model"),
            "a momentum teacher follows the student and loads nothing; use teacher.kind=frozen or partial",
        ),
        (
            teacher.weights is not None and teacher.model is None,
            ("teacher.model", "teacher.weights"),
            "teacher.weights belong to a teacher.model; name it",
        ),
        (
            teacher.kind == "frozen"
            and teacher.model is not None
            and not teacher.model.startswith("distill:")
            and ((hears_patches(patch) and patch.target == "prototypes") or objective.cls.weight > 0)
            and patch.target != "clusters",
            ("objective.patch.target", "teacher.model"),
            "projection heads are never released, and prototypes need one: use objective.patch.target=clusters, or "
            "features with objective.cls.weight=0, or one of our own trainings, which keep theirs, with "
            "teacher.checkpoint",
        ),
        (
            teacher.kind == "momentum" and patch.target == "features",
            ("objective.patch.target", "teacher.kind"),
            "feature targets of a momentum teacher collapse; use prototypes or a frozen teacher",
        ),
        (
            teacher.kind == "momentum" and "teacher" in (student.image.init, student.text.init, student.head.init),
            ("student.image.init", "student.text.init", "student.head.init", "teacher.kind"),
            "a momentum teacher starts as a copy of the student; init=teacher needs teacher.kind=frozen or partial",
        ),
        (
            teacher.kind == "momentum" and objective.contrastive.temperature is None,
            ("objective.contrastive.temperature", "teacher.kind"),
            "a momentum teacher has no temperature of its own; name one, such as 0.07",
        ),
        (
            teacher.scope == "head" and teacher.kind != "momentum",
            ("teacher.scope", "teacher.kind"),
            f"scope=head takes the student's own encoder, {_named(teacher)} has its own; use teacher.kind=momentum",
        ),
    ]


def _rules_of_fixed_views(recipe: Recipe) -> list[Rule]:
    teacher, data = recipe.teacher, recipe.data
    return [
        (
            data.views.fixed > 0 and data.source == "dataset" and data.dataset.streaming,
            ("data.views.fixed", "data.dataset.streaming"),
            "fixed views belong to samples that have a number, and a stream's have none; "
            "set data.dataset.streaming=false",
        ),
        (
            data.views.fixed > 0 and data.shows_whole_scenes,
            ("data.views.fixed", "data.views.global_scale", "data.views.flip"),
            "every view of a scene is the whole picture already; leave data.views.fixed out, or crop or flip",
        ),
        (
            teacher.cache is not None and teacher.kind != "frozen",
            ("teacher.cache", "teacher.kind"),
            f"{_named(teacher)} says something else at every step; only teacher.kind=frozen can be cached",
        ),
        (
            teacher.cache is not None and data.views.fixed == 0 and not data.shows_whole_scenes,
            ("teacher.cache", "data.views.fixed"),
            "what a teacher says about a view is of use when that view is shown again: set data.views.fixed, "
            "the number of views of each sample",
        ),
        (
            teacher.cache is None and (teacher.cache_storage != "fp32" or teacher.cache_components > 0),
            ("teacher.cache", "teacher.cache_storage", "teacher.cache_components"),
            "cache_storage and cache_components are heard with teacher.cache only",
        ),
    ]


def _rules_of_data_and_losses(recipe: Recipe) -> list[Rule]:
    student, objective, masking = recipe.student, recipe.objective, recipe.masking
    patch = objective.patch
    return [
        (
            hears_patches(patch) and patch.supervise == "masked" and masking.ratio * masking.image_share == 0,
            ("objective.patch.supervise", "masking.ratio"),
            "supervise=masked hears nothing when nothing is hidden; hide patches or supervise visible or all",
        ),
        (
            hears_patches(patch) and patch.supervise == "visible" and masking.ratio * masking.image_share == 0,
            ("objective.patch.supervise", "masking.ratio"),
            "supervise=visible is supervise=all when nothing is hidden; say all, or hide patches",
        ),
        (
            masking.how == "drop" and not (hears_patches(patch) and patch.supervise == "visible"),
            ("masking.how", "objective.patch.supervise"),
            "dropped patches make no prediction that a loss could hear; set objective.patch.supervise=visible and a "
            "weight, or masking.how=replace",
        ),
        (
            masking.how == "drop" and masking.image_share < 1,
            ("masking.how", "masking.image_share"),
            "dropping needs every picture to keep equally many patches; set masking.image_share=1 or "
            "masking.how=replace",
        ),
        (
            objective.cls.weight > 0 and recipe.data.views.num_local == 0,
            ("objective.cls.weight", "data.views.num_local"),
            "the global loss compares local crops with the teacher; set data.views.num_local",
        ),
        (
            student.text.kind == "none" and objective.contrastive.weight > 0,
            ("student.text.kind", "objective.contrastive.weight"),
            "the contrastive loss needs a text tower; set objective.contrastive.weight=0 or choose one",
        ),
        (
            student.text.kind == "tips" and student.text.tokenizer is None,
            ("student.text.tokenizer",),
            "the TIPS text tower needs its SentencePiece model: student.text.tokenizer=PATH",
        ),
        (
            objective.contrastive.weight == 0 and objective.cls.weight == 0 and not hears_patches(patch),
            ("objective",),
            "every loss is switched off",
        ),
        (
            hears_patches(patch) and patch.supervise == "masked" and patch.normalise == "ibot_plus_visible",
            ("objective.patch.supervise", "objective.patch.normalise"),
            "normalise=ibot_plus_visible is per_image when only hidden patches are heard; say per_image",
        ),
        (
            patch.visible_weight != Patch().visible_weight and patch.normalise != "ibot_plus_visible",
            ("objective.patch.visible_weight", "objective.patch.normalise"),
            "visible_weight is heard with objective.patch.normalise=ibot_plus_visible only",
        ),
        (
            recipe.data.source == "dataset" and not recipe.data.dataset.path,
            ("data.dataset.path",),
            "data.source=dataset needs data.dataset.path",
        ),
        (
            recipe.data.batch_size % recipe.optim.accumulate != 0,
            ("data.batch_size", "optim.accumulate"),
            f"batch_size={recipe.data.batch_size} does not split into {recipe.optim.accumulate} micro-batches",
        ),
        (
            recipe.optim.accumulate > 1 and any("drop" in key and value for key, value in student.image.extra.items()),
            ("optim.accumulate", "student.image.extra"),
            "accumulation looks at every micro-batch twice, and dropout would show it differently each time; "
            "set optim.accumulate=1 or leave the dropout out",
        ),
    ]


def _rules_of_evaluation(recipe: Recipe) -> list[Rule]:
    asked, teacher, objective = recipe.evaluate, recipe.teacher, recipe.objective
    of_teacher = asked.side == "teacher"
    once = "evaluate.baselines=true measures it once, before the first step"
    return [
        (
            of_teacher and teacher.kind in ("frozen", "ensemble"),
            ("evaluate.side", "teacher.kind"),
            f"evaluate.side=teacher: {_named(teacher)} never changes; {once}",
        ),
        (
            of_teacher and teacher.kind == "partial" and teacher.trainable == ("head",),
            ("evaluate.side", "teacher.trainable"),
            f"evaluate.side=teacher: only the head of this teacher learns, and its encoder never changes; {once}",
        ),
        (
            of_teacher
            and teacher.kind == "momentum"
            and (teacher.scope == "head" or (objective.cls.weight == 0 and not hears_patches(objective.patch))),
            ("evaluate.side", "teacher.scope"),
            "evaluate.side=teacher: this run averages no encoder; measure the student",
        ),
        (
            recipe.student.text.kind == "none" and bool(TASKS_WITH_TEXT & set(asked.tasks)),
            ("student.text.kind", "evaluate.tasks"),
            f"{', '.join(sorted(TASKS_WITH_TEXT))} need a text tower; measure linear_segmentation, knn or depth",
        ),
        (
            asked.probe == "dpt" and "linear_segmentation" in asked.tasks,
            ("evaluate.probe", "evaluate.tasks"),
            "linear segmentation is read linearly: set evaluate.probe to ridge or linear",
        ),
        (
            asked.decoder is not None and asked.probe != "dpt",
            ("evaluate.decoder", "evaluate.probe"),
            "evaluate.decoder is a released DPT decoder: set evaluate.probe=dpt",
        ),
    ]
