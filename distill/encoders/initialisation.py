"""Where the student's weights start and which of them are trained, with a report of both."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from distill.config import ImageTower, Student, TextTower
from distill.contracts import ImageEncoder, TextEncoder
from distill.encoders.dual import DualEncoder
from distill.encoders.head import Heads
from distill.encoders.low_rank import state_without_adapters
from distill.encoders.vit import TimmViT
from distill.encoders.weights import check_shape, fit_positions, load_strictly, read_safetensors

__all__ = ["PartReport", "apply_update_policy", "initialise", "load_strictly", "read_student"]

STUDENT_FILE = "student.safetensors"
"""In a checkpoint folder; its names start with `encoder.image.`, `encoder.text.` or `heads.`."""

Part = Literal["image", "text", "heads"]

PROBES = ("a photo of a cat", "two red circles on sand, seen from above")
"""Texts about which a text tower and its copy must say the same."""


@dataclass(frozen=True)
class PartReport:
    """What one part of the student starts from and what of it is trained.

    `copied` counts tensors taken unchanged, `resampled` names those moved to another grid, `left_out`
    maps the others, on either side, to the reason. `parameters` and `trained` count numbers.
    """

    part: Part
    source: str
    copied: int = 0
    resampled: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    parameters: int = 0
    trained: int = 0

    def __str__(self) -> str:
        start = f"{self.part} from {self.source}"
        if self.source != "random":
            start += f" ({self.copied} tensors copied, {len(self.resampled)} resampled, {len(self.left_out)} left out)"
        reasons = "".join(f"\n    left out: {name}: {reason}" for name, reason in self.left_out.items())
        return f"{start}; {self.trained:,} of {self.parameters:,} parameters trained{reasons}"

    def as_dict(self) -> dict:
        return asdict(self)


def initialise(
    dual: DualEncoder,
    heads: Heads | None,
    *,
    settings: Student,
    teacher: DualEncoder | None = None,
    teacher_heads: Heads | None = None,
) -> list[PartReport]:
    """Copy the weights that `settings` asks for; one report per part that exists.

    Parts with init=random stay as they were built. Raises ValueError when the source lacks the part,
    when a tensor has another shape (its name, expected and given shape are stated), or when nothing fits.
    """
    reports = [_start_tower(dual.image, "image", settings.image, teacher)]
    if dual.text is not None:
        reports.append(_start_tower(dual.text, "text", settings.text, teacher))
    if heads is not None:
        reports.append(_start_heads(heads, settings.head.init, teacher_heads))
    return reports


def apply_update_policy(
    dual: DualEncoder, heads: Heads | None, *, settings: Student, report: list[PartReport]
) -> list[PartReport]:
    """Set `requires_grad` by update = train, freeze or last_k; returns the report with its counts filled in.

    last_k trains the last k blocks and what follows them. Heads are always trained. Call this before
    the optimiser is built or the model wrapped.
    """
    _limit(dual.image, settings.image, "student.image")
    if dual.text is not None:
        _limit(dual.text, settings.text, "student.text")
    modules: dict[Part, nn.Module | None] = {"image": dual.image, "text": dual.text, "heads": heads}
    return [_counted(row, modules[row.part]) for row in report]


def read_student(folder: Path | str) -> dict[str, Tensor]:
    """The student's tensors from a checkpoint folder, or from the newest checkpoint of a run folder."""
    folder = Path(folder)
    newest_first = sorted(folder.glob(f"checkpoints/step_*/{STUDENT_FILE}"), reverse=True)
    for path in [folder / STUDENT_FILE, *newest_first]:
        if path.is_file():
            return read_safetensors(path)
    raise ValueError(f"{folder} is neither a run nor a checkpoint folder: it holds no {STUDENT_FILE}")


