"""Zero-shot classification: the class whose name, in sentences, is most similar to a picture's CLS token.

Legend: n pictures, D width, K classes.
"""

from dataclasses import asdict, dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from distill.encoders.dual import DualEncoder
from distill.eval.features import Precision, unit
from distill.eval.metrics import MAX_ELEMENTS, TaskResult
from distill.eval.prompts import check_templates, class_embeddings
from distill.eval.tasks.knn import ClassifiedPictures, classified_features
from distill.eval.tasks.retrieval import check_cls

TOP = 5


@runtime_checkable
class NamedPictures(ClassifiedPictures, Protocol):
    """`prompts` are what the classes are called in sentences; several classes may be called the same."""

    prompts: list[str]


@dataclass(frozen=True, kw_only=True)
class ZeroShotClassificationSettings:
    """CLIP's protocol for ImageNet. Which templates and which CLS token TIPSv2 took is not known (tipsv2.md 4, 7)."""

    templates: str = "imagenet80"
    """A key of `prompts.TEMPLATES`."""
    cls: Literal[0, 1] = 0
    """Which CLS token speaks for the picture: 0 is the paper's CLS 1, 1 its CLS 2."""
    batch_size: int = 64
    """Changes memory, not results."""
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        check_templates(self.templates)


@torch.no_grad()
def evaluate(encoder: DualEncoder, data: NamedPictures, settings: ZeroShotClassificationSettings) -> TaskResult:
    """`top1`, `top5` where there are more than five classes, and `class_top1`, the mean over classes that occur.

    Of equally similar classes the earlier comes first, so one that is called like an earlier one is never found, and
    an encoder that maps everything to one point names the first class always. A class without pictures is NaN by
    itself and counts in no mean. Raises ValueError where no picture has a class or the encoder lacks the CLS token.
    """
    check_cls(encoder.image, settings.cls)
    image_nD, label_n = classified_features(
        encoder.image,
        data,
        lambda found: unit(found.cls[:, settings.cls]),
        batch_size=settings.batch_size,
        precision=settings.precision,
    )
    # One embedding for one name: equal names must not differ by an ulp.
    number_of = {name: number for number, name in enumerate(dict.fromkeys(data.prompts))}
    text_KD = class_embeddings(encoder, list(number_of), templates=settings.templates)
    rank_n = class_ranks(image_nD, text_KD[[number_of[name] for name in data.prompts]], label_n)
    hits = {"top1": rank_n < 1} | ({f"top{TOP}": rank_n < TOP} if len(data.prompts) > TOP else {})
    found_n = hits["top1"].double()
    per_class = {name: found_n[label_n == number].mean().item() for number, name in enumerate(data.class_names)}
    class_top1 = torch.tensor(list(per_class.values()), dtype=torch.double).nanmean().item()
    return TaskResult(
        values={name: hit.double().mean().item() for name, hit in hits.items()} | {"class_top1": class_top1},
        per_class=per_class,
        per_picture={name: hit.to(torch.uint8) for name, hit in hits.items()},
        settings=asdict(settings),
        num_images=len(label_n),
    )


def class_ranks(
    image_nD: Float[Tensor, "n D"], text_KD: Float[Tensor, "K D"], label_n: Int[Tensor, " n"]
) -> Int[Tensor, " n"]:
    """How many classes come before a picture's own: the more similar, and of equally similar ones the earlier.

    Similarity is the scalar product. In chunks of pictures; on the CPU.
    """
    text_KD, place_K = text_KD.double(), torch.arange(len(text_KD), device=text_KD.device)
    step = max(1, MAX_ELEMENTS // len(text_KD))
    ranks = []
    for part_BD, label_B in zip(image_nD.split(step), label_n.split(step), strict=True):
        own_B1 = label_B.to(part_BD.device)[:, None]
        similarity_BK = part_BD.double() @ text_KD.T
        similarity_B1 = similarity_BK.gather(1, own_B1)
        before_BK = (similarity_BK > similarity_B1) | ((similarity_BK == similarity_B1) & (place_K < own_B1))
        ranks.append(before_BK.sum(1).cpu())
    return torch.cat(ranks)
