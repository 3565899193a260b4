"""What stands above the card for machines: the hub's metadata."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from distill.eval.metrics import is_error
from distill.publish.card.facts import Facts
from distill.publish.card.licences import metadata as licence_metadata
from distill.publish.card.loading import place_of
from distill.publish.card.measured import HUB_TASKS, Measured, differing
from distill.publish.card.sources import leaves
from distill.publish.card.words import TASK_WORDS, settings_in_words, with_unit
from distill.publish.proof.record import Proof

PAPER = "2604.12012"
LIBRARIES = ("transformers", "open_clip", "timm", "onnx")


def metadata(facts: Facts, proof: Proof, *, with_text: bool, datasets: Sequence[str]) -> ModelCardData:
    """`with_text` where some format holds the text tower, `datasets` are names on the hub.

    The library is one whose files lie where the hub looks for them, at the top.
    """
    formats = [name for name in LIBRARIES if name in proof.formats]
    at_top = [name for name in formats if place_of(proof.formats[name]) == "."]
    bases = list(dict.fromkeys(source.hub for source in leaves(facts.sources) if source.hub is not None))
    how = "distillation" if facts.is_distilled else "pretraining"
    return ModelCardData(
        **licence_metadata(facts.licence.name),
        library_name=at_top[0] if at_top else "distill",
        pipeline_tag="zero-shot-image-classification" if with_text else "image-feature-extraction",
        tags=["distill", how, "dense-features", f"arxiv:{PAPER}", *formats],
        base_model=bases or None,
        datasets=list(datasets) or None,
        model_name=facts.title,
        eval_results=_results(facts.results) or None,
    )


def _results(results: Sequence[Measured]) -> list[EvalResult]:
    return [row for each, own in zip(results, differing(results), strict=True) for row in _rows(each, own)]


def _rows(result: Measured, own: Mapping[str, Any]) -> list[EvalResult]:
    """Shares in percent; what is no benchmark, and what was not defined, is left out. `own`: what tells it from others
    of the same task on the same data.

    The hub puts everything of one kind of task on one data set together, under the kind's name, so every value says
    itself what it is.
    """
    if result.task not in HUB_TASKS:
        return []
    how = settings_in_words(own)
    what = f"{TASK_WORDS[result.task]}{f' ({how})' if how else ''}"
    return [
        EvalResult(
            task_type=HUB_TASKS[result.task],
            task_name=HUB_TASKS[result.task].replace("-", " "),
            dataset_name=result.data,
            dataset_type=re.sub(r"[^\w.-]+", "-", result.data).strip("-").lower(),
            metric_type=name,
            metric_name=f"{what}: {with_unit(name, result.values)}",
            metric_value=round(value if is_error(name) else 100 * value, 3),
        )
        for name, value in result.values.items()
        if value is not None
    ]
