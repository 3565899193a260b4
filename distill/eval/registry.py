"""The tasks as a recipe asks for them: from its `evaluate` section to each task's own settings."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from distill.config import Evaluate
from distill.encoders.dual import DualEncoder
from distill.eval.metrics import TaskResult
from distill.eval.naming import PLACE_OF
from distill.eval.sets import EvaluationData
from distill.eval.tasks import (
    alignment,
    compositional_pairs,
    depth,
    health,
    instance_retrieval,
    knn,
    linear_classification,
    linear_segmentation,
    normals,
    retrieval,
    trained_segmentation,
    zero_shot_classification,
    zero_shot_segmentation,
)
from distill.eval.tasks.alignment import AlignmentSettings
from distill.eval.tasks.compositional_pairs import PairSettings
from distill.eval.tasks.depth import DepthSettings
from distill.eval.tasks.health import HealthSettings
from distill.eval.tasks.instance_retrieval import InstanceSettings
from distill.eval.tasks.linear_classification import LinearClassificationSettings
from distill.eval.tasks.linear_segmentation import LinearSettings
from distill.eval.tasks.normals import NormalsSettings
from distill.eval.tasks.retrieval import RetrievalSettings
from distill.eval.tasks.trained_segmentation import TrainedLinearSettings
from distill.eval.tasks.zero_shot_classification import ZeroShotClassificationSettings
from distill.eval.tasks.zero_shot_segmentation import ZeroShotSettings

_PROBE = ("probe", "probe_steps", "precision")
READS: dict[str, tuple[str, ...]] = {
    "zero_shot_segmentation": ("templates", "features", "mode", "background", "background_score", "precision"),
    "linear_segmentation": (*_PROBE, "mode"),
    "retrieval": ("precision",),
    "knn": ("precision",),
    "zero_shot_classification": ("templates", "precision"),
    "linear_classification": ("classifier", "classifier_reads", "precision"),
    "compositional_pairs": ("precision",),
    "instance_retrieval": ("index", "precision"),
    "depth": (*_PROBE, "decoder", "depth_crop"),
    "normals": (*_PROBE, "decoder"),
    "health": ("precision",),
    "alignment": ("templates", "hidden_ratio", "precision"),
}
"""Settings of `evaluate` that a task reads, beside where its pictures are and how many."""
HOW_TO_READ = ("root", "columns", "class_names", "split", "num_images")
"""Settings that every task reads: about tables, `distill.eval.sets.check_words` says more."""


def check_read(task: str, words: Iterable[str]) -> None:
    """Raises ValueError for words, as `evaluate.templates=tcl`, about what this task does not read."""
    if task not in READS:
        return
    read = (*READS[task], PLACE_OF[task], *HOW_TO_READ)
    said = [word.partition("=")[0] for word in words if word.startswith("evaluate.")]
    unread = [key for key in said if key.split(".")[1] not in read]
    if unread:
        raise ValueError(f"{unread[0]} does nothing in {task}, which reads {', '.join(read)}")


def zero_shot_settings(data: EvaluationData, asked: Evaluate) -> ZeroShotSettings:
    """Windows are as large as the training pictures and overlap by a quarter: the paper's 448 and 336 at 448."""
    return ZeroShotSettings(
        templates=asked.templates,
        features=asked.features,
        mode=asked.mode,
        background=asked.background,
        background_score=asked.background_score,
        short_side=data.short_side,
        window=data.image_size,
        stride=data.image_size * 3 // 4,
        precision=asked.precision,
    )


def linear_settings(data: EvaluationData, asked: Evaluate) -> LinearSettings:
    """Reads final patch tokens, as linear probes do: templates and features are zero-shot settings."""
    return LinearSettings(short_side=data.short_side, **_linear_windows(data, asked))


def trained_linear_settings(data: EvaluationData, asked: Evaluate) -> TrainedLinearSettings:
    training = replace(trained_segmentation.TRAINING, steps=asked.probe_steps)
    short_side = data.short_side or data.image_size
    return TrainedLinearSettings(training=training, short_side=short_side, **_linear_windows(data, asked))


def linear_probe_settings(data: EvaluationData, asked: Evaluate) -> LinearSettings | TrainedLinearSettings:
    """Of the probe that is asked for: ridge regression, or one that is trained."""
    return trained_linear_settings(data, asked) if asked.probe == "linear" else linear_settings(data, asked)


