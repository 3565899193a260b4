"""The tasks as a recipe asks for them: from its `evaluate` section to each task's own settings."""

from distill.config import Evaluate
from distill.encoders.dual import DualEncoder
from distill.eval import knn, linear_segmentation, retrieval, zero_shot_segmentation
from distill.eval.metrics import TaskResult
from distill.eval.sets import EvaluationData


def zero_shot(encoder: DualEncoder, data: EvaluationData, asked: Evaluate) -> TaskResult:
    """Windows are as large as the training pictures and overlap by a quarter: the paper's 448 and 336 at 448."""
    settings = zero_shot_segmentation.ZeroShotSettings(
        templates=asked.templates,
        features=asked.features,
        mode=asked.mode,
        background=asked.background,
        background_score=asked.background_score,
        short_side=data.short_side,
        window=data.image_size,
        stride=data.image_size * 3 // 4,
    )
    return zero_shot_segmentation.evaluate(encoder, data.segmentation, settings)


def linear(encoder: DualEncoder, data: EvaluationData, asked: Evaluate) -> TaskResult:
    """Reads final patch tokens, as linear probes do: templates, features and mode are zero-shot settings."""
    settings = linear_segmentation.LinearSettings(short_side=data.short_side)
    return linear_segmentation.evaluate(encoder, data.segmentation_train, data.segmentation, settings)


def captions(encoder: DualEncoder, data: EvaluationData, asked: Evaluate) -> TaskResult:
    """The last CLS token's recalls; with two tokens also CLS 1's, as `cls1_...`."""
    last = retrieval.RetrievalSettings(cls=encoder.image.num_cls - 1)
    found = retrieval.evaluate(encoder, data.captions[1], last)
    if last.cls == 0:
        return found
    first = retrieval.evaluate(encoder, data.captions[0], retrieval.RetrievalSettings(cls=0))
    return TaskResult(
        values=found.values | {f"cls1_{name}": value for name, value in first.values.items()},
        per_class={},
        settings=found.settings,
        num_images=found.num_images,
    )


def neighbours(encoder: DualEncoder, data: EvaluationData, asked: Evaluate) -> TaskResult:
    return knn.evaluate(encoder, data.classes_train, data.classes, knn.KnnSettings())
