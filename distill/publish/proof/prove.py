"""Every format is loaded back by its own library, in a process without this package, and asked what the student was."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from distill.encoders.weights import sha256_of_weights
from distill.publish.proof import questions
from distill.publish.proof.questions import Questions
from distill.publish.proof.record import FormatProof
from distill.publish.student import Subject

TOLERANCE = 1e-5
"""Worst measured (tests/test_publish.py): 1.9e-6, by ONNX."""
PIXEL_TOLERANCE = 2 / 255
"""Of prepared pixels in [0, 1]. Worst measured: 3.6e-3, by every library, as all of them round to whole numbers. On the
same pictures bicubic differs by 0.05, no antialiasing by 0.27 and a crop of the centre by 0.57."""
SCRIPTS = Path(__file__).parent / "scripts"
IMAGE, BOTH = ("cls", "cls2", "patches"), ("text", "logits")
PHOTOS, WIDE = ("photo_pixels", "photo_cls"), ("wide_cls", "wide_patches")
VECTORS = ("cls", "cls2", "patches", "text", "photo_cls", *WIDE)
"""Quantities whose difference is measured against the length of the student's own vector."""


class Mismatch(ValueError):
    """What a library made of a published format is not the student."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A written format and what it has to be."""

    folder: Path
    subject: Subject
    questions: Questions
    with_text: bool
    """Whether the format holds the text tower."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a library said."""

    differences: dict[str, float]
    library: str
    version: str

    def proof(self, folder: Path, published: Path) -> FormatProof:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return FormatProof(
            files=tuple(path.relative_to(published).as_posix() for path in files),
            sha256=tuple(sha256_of_weights([path]) for path in files),
            bytes=sum(path.stat().st_size for path in files),
            library=self.library,
            version=self.version,
            differences=self.differences,
        )


def prove(name: str, cases: Sequence[Case]) -> list[Found]:
    """Load these folders of the format `name` in one clean process, and compare.

    Raises Mismatch, naming the quantity and its difference, or what the library complained of.
    """
    with tempfile.TemporaryDirectory() as place:
        words: list[str] = []
        for number, case in enumerate(cases):
            asked = Path(place) / f"questions_{number}"
            asked.mkdir()
            questions.write(case.questions, case.subject, asked)
            words += [str(case.folder.resolve()), str(asked), str(Path(place) / f"answers_{number}.safetensors")]
        said = _run(name, words, place)
        answers = [load_file(word) for word in words[2::3]]
    return [_compared(name, case, answer, said) for case, answer in zip(cases, answers, strict=True)]


def differences(found: dict[str, Tensor], expected: dict[str, Tensor], *, temperature: float) -> dict[str, float]:
    """Worst absolute difference by quantity.

    Of vectors it is divided by the length of the student's vector, as if that were one: a wrong scale is seen too. Of
    logits it is multiplied by the temperature, and so one of cosines. Of another shape, it is infinite.
    """
    worst = {}
    for name in sorted(found.keys() & expected.keys()):
        if found[name].shape != expected[name].shape:
            worst[name] = float("inf")
            continue
        gap = (found[name].double() - expected[name].double()).abs()
        if name in VECTORS:
            gap = gap / _length(expected[name].double())
        worst[name] = (temperature * gap if name == "logits" else gap).max().item()
    return worst


def _length(vectors: Float[Tensor, "*any D"]) -> Float[Tensor, "*any 1"]:
    return torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)


def _run(name: str, words: list[str], place: str) -> dict[str, str]:
    """Carry out the loading script of a format; what its last line says of the library."""
    # -I: neither the working directory nor PYTHONPATH is where modules come from, so that nothing here is found.
    command = [sys.executable, "-I", str(SCRIPTS / f"load_{name}.py"), *words]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        complaint = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise Mismatch(f"the {name} format does not load in its own library: {complaint}")
    return json.loads(done.stdout.splitlines()[-1])


def _compared(name: str, case: Case, answer: dict[str, Tensor], said: dict[str, str]) -> Found:
    expected = questions.expected(case.questions, case.subject)
    missing = sorted((needed(name, case) & {*expected, *PHOTOS}) - answer.keys())
    if missing:
        raise Mismatch(f"the {name} format gives no {missing[0]}")
    if "photo_pixels" in answer:
        answer = answer | {"photo_pixels": _in_unit_range(name, case.subject, answer["photo_pixels"])}
        expected |= _of_photos(case, answer["photo_pixels"])
    worst = differences(answer, expected, temperature=case.subject.temperature)
    wrong = {quantity: value for quantity, value in worst.items() if not value <= allowed(quantity)}
    if wrong:
        by = {quantity: "shape" if value == float("inf") else f"{value:.2g}" for quantity, value in wrong.items()}
        listed = ", ".join(f"{quantity} by {how}" for quantity, how in by.items())
        raise Mismatch(
            f"what {said['library']} {said['version']} makes of the {name} format is not the student: it differs in "
            f"{listed}, and at most {allowed(next(iter(wrong))):.2g} is allowed"
        )
    return Found(differences=worst, **said)


def needed(name: str, case: Case) -> set[str]:
    """What the format has to answer, of what the student can be asked."""
    asked = {*IMAGE, *BOTH} if case.with_text else {*IMAGE}
    if name == "tips":  # its files say nothing of how pictures are prepared, and no pipeline reads them
        return asked
    page = {}
    if name in ("onnx", "transformers"):
        page = json.loads((case.folder / "config.json").read_text(encoding="utf-8"))
    if name == "transformers" and not page.get("model_args", {}).get("features_only"):
        asked |= {"feature_pipeline", "zero_shot_pipeline"} if case.with_text else {"feature_pipeline"}
    return asked | {*PHOTOS} | ({*WIDE} if page.get("any_size") else set())


def allowed(quantity: str) -> float:
    """The largest difference that a publication survives."""
    return PIXEL_TOLERANCE if quantity == "photo_pixels" else TOLERANCE


def _in_unit_range(name: str, subject: Subject, pixels: Float[Tensor, "b 3 S S"]) -> Float[Tensor, "b 3 S S"]:
    """Prepared pixels without the statistics, which ONNX has inside of its graph."""
    if name == "onnx":
        return pixels
    mean, std = (torch.tensor(values)[:, None, None] for values in (subject.mean, subject.std))
    return pixels * std + mean


@torch.no_grad()
def _of_photos(case: Case, pixels: Tensor) -> dict[str, Tensor]:
    """How photos are prepared, and what the student says of the pixels that the library made of them."""
    wanted = questions.prepared(case.questions, case.subject)
    if pixels.shape != wanted.shape:
        return {"photo_pixels": wanted}
    return {"photo_pixels": wanted, "photo_cls": case.subject.image(pixels).cls[:, 0]}
