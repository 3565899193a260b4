"""Who teaches: a loaded teacher, what it brings for the losses, and what the start message says of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from distill.cache.reader import Reader
from distill.config import Recipe
from distill.config import Teacher as Settings
from distill.encoders.dual import DualEncoder, build_dual
from distill.encoders.head import Heads, build_heads
from distill.encoders.low_rank import merge_adapters
from distill.encoders.weights import load_strictly, sha256_of_weights
from distill.objective.transfer import Transfer
from distill.trained import load_trained, under
from teachers import Cached, Frozen, Partial
from teachers.families import RANDOM, Pretrained
from teachers.families import load as load_pretrained
from teachers.matching import Match, match_grids


def who(member: str) -> str:
    """What messages call a teacher, which has a name where there are several."""
    return f"teacher {member}" if member else "teacher"


@dataclass(frozen=True)
class TeacherReport:
    """Who a loaded teacher is and what it was given; for the start message and the summary."""

    member: str
    """Its name in an ensemble; empty for one that teaches alone."""
    name: str
    source: str
    weights_sha256: str | None
    """Of the files they were read from; None for random ones."""
    licence: str | None
    image_size: int
    """Side of the pictures it looks at in this run, pixels."""
    patch_size: int
    num_cls: int
    parameters: int
    """Of its image tower."""
    with_text: bool
    with_heads: bool

    def __str__(self) -> str:
        if self.source == RANDOM:
            start = f"{who(self.member)} {self.name} with RANDOM weights, as asked for: it has learnt nothing"
        else:
            start = f"{who(self.member)} {self.name}, weights {self.source}, licence {self.licence or 'not stated'}"
        grid = self.image_size // self.patch_size
        parts = [f"{self.num_cls} CLS and {grid} x {grid} patches of {self.patch_size} pixels"]
        parts += ["a text tower"] * self.with_text + ["projection heads"] * self.with_heads
        return f"{start}\n    {', '.join(parts)}; {self.parameters:,} parameters in its image tower"

    def as_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """A loaded teacher and what comes with it; all None and empty for a momentum teacher, which starts as the student.

    `encoder` is what a student may start from. `source` is None for a cached teacher whose towers nobody needs.
    """

    teacher: Frozen | Partial | Cached | None = None
    encoder: DualEncoder | None = None
    source: Pretrained | None = None
    name: str = ""
    member: str = ""
    """Its name in an ensemble."""
    balance: dict[str, Tensor] = field(default_factory=dict)
    """Centres that its heads were trained with."""
    temperature: float | None = None
    """What it divides the cosine of picture and text by, where it states that."""

    @property
    def heads(self) -> Heads | None:
        return None if self.teacher is None else self.teacher.heads

    @property
    def width(self) -> int | None:
        """Of its tokens."""
        return None if self.teacher is None else self.teacher.width

    def matched_with(self, student: DualEncoder, recipe: Recipe) -> tuple[Match, ...]:
        """Show the teacher pictures of the size that the recipe's way of matching asks for; a cached one saw them."""
        if self.teacher is None or isinstance(self.teacher, Cached):
            return ()
        match = match_grids(
            self.teacher.image,
            image_size=self.teacher.image_size,
            is_given=recipe.teacher.image_size is not None,
            student_grid=student.image.grid(recipe.data.image_size, recipe.data.image_size),
            asked=recipe.teacher.match,
            who=who(self.member),
        )
        self.teacher.image_size = match.image_size
        return (match,)

    def reports(self) -> tuple[TeacherReport, ...]:
        """Of a teacher that is run."""
        if self.source is None or isinstance(self.teacher, Cached):
            return ()
        report = TeacherReport(
            member=self.member,
            name=self.source.name,
            source=self.source.source,
            weights_sha256=sha256_of_weights(self.source.files),
            licence=self.source.licence,
            image_size=self.teacher.image_size,
            patch_size=self.source.image.patch_size,
            num_cls=self.source.image.num_cls,
            parameters=self.source.num_parameters,
            with_text=self.source.text is not None,
            with_heads=self.source.heads is not None,
        )
        return (report,)


def load_alone(recipe: Recipe, *, member: str = "") -> Teaching:
    """The recipe's one teacher, unless it follows the student. ValueError for what is missing or does not fit.

    `member` is its name if the recipe is that of one of several.
    """
    settings = recipe.teacher
    if settings.kind == "momentum":
        return Teaching()
    if settings.cache is not None:
        return _cached(recipe, member)
    source = _source(settings, member)
    teacher = _teacher(recipe, source)
    return Teaching(
        teacher=teacher,
        encoder=teacher.encoder,
        source=source,
        name=source.name,
        member=member,
        balance=source.balance,
        temperature=source.temperature,
    )


def load_teacher(recipe: Recipe) -> Frozen:
    """The recipe's frozen teacher by itself, on the CPU, whether the training runs it or not; no seed is moved.

    It looks at pictures of the size that matching with the recipe's student gives. Raises ValueError as `compose` does.
    """
    with torch.random.fork_rng(devices=[]):
        taught = load_alone(replace(recipe, teacher=live(recipe.teacher)))
        taught.matched_with(build_dual(recipe.student, recipe.data.image_size), recipe)
    return taught.teacher


