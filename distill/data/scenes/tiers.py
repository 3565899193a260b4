"""How hard a world is: one frozen page of numbers per tier. Changing a number changes the world."""

from dataclasses import dataclass

from distill.data.scenes.vocabulary import STUFF, THINGS

MOST_THINGS = 8


@dataclass(frozen=True, kw_only=True)
class Tier:
    """Parameters of one difficulty. Lengths are shares of the picture's side, probabilities in [0, 1]."""

    num_thing_classes: int
    """The first so many of `vocabulary.THINGS` are in play."""
    num_stuff_classes: int
    """The first so many of `vocabulary.STUFF` are in play."""
    things: tuple[int, int]
    """Fewest and most things drawn for a picture; one that finds no room is left out."""
    diameter: tuple[float, float]
    spacing: float
    """Smallest distance of two centres as a share of the sum of their radii: 1 never touches, less overlaps."""
    tilt: float
    """Largest rotation of a thing either way, degrees."""
    repeat: float
    """Probability that a thing has the same shape as the one drawn before it."""
    thing_typicality: float
    """Probability that a thing has its typical colour; otherwise all colours are equally likely."""
    stuff_typicality: float
    """The same for background textures."""
    two_regions: float
    """Probability that the background is split in two."""
    period: tuple[float, float]
    """Length of one repetition of a texture."""
    colour_jitter: float
    """Largest deviation of an RGB channel from the named colour."""
    gain: tuple[float, float]
    """Brightness of the whole picture."""
    gradient: float
    """Largest relative change of the light from the centre to a border."""
    noise: float
    """Largest amplitude of the pixel noise."""

    def __post_init__(self) -> None:
        fewest, most = self.things
        if not 1 <= fewest <= most <= MOST_THINGS:
            raise ValueError(f"things={self.things}: expected 1 <= fewest <= most <= {MOST_THINGS}")
        if not 1 <= self.num_thing_classes <= len(THINGS):
            raise ValueError(f"num_thing_classes={self.num_thing_classes}: expected 1 to {len(THINGS)}")
        if not 2 <= self.num_stuff_classes <= len(STUFF):
            raise ValueError(f"num_stuff_classes={self.num_stuff_classes}: expected 2 to {len(STUFF)}")
        if not 0 < self.diameter[0] <= self.diameter[1] <= 0.8:
            raise ValueError(f"diameter={self.diameter}: expected 0 < low <= high <= 0.8")
        if not 0.5 <= self.spacing <= 2:
            raise ValueError(f"spacing={self.spacing}: expected 0.5 to 2; below 0.5 things hide each other entirely")


TIERS: dict[str, Tier] = {
    "easy": Tier(
        num_thing_classes=8,
        num_stuff_classes=6,
        things=(1, 2),
        diameter=(0.42, 0.60),
        spacing=1.0,
        tilt=10.0,
        repeat=0.1,
        thing_typicality=0.95,
        stuff_typicality=0.95,
        two_regions=0.5,
        period=(0.16, 0.22),
        colour_jitter=0.03,
        gain=(0.92, 1.05),
        gradient=0.10,
        noise=0.02,
    ),
    "medium": Tier(
        num_thing_classes=10,
        num_stuff_classes=8,
        things=(1, 3),
        diameter=(0.36, 0.56),
        spacing=0.8,
        tilt=20.0,
        repeat=0.2,
        thing_typicality=0.6,
        stuff_typicality=0.6,
        two_regions=0.6,
        period=(0.14, 0.22),
        colour_jitter=0.05,
        gain=(0.80, 1.10),
        gradient=0.20,
        noise=0.04,
    ),
    "hard": Tier(
        num_thing_classes=12,
        num_stuff_classes=10,
        things=(2, 4),
        diameter=(0.30, 0.50),
        spacing=0.65,
        tilt=35.0,
        repeat=0.25,
        thing_typicality=0.2,
        stuff_typicality=0.2,
        two_regions=0.7,
        period=(0.12, 0.22),
        colour_jitter=0.07,
        gain=(0.70, 1.15),
        gradient=0.30,
        noise=0.06,
    ),
}
