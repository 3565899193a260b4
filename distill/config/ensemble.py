"""Several teachers: what each of them would be in a recipe in which it teaches alone, and the rules about them."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Protocol, TypeVar, runtime_checkable

from distill.config.checks import InvalidCombination, Rule
from distill.config.objective import Features, Objective
from distill.config.student import Student
from distill.config.target_rules import hears_patches
from distill.config.teacher import Loaded, Teacher


@runtime_checkable
class Whole(Protocol):
    """What is read of a recipe, which is checked here before it exists."""

    teacher: Teacher
    objective: Objective
    student: Student


Recipe = TypeVar("Recipe", bound=Whole)

RESERVED = {
    *("apply", "buffers", "children", "clear", "compile", "cpu", "cuda", "double", "eval", "float", "forward", "half"),
    *("ipu", "items", "keys", "modules", "mtia", "parameters", "pop", "to", "train", "training", "type", "update"),
    *("values", "xpu"),
}
"""Words that torch's modules have something under."""

LOADED = tuple(each.name for each in fields(Loaded))


def by_teacher(recipe: Recipe) -> dict[str, Recipe]:
    """The recipe as every member of its ensemble would have it if it taught alone, by the member's name.

    Where there is one teacher, whichever it is, the recipe as it is, under an empty name.
    """
    if recipe.teacher.kind != "ensemble":
        return {"": recipe}
    return {name: _alone(recipe, name) for name in recipe.teacher.members}


def cache_places(recipe: Whole) -> tuple[str, ...]:
    """Settings that say where some teacher's cache lies, which changes no result."""
    return ("teacher.cache", *(f"teacher.members.{name}.cache" for name in recipe.teacher.members))


def problems_of_members(recipe: Whole) -> Iterator[InvalidCombination]:
    """What would be wrong with a member if it taught alone, said of the member's settings."""
    for name in recipe.teacher.members if recipe.teacher.kind == "ensemble" else ():
        try:
            _alone(recipe, name)
        except InvalidCombination as problem:
            keys = tuple(_of_member(name, key) for key in problem.keys)
            yield InvalidCombination(keys, f"teacher.members.{name}, if it taught alone: {problem}")


def rules_of_the_ensemble(recipe: Whole) -> list[Rule]:
    teacher, objective, student = recipe.teacher, recipe.objective, recipe.student
    is_ensemble = teacher.kind == "ensemble"
    default = Teacher()
    of_one = tuple(f"teacher.{name}" for name in LOADED if getattr(teacher, name) != getattr(default, name))
    of_several = tuple(
        f"teacher.{name}" for name in ("members", "balance", "drop") if getattr(teacher, name) != getattr(default, name)
    )
    reserved = tuple(name for name in teacher.members if name in RESERVED)
    return [
        (
            bool(reserved),
            tuple(f"teacher.members.{name}" for name in reserved),
            f"a member cannot be called {', '.join(reserved)}: every module has something of that name; choose another",
        ),
        (
            not is_ensemble and bool(of_several),
            (*of_several, "teacher.kind"),
            f"{', '.join(of_several)} is heard with teacher.kind=ensemble only",
        ),
        (
            is_ensemble and not teacher.members,
            ("teacher.kind", "teacher.members"),
            "an ensemble needs teacher.members, such as teacher.members.first.model=FAMILY:NAME",
        ),
        (
            is_ensemble and bool(of_one),
            (*of_one, "teacher.kind"),
            f"every member of an ensemble has {', '.join(key.removeprefix('teacher.') for key in of_one)} of its own: "
            "teacher.members.NAME…",
        ),
        (
            is_ensemble and (objective.patch.target != "features" or not hears_patches(objective.patch)),
            ("teacher.kind", "objective.patch.target", "objective.patch.supervise", "objective.patch.weight"),
            "the members of an ensemble have no prototypes in common: the student learns their features; set "
            "objective.patch.target=features and let patches be heard",
        ),
        (
            is_ensemble and objective.cls.weight > 0,
            ("teacher.kind", "objective.cls.weight"),
            "the global loss compares distributions over one teacher's prototypes, and the members of an ensemble have "
            "none in common; their CLS tokens are heard by teacher.members.NAME.features.cls_weight",
        ),
        (
            is_ensemble and objective.features != Features(),
            ("teacher.kind", *_changed_features(objective.features)),
            "every member of an ensemble has features of its own: teacher.members.NAME.features",
        ),
        (
            is_ensemble and "teacher" in (student.image.init, student.head.init),
            ("teacher.kind", "student.image.init", "student.head.init"),
            "an ensemble has no one tower or head to start from; name a run or file, or random",
        ),
        (
            is_ensemble and len(teacher.members) == 1 and (teacher.drop > 0 or teacher.balance != "none"),
            ("teacher.members", "teacher.drop", "teacher.balance"),
            "one member is never dropped, and there is nothing to balance it with",
        ),
    ]


def _alone(recipe: Recipe, name: str) -> Recipe:
    member = recipe.teacher.members[name]
    objective = recipe.objective
    patch = replace(objective.patch, weight=objective.patch.weight * member.weight)
    return replace(
        recipe,
        teacher=Teacher(kind="frozen", **{field: getattr(member, field) for field in LOADED}),
        objective=replace(objective, patch=patch, features=member.features),
    )


def _of_member(name: str, key: str) -> str:
    """`teacher.cache` of a recipe in which it teaches alone is `teacher.members.NAME.cache` of the ensemble's."""
    section, _, last = key.rpartition(".")
    if section == "teacher" and last in LOADED:
        return f"teacher.members.{name}.{last}"
    if section == "objective.features":
        return f"teacher.members.{name}.features.{last}"
    return key


def _changed_features(features: Features) -> tuple[str, ...]:
    default = Features()
    changed = (each.name for each in fields(Features) if getattr(features, each.name) != getattr(default, each.name))
    return tuple(f"objective.features.{name}" for name in changed)