def live(settings: Settings) -> Settings:
    """The same teacher, or teachers, run at every step."""
    run = {"cache": None, "cache_storage": "fp32", "cache_components": 0}
    return replace(settings, **run, members={name: replace(each, **run) for name, each in settings.members.items()})


def load_learnt_teacher(recipe: Recipe, learnt: dict[str, Tensor]) -> DualEncoder:
    """The encoder of a partly trained teacher: its start with what a checkpoint's `teacher` says it learnt, plain.

    Raises ValueError when the start is not there any more or the two do not fit.
    """
    teacher = load_alone(recipe).teacher
    load_strictly(teacher, teacher.state_dict() | learnt, what="teacher")
    merge_adapters(teacher.image)
    return teacher.encoder


def build_transfer(recipe: Recipe, taught: Teaching) -> Transfer:
    """The losses of a teacher; with one from our own trainings, the centres of its prototypes come along."""
    transfer = Transfer(
        recipe.objective,
        num_prototypes=recipe.student.head.num_prototypes,
        teacher_width=taught.width,
        seed=recipe.seed,
    )
    if taught.teacher is not None and transfer.asks_teachers_heads:
        _check_heads(recipe, transfer, taught)
        known = transfer.prototypes.state_dict()
        stored = under("transfer.prototypes.", taught.balance)
        transfer.prototypes.load_state_dict({key: stored.get(key, value) for key, value in known.items()})
    return transfer


def _source(settings: Settings, member: str) -> Pretrained:
    with _said_of(settings, member):
        if settings.checkpoint is not None:
            return load_pretrained(f"distill:{settings.checkpoint}", None)
        return load_pretrained(settings.model, settings.weights)


@contextmanager
def _said_of(settings: Settings, member: str) -> Iterator[None]:
    """A ValueError inside names `teacher.checkpoint`: who measures a run has not named the one that taught it."""
    try:
        yield
    except ValueError as problem:
        place = settings.checkpoint
        if place is None:
            raise
        key = f"teacher.members.{member}.checkpoint" if member else "teacher.checkpoint"
        lost = not Path(place).is_absolute() and not Path(place).exists()
        hint = "; relative paths begin where the command is given" if lost else ""
        raise ValueError(f"{key}={place}: {problem}{hint}") from problem


def _cached(recipe: Recipe, member: str) -> Teaching:
    """Its towers are built only where the student starts from them or asks for their temperature, and not kept."""
    settings, student = recipe.teacher, recipe.student
    name = f"distill:{settings.checkpoint}" if settings.checkpoint is not None else settings.model
    of_ours = name.removeprefix("distill:") if name.startswith("distill:") else None
    with _said_of(settings, member):
        trained = None if of_ours is None else load_trained(of_ours, heads_only=True)
    asks = "teacher" in (student.image.init, student.text.init) or recipe.objective.contrastive.temperature is None
    source = _source(settings, member) if asks else None
    return Teaching(
        teacher=Cached(Reader(settings.cache), trained.heads if trained else None),
        encoder=DualEncoder(source.image, source.text) if source else None,
        source=source,
        name=name,
        member=member,
        balance=trained.balance if trained else {},
        temperature=source.temperature if source else None,
    )


def _teacher(recipe: Recipe, source: Pretrained) -> Frozen | Partial:
    """ValueError when pictures of `teacher.image_size` do not split into its patches."""
    settings = recipe.teacher
    image_size = settings.image_size or source.image_size
    try:
        source.image.grid(image_size, image_size)
    except ValueError as problem:
        raise ValueError(f"teacher.image_size={image_size}: {problem}") from problem
    encoder, heads = DualEncoder(source.image, source.text), source.heads
    if settings.kind == "frozen":
        return Frozen(encoder, heads, image_size=image_size)
    if heads is None and "head" in settings.trainable:
        heads = _fresh_heads(recipe, encoder.image.width)
    return Partial(encoder, heads, image_size=image_size, settings=settings)


def _fresh_heads(recipe: Recipe, width: int) -> Heads | None:
    """Heads of the student's sizes for a teacher that came without."""
    patch = recipe.objective.patch
    hears_patches = patch.weight > 0 and patch.supervise != "none"
    return build_heads(recipe.student.head, width, with_cls=recipe.objective.cls.weight > 0, with_patch=hears_patches)


def _check_heads(recipe: Recipe, transfer: Transfer, taught: Teaching) -> None:
    """ValueError unless the teacher's heads name the prototypes that the student's are to name."""
    instead = "use objective.patch.target=clusters, or features without objective.cls.weight"
    if recipe.teacher.kind == "partial" and taught.heads is None:
        instead = "name head in teacher.trainable for a fresh one"
    for role, wanted in (("cls", transfer.with_cls), ("patch", transfer.with_prototypes)):
        if wanted and (taught.heads is None or getattr(taught.heads, role) is None):
            raise ValueError(
                f"{taught.name} was trained without a {role} head: it has no prototypes to teach; {instead}"
            )
    asked, found = recipe.student.head.num_prototypes, taught.heads.num_prototypes
    if asked != found:
        raise ValueError(
            f"student.head.num_prototypes={asked}, but the teacher's head has {found}: both must name the same "
            "prototypes"
        )