def _linear_windows(data: EvaluationData, asked: Evaluate) -> dict[str, Any]:
    """What both probes share. Windows are as large as the training pictures and overlap by a third, as DINOv2's do."""
    windows = {"mode": asked.mode, "window": data.image_size, "stride": data.image_size * 2 // 3}
    return windows | {"precision": asked.precision}


def depth_settings(data: EvaluationData, asked: Evaluate) -> DepthSettings:
    training = replace(depth.DPT if asked.probe == "dpt" else depth.LINEAR, steps=asked.probe_steps)
    return DepthSettings(
        head=asked.probe,
        training=training,
        decoder=asked.decoder,
        crop=asked.depth_crop,
        short_side=data.image_size,
        precision=asked.precision,
    )


def normals_settings(data: EvaluationData, asked: Evaluate) -> NormalsSettings:
    training = replace(normals.TRAINING, steps=asked.probe_steps)
    return NormalsSettings(
        head=asked.probe,
        training=training,
        decoder=asked.decoder,
        short_side=data.image_size,
        precision=asked.precision,
    )


def retrieval_settings(num_cls: int, asked: Evaluate) -> tuple[RetrievalSettings, ...]:
    """One for each CLS token, the last token's first: it reads the detailed captions."""
    return tuple(RetrievalSettings(cls=cls, precision=asked.precision) for cls in reversed(range(num_cls)))


def zero_shot(encoder: DualEncoder, data: EvaluationData, asked: Evaluate) -> TaskResult:
    return zero_shot_segmentation.evaluate(encoder, data.segmentation, zero_shot_settings(data, asked))


def linear(encoder: DualEncoder, data: EvaluationData, asked: Evaluate) -> TaskResult:
    settings = linear_probe_settings(data, asked)
    if isinstance(settings, TrainedLinearSettings):
        return trained_segmentation.evaluate(encoder, data.segmentation_train, data.segmentation, settings)
    return linear_segmentation.evaluate(encoder, data.segmentation_train, data.segmentation, settings)


def captions(encoder: DualEncoder, data: EvaluationData, asked: Evaluate) -> TaskResult:
    """The last CLS token's recalls; with two tokens also CLS 1's, as `cls1_...`."""
    last, *others = retrieval_settings(encoder.image.num_cls, asked)
    found = retrieval.evaluate(encoder, data.captions[1], last)
    if not others:
        return found
    return _beside(found, "cls1", retrieval.evaluate(encoder, data.captions[0], others[0]))


def neighbours(encoder: DualEncoder, data: EvaluationData, asked: Evaluate) -> TaskResult:
    return knn.evaluate(encoder, data.classes_train, data.classes, knn.KnnSettings(precision=asked.precision))


def distance(encoder: DualEncoder, data: EvaluationData, asked: Evaluate) -> TaskResult:
    return depth.evaluate(encoder, data.depth_train, data.depth, depth_settings(data, asked))


def orientation(encoder: DualEncoder, data: EvaluationData, asked: Evaluate) -> TaskResult:
    return normals.evaluate(encoder, data.normals_train, data.normals, normals_settings(data, asked))


def named_classes(encoder: DualEncoder, data: EvaluationData, asked: Evaluate) -> TaskResult:
    """CLS 1's, because names of classes are short as web captions are; with two tokens also the last's, as
    `cls2_...`."""
    chosen = [
        ZeroShotClassificationSettings(templates=asked.templates, cls=cls, precision=asked.precision)
        for cls in range(encoder.image.num_cls)
    ]
    first, *others = [zero_shot_classification.evaluate(encoder, data.classes, settings) for settings in chosen]
    return _beside(first, "cls2", others[0]) if others else first


def classifier(encoder: DualEncoder, data: EvaluationData, asked: Evaluate) -> TaskResult:
    settings = LinearClassificationSettings(solver=asked.classifier, precision=asked.precision)
    if asked.classifier_reads == "last":
        settings = replace(settings, blocks=(1,), pooled=("both",))
    return linear_classification.evaluate(encoder, data.classes_train, data.classes, settings)


def pairs(encoder: DualEncoder, data: EvaluationData, asked: Evaluate) -> TaskResult:
    """The last CLS token's, which reads detailed captions; with two tokens also CLS 1's, as `cls1_...`."""
    chosen = [PairSettings(cls=cls, precision=asked.precision) for cls in reversed(range(encoder.image.num_cls))]
    last, *others = [compositional_pairs.evaluate(encoder, data.pairs, settings) for settings in chosen]
    return _beside(last, "cls1", others[0]) if others else last


def instances(encoder: DualEncoder, data: EvaluationData, asked: Evaluate) -> TaskResult:
    of_its_benchmark = "merged" if asked.instances == "uned" else "own"
    index = of_its_benchmark if asked.index == "auto" else asked.index
    settings = InstanceSettings(index=index, precision=asked.precision)
    return instance_retrieval.evaluate(encoder, data.instances, settings)


def patches_and_names(encoder: DualEncoder, data: EvaluationData, asked: Evaluate) -> TaskResult:
    settings = AlignmentSettings(
        templates=asked.templates,
        hidden_ratio=asked.hidden_ratio,
        short_side=data.short_side,
        precision=asked.precision,
    )
    return alignment.evaluate(encoder, data.segmentation, settings)


def condition(encoder: DualEncoder, data: EvaluationData, asked: Evaluate) -> TaskResult:
    return health.evaluate(encoder, data.classes, HealthSettings(precision=asked.precision))


def _beside(found: TaskResult, name: str, other: TaskResult) -> TaskResult:
    """The first result with the values of another CLS token, `name_...`, after its own."""
    return replace(
        found,
        values=found.values | {f"{name}_{key}": value for key, value in other.values.items()},
        per_picture=found.per_picture | {f"{name}_{key}": values for key, values in other.per_picture.items()},
    )
