"""How a teacher's patches come to lie on the student's grid: by the size of its pictures, or by resampling features."""

from dataclasses import dataclass
from typing import Literal

from distill.contracts import ImageEncoder

Asked = Literal["auto", "features", "pixels"]


@dataclass(frozen=True)
class Match:
    """`image_size`: side of the pictures the teacher sees, pixels. `said` is the line for the log."""

    image_size: int
    said: str

    def __str__(self) -> str:
        return self.said


def match_grids(
    image: ImageEncoder,
    *,
    image_size: int,
    is_given: bool,
    student_grid: tuple[int, int],
    asked: Asked,
    who: str = "teacher",
) -> Match:
    """The teacher's picture size for a student with this grid. `image_size` is its own or, `is_given`, the recipe's.

    `features`: pictures of `image_size`, and features resampled (bilinear, smoothed when the student's grid is
    coarser). `pixels`: pictures of the size at which the teacher's grid is the student's. `auto` takes what loses
    least:

    - the grids are the same, or the recipe gives the size: that size
    - the teacher's grid is the finer one: features. The teacher stays at the resolution it was trained for, and
      averaging loses only what the student's grid cannot hold.
    - the teacher's grid is the coarser one: pixels. Features in between its patches would be made up, while larger
      pictures are looked at in finer detail; the price is a resolution other than that of its training. Where the
      tower takes no other size: features.

    Raises ValueError when `pixels` is asked of a teacher that cannot see pictures of the size it takes.
    """
    rows, columns = image.grid(image_size, image_size)
    larger_size = student_grid[0] * image.patch_size
    seen = f"{who}: pictures of {image_size} pixels, {rows} x {columns} patches"
    wanted = f"the student's {student_grid[0]} x {student_grid[1]}"
    enlarged = f"{who}: pictures of {larger_size} pixels, at which its patches lie on {wanted}"
    if asked == "pixels":
        _check_takes(image, larger_size, student_grid)
        return Match(larger_size, f"{enlarged}, as asked by teacher.match=pixels")
    if (rows, columns) == student_grid:
        return Match(image_size, f"{seen}, as the student has")
    resampled = f"{seen}; its features are resampled to {wanted}"
    if asked == "features":
        return Match(image_size, f"{resampled}, as asked by teacher.match=features")
    if is_given:
        return Match(image_size, f"{resampled}: teacher.image_size sets the size")
    if rows > student_grid[0]:
        return Match(image_size, f"{resampled}: of the finer grid only detail is lost that the student's cannot hold")
    try:
        _check_takes(image, larger_size, student_grid)
    except ValueError as problem:
        return Match(image_size, f"{resampled}, although these are finer: {problem}")
    return Match(larger_size, f"{enlarged}: between the {rows} x {columns} of its own {image_size} nothing is known")


def _check_takes(image: ImageEncoder, image_size: int, grid: tuple[int, int]) -> None:
    found = image.grid(image_size, image_size)
    if found != grid:
        raise ValueError(
            f"pictures of {image_size} pixels make {found[0]} x {found[1]} patches of this teacher, not "
            f"{grid[0]} x {grid[1]}; set teacher.match=features"
        )