def _start_tower(
    tower: ImageEncoder | TextEncoder, part: Part, settings: ImageTower | TextTower, teacher: DualEncoder | None
) -> PartReport:
    if settings.init == "random":
        return PartReport(part=part, source="random")
    if settings.init == "teacher":
        source = None if teacher is None else {"image": teacher.image, "text": teacher.text}[part]
        if source is None:
            raise ValueError(f"student.{part}.init=teacher, but the teacher has no {part} tower of ours to copy")
        copied = _copy(tower, state_without_adapters(source), part=part, source="teacher")
        if part == "text":
            _check_same_words(tower, source)
        return copied
    prefix = f"encoder.{part}."
    stored = read_student(settings.init)
    tensors = {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
    if not tensors:
        raise ValueError(f"student.{part}.init: {settings.init} holds no {part} tower")
    return _copy(tower, tensors, part=part, source=settings.init)


@torch.no_grad()
def _check_same_words(tower: TextEncoder, source: TextEncoder) -> None:
    """Refuse a copy that says something else: numbers of heads, activations and tokenizers leave no tensor behind."""
    ids, theirs = tower.tokenize(list(PROBES)), source.tokenize(list(PROBES))
    length = min(ids.shape[1], theirs.shape[1])
    advice = "set student.text as the teacher's text tower is, or init=random"
    if not torch.equal(ids[:, :length], theirs[:, :length]) or ids[:, length:].any() or theirs[:, length:].any():
        raise ValueError(f"student.text.init=teacher, but the teacher cuts texts into other tokens; {advice}")
    was_training = tower.training
    ours, expected = tower.eval()(ids), source.eval()(theirs)
    tower.train(was_training)
    if not torch.allclose(ours, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item()):
        raise ValueError(
            "student.text.init=teacher: every tensor fits, but the copy says something else about the same words (its "
            f"number of heads, its activation or its pooling differs); {advice}"
        )


def _start_heads(heads: Heads, init: str, teacher_heads: Heads | None) -> PartReport:
    if init == "random":
        return PartReport(part="heads", source="random")
    if teacher_heads is None:
        raise ValueError("student.head.init=teacher, but the teacher has no projection head")
    # By role, not by name: a shared head may start from the patch head of a teacher with two, and the reverse.
    sources = {
        "shared": teacher_heads.patch or teacher_heads.cls,
        "patch": teacher_heads.patch,
        "cls": teacher_heads.cls,
    }
    tensors = {
        f"members.{role}.{name}": value
        for role in heads.members
        if sources[role] is not None
        for name, value in sources[role].state_dict().items()
    }
    return _copy(heads, tensors, part="heads", source="teacher")


@torch.no_grad()
def _copy(module: nn.Module, tensors: dict[str, Tensor], *, part: Part, source: str) -> PartReport:
    """Copy by name what both sides have. Everything is checked before anything is written."""
    targets = module.state_dict()
    both = targets.keys() & tensors.keys()
    # Buffers, such as pixel statistics, are called alike in towers of different kinds.
    if not both & {name for name, _ in module.named_parameters()}:
        raise ValueError(
            f"student.{part}.init: no tensor of {source} has a name that the student knows: they are of different "
            f"kinds; choose another student.{part}, or init=random"
        )
    values, resampled = {}, []
    for name in sorted(both):
        values[name] = tensors[name]
        if isinstance(module, TimmViT) and name == "model.pos_embed" and targets[name].shape != tensors[name].shape:
            values[name] = _resampled(module, targets[name], tensors[name])
            resampled.append(name)
        check_shape(name, targets[name], values[name], what=f"student.{part} from {source}")
    for name, value in values.items():
        targets[name].copy_(value)
    left_out = {name: "not in the source, keeps its random start" for name in sorted(targets.keys() - both)}
    left_out |= {name: "the student has no such tensor" for name in sorted(tensors.keys() - both)}
    return PartReport(
        part=part,
        source=source,
        copied=len(values) - len(resampled),
        resampled=tuple(resampled),
        left_out=left_out,
    )


def _resampled(tower: TimmViT, target: Tensor, value: Tensor) -> Tensor:
    """Positions on the student's grid, or `value` itself where it holds no grid to resample."""
    fitted = fit_positions(
        value.float(),
        target,
        num_prefix=tower.num_positioned_prefix,
        interpolation=tower.interpolation,
    )
    return value if fitted is None else fitted


def _limit(tower: ImageEncoder | TextEncoder, settings: ImageTower | TextTower, key: str) -> None:
    if settings.last_k > tower.num_layers:
        raise ValueError(f"{key}.last_k is {settings.last_k}, but the tower has {tower.num_layers} blocks")
    lowest = {"train": 0, "freeze": tower.num_layers + 1, "last_k": tower.num_layers - settings.last_k + 1}
    for name, parameter in tower.named_parameters():
        parameter.requires_grad_(tower.layer_of(name) >= lowest[settings.update])


def _counted(row: PartReport, module: nn.Module | None) -> PartReport:
    assert module is not None, row.part
    parameters = list(module.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return replace(row, parameters=sum(parameter.numel() for parameter in parameters), trained=trained)
