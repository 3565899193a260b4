"""Who teaches when several do: every member as if it taught alone, and what they are together."""

from dataclasses import dataclass

from distill.compose.teaching import TeacherReport, Teaching, build_transfer, load_alone
from distill.config import Recipe, by_teacher
from distill.encoders.dual import DualEncoder
from distill.objective.ensemble import EnsembleTransfer
from distill.objective.transfer import Transfer
from teachers import Ensemble
from teachers.matching import Match


@dataclass(frozen=True, kw_only=True)
class EnsembleTeaching:
    """It stands where the `Teaching` of a teacher that teaches alone does."""

    teacher: Ensemble
    members: dict[str, Teaching]
    text_from: str | None
    """The member whose text tower and temperature a student may start from."""

    heads = None

    @property
    def encoder(self) -> DualEncoder | None:
        return None if self.text_from is None else self.members[self.text_from].encoder

    @property
    def temperature(self) -> float | None:
        return None if self.text_from is None else self.members[self.text_from].temperature

    def matched_with(self, student: DualEncoder, recipe: Recipe) -> tuple[Match, ...]:
        recipes = by_teacher(recipe)
        return tuple(
            match for name, member in self.members.items() for match in member.matched_with(student, recipes[name])
        )

    def reports(self) -> tuple[TeacherReport, ...]:
        return tuple(report for member in self.members.values() for report in member.reports())


def load_ensemble(recipe: Recipe) -> EnsembleTeaching:
    """Every member of the recipe's ensemble. ValueError, which names the member, for what is missing or does not fit.

    A student that starts from its teacher's text tower or temperature starts from the one member that has text.
    """
    members = {}
    for name, alone in by_teacher(recipe).items():
        try:
            members[name] = load_alone(alone, member=name)
        except ValueError as problem:
            raise ValueError(f"teacher.members.{name}: {problem}") from problem
    asks = recipe.student.text.init == "teacher" or recipe.objective.contrastive.temperature is None
    teacher = Ensemble({name: member.teacher for name, member in members.items()})
    return EnsembleTeaching(teacher=teacher, members=members, text_from=_member_with_text(members) if asks else None)


def build_ensemble_transfer(recipe: Recipe, taught: EnsembleTeaching) -> EnsembleTransfer:
    """The losses of every member, with its own settings and statistics."""
    members: dict[str, Transfer] = {
        name: build_transfer(alone, taught.members[name]) for name, alone in by_teacher(recipe).items()
    }
    return EnsembleTransfer(members, balance=recipe.teacher.balance, drop=recipe.teacher.drop)


def _member_with_text(members: dict[str, Teaching]) -> str:
    """Raises ValueError unless there is exactly one."""
    with_text = [name for name, member in members.items() if member.encoder and member.encoder.text is not None]
    if len(with_text) != 1:
        found = f"teacher.members {' and '.join(with_text)} have" if with_text else "no member of teacher.members has"
        raise ValueError(
            f"{found} a text tower, and student.text.init=teacher or objective.contrastive.temperature=null takes that "
            "of exactly one; name a file or run instead, and a temperature"
        )
    return with_text[0]
