"""The pair of .npz files in which TIPS and TIPSv2 were released, with the tokenizer beside them."""

import shutil
from pathlib import Path

import numpy as np
from torch import Tensor

from distill.encoders.text_tips import TipsText
from distill.publish.formats.plain import plain, why_not_plain
from distill.publish.student import Dtype, Subject, stored

NAME = "student"
TOKENIZER = "tokenizer.model"
RELEASED_HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16, 1536: 24}
"""By width, in both towers (tipsv2.md section 9)."""
HEAD_WIDTH = 64
"""Of models as wide as none that is released."""
EPSILON = 1e-6


def refusal(subject: Subject, *, dtype: Dtype) -> str | None:
    """Why the layout cannot hold the student; None where it can. Its files say nothing of heads, norms and pixels."""
    if not isinstance(subject.text, TipsText):
        return "its text tower is not one of TIPS"
    if subject.text.tokenizer is None:
        return "its text tower has no SentencePiece model"
    problem = why_not_plain(subject.image)
    if problem is not None:
        return problem
    found, width = plain(subject.image), subject.image.width
    heads = RELEASED_HEADS.get(width, width // HEAD_WIDTH)
    text_heads = subject.text.transformer["resblocks"][0].attn.num_heads
    problems = {
        f"it has {found.num_registers} registers, where the layout has one, CLS 2": found.num_registers != 1,
        f"it has {found.num_heads} heads in its image tower and {text_heads} in its text tower; no tensor says so, and "
        f"{heads} are what a width of {width} is taken for": (found.num_heads, text_heads) != (heads, heads),
        "its pixels are standardised, and the layout's are RGB in [0, 1]": subject.mean != [0] * 3
        or subject.std != [1] * 3,
        f"its norms add {found.epsilon:g}, and the layout's {EPSILON:g}": found.epsilon != EPSILON,
        "numpy has no bf16": dtype == "bf16",
    }
    return next((said for said, holds in problems.items() if holds), None)


def write(subject: Subject, folder: Path, *, dtype: Dtype) -> None:
    """student_vision.npz, student_text.npz with the temperature, and tokenizer.model."""
    _save(folder / f"{NAME}_vision.npz", plain(subject.image).tensors, dtype)
    text = {name: value for name, value in subject.text.state_dict().items()}
    _save(folder / f"{NAME}_text.npz", text, dtype, temperature=np.float32(subject.temperature))
    shutil.copyfile(subject.text.tokenizer, folder / TOKENIZER)


def _save(path: Path, tensors: dict[str, Tensor], dtype: Dtype, **scalars: np.float32) -> None:
    np.savez(path, **{name: stored(value, dtype).numpy() for name, value in tensors.items()}, **scalars)
