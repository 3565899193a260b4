"""Rules about targets for teachers without heads, and about matching a teacher's patches with the student's."""

from dataclasses import fields

from distill.config.checks import Rule
from distill.config.objective import Clusters, Features, Objective, Patch
from distill.config.student import Student
from distill.config.teacher import Teacher

OF_THE_TEACHER = ("standardise", "momentum")
"""Settings of the features that clusters hear too."""


def hears_patches(patch: Patch) -> bool:
    return patch.supervise != "none" and patch.weight > 0


def rules_of_features(objective: Objective) -> list[Rule]:
    target, features = objective.patch.target, objective.features
    heard = {"features": tuple(field.name for field in fields(Features)), "clusters": OF_THE_TEACHER, "prototypes": ()}
    unheard = [name for name in _changed(features, Features()) if name not in heard[target]]
    return [
        (
            bool(unheard),
            (*(f"objective.features.{name}" for name in unheard), "objective.patch.target"),
            f"objective.patch.target={target} does not hear {', '.join(unheard)} of objective.features",
        ),
        (
            features.adapter_hidden is not None and features.adapter == "linear",
            ("objective.features.adapter_hidden", "objective.features.adapter"),
            "a linear adapter has no hidden layer; set objective.features.adapter=mlp",
        ),
        (
            features.standardise == "none" and features.momentum != Features().momentum,
            ("objective.features.momentum", "objective.features.standardise"),
            "features.momentum is that of the running statistics; with standardise=none there are none",
        ),
    ]


def rules_of_clusters(objective: Objective, *, teacher: Teacher, student: Student) -> list[Rule]:
    is_clustered = objective.patch.target == "clusters"
    return [
        (
            not is_clustered and objective.clusters != Clusters(),
            ("objective.clusters.momentum", "objective.patch.target"),
            "clusters are fitted with objective.patch.target=clusters only",
        ),
        (
            is_clustered and teacher.kind != "frozen",
            ("objective.patch.target", "teacher.kind"),
            f"a {teacher.kind} teacher has a projection head, and its features would move under the clusters; "
            "use prototypes, or a frozen teacher",
        ),
        (
            is_clustered and objective.prototypes.balance != "sinkhorn",
            ("objective.patch.target", "objective.prototypes.balance"),
            "clusters are assigned in balance over the whole batch; set objective.prototypes.balance=sinkhorn",
        ),
        (
            is_clustered and student.head.init == "teacher",
            ("objective.patch.target", "student.head.init"),
            "the student's head names the clusters, not the prototypes of a teacher's head; "
            "set student.head.init=random",
        ),
        (
            is_clustered and objective.cls.weight > 0 and hears_patches(objective.patch) and student.head.shared,
            ("objective.patch.target", "objective.cls.weight", "student.head.shared"),
            "CLS and patches have clusters of their own, which one head cannot name; set student.head.shared=false",
        ),
    ]


def rules_of_matching(teacher: Teacher) -> list[Rule]:
    return [
        (
            teacher.kind == "momentum" and (teacher.match != "auto" or teacher.image_size is not None),
            ("teacher.match", "teacher.image_size", "teacher.kind"),
            "a momentum teacher is the student's own tower and looks at the student's pictures: there is nothing to "
            "match",
        ),
        (
            teacher.match == "pixels" and teacher.image_size is not None,
            ("teacher.match", "teacher.image_size"),
            "match=pixels finds the size of the teacher's pictures; leave teacher.image_size out, or match features",
        ),
    ]


def _changed(section: object, default: object) -> list[str]:
    """Names of the fields that are not at their defaults."""
    return [field.name for field in fields(section) if getattr(section, field.name) != getattr(default, field.name)]
