"""Every kind of map on pictures whose maps are known: encoders that say what lies where, on grids that no turn keeps.

All pictures have 4 by 6 patches of 8 pixels and are shown 36 by 54 pixels large, so that a patch is 9 pixels wide and
its middle pixel has its number unmixed, whatever lies beside it.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from jaxtyping import Bool, Float
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from oracles import all_knowing, painted
from test_show import HALF_A_STEP
from torch import Tensor, nn

from distill.config import Scenes
from distill.contracts import ImageEncoder, Tokens
from distill.encoders.dual import DualEncoder
from distill.show.colours import faint
from distill.show.content import Content, Frame, as_bytes, framed
from distill.show.models import Model
from distill.show.palette import DEEP, distinct_colours
from distill.show.pictures import Picture, Truth
from distill.show.views import Looking, geometry
from distill.show.views.geometry import GeometrySettings, draw_depth, draw_normals, show_depth, show_normals
from distill.show.views.parts import PartsSettings
from distill.show.views.parts import show as show_parts
from distill.show.views.pca import PcaSettings
from distill.show.views.pca import show as show_pca
from distill.show.views.segmentation import SegmentationSettings
from distill.show.views.segmentation import show as show_segmentation
from distill.show.views.similarity import HeatSettings, PointSettings, show_heat, show_point
from distill.show.vision import oklab

PATCH, ROWS, COLUMNS, SHOWN = 8, 4, 6, 9
LOOKING = Looking(frame=Frame(height=ROWS * SHOWN, widest=COLUMNS * SHOWN))
NAMES = ["grass", "cat", "dog"]
DARK, YELLOW = (colormaps["cividis"](end)[:3] for end in (0.0, 1.0))

LABELS = torch.tensor([[1, 1, 0, 0, 0, 2], [0, 1, 0, 0, 1, 2], [0, 0, 0, 0, 0, 2], [0, 2, 0, 1, 0, 1]])
"""Class of every patch: 14 of 0, 6 of 1, 4 of 2; no turn or mirror image of it is itself."""


class Reading(ImageEncoder):
    """A patch is its mean colour, times a matrix of the block."""

    num_cls = 1

    def __init__(self, *matrices: Tensor):
        super().__init__()
        self.width, self.patch_size, self.num_layers = 3, PATCH, len(matrices)
        self.matrices = nn.Parameter(torch.stack(matrices))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return height // PATCH, width // PATCH

    def forward(self, pixels: Float[Tensor, "B 3 H W"], hidden: Bool[Tensor, "B N"] | None = None) -> Tokens:
        return self.intermediate(pixels, (self.num_layers,))[0]

    def intermediate(self, pixels: Float[Tensor, "B 3 H W"], blocks: tuple[int, ...]) -> tuple[Tokens, ...]:
        means = nn.functional.avg_pool2d(pixels, PATCH)
        seen = [means.flatten(2).transpose(1, 2) @ self.matrices[block - 1] for block in blocks]
        return tuple(Tokens(cls=each[:, :1], patches=each, grid=tuple(means.shape[-2:])) for each in seen)


def model_of(encoder: DualEncoder | ImageEncoder, *, title: str = "oracle") -> Model:
    dual = encoder if isinstance(encoder, DualEncoder) else DualEncoder(encoder, None)
    return Model(title=title, encoder=dual.eval(), image_size=ROWS * PATCH)


def pixels_of(patches: Tensor, *, side: int = PATCH) -> Tensor:
    """Every patch of [..., h, w] as `side` by `side` equal pixels."""
    return patches.repeat_interleave(side, -2).repeat_interleave(side, -1)


def picture_of(labels: Tensor, *, truth: Truth | None = None) -> Picture:
    return Picture(name="made up", pixels=painted(pixels_of(labels)), truth=truth)


def middles(rgb: np.ndarray) -> np.ndarray:
    """The middle pixel of every patch, [h, w, 3]."""
    return rgb[SHOWN // 2 :: SHOWN, SHOWN // 2 :: SHOWN]


def panel(content: Content, title: str, place: int = 0) -> np.ndarray:
    [row] = [row for row in content.rows if row.title == title]
    return row.panels[place].rgb / 255


def yellow_where(where: Tensor) -> np.ndarray:
    return np.where(where.numpy()[..., None], YELLOW, DARK)


def test_the_made_up_map_is_no_turn_or_mirror_image_of_itself():
    for other in (LABELS.flip(0), LABELS.flip(1), LABELS.flip(0, 1)):
        assert all(((other == index) != LABELS.eq(index)).any() for index in range(3))


def test_heat_is_yellow_where_the_named_thing_is_and_dark_elsewhere():
    pictures = [picture_of(LABELS), picture_of(LABELS.flip(1))]
    asked = HeatSettings(query=("a cat", "a dog"), opacity=1.0)
    content = show_heat([model_of(all_knowing(NAMES))], pictures, asked, LOOKING)
    for name in ("cat", "dog"):
        for place, labels in enumerate((LABELS, LABELS.flip(1))):
            shown = middles(panel(content, f"oracle: a {name}", place))
            assert np.abs(shown - yellow_where(labels == NAMES.index(name))).max() < HALF_A_STEP
    assert (content.rows[1].scale.low, content.rows[1].scale.high) == (0.0, 1.0)


def test_heat_lies_over_the_picture_it_is_of():
    picture = picture_of(LABELS)
    one = HeatSettings(query=("a cat",), opacity=0.0)
    content = show_heat([model_of(all_knowing(NAMES))], [picture], one, LOOKING)
    plain = panel(content, "picture")
    assert np.abs(middles(plain)[..., 0] - LABELS.numpy() / 16).max() < 0.01  # bicubic: measured 0.003
    assert np.abs(panel(content, "oracle") - faint(plain)).max() < 2 * HALF_A_STEP


@pytest.mark.parametrize("of", ["each", "first"])
def test_similarity_is_yellow_at_the_ring_and_wherever_the_same_is_seen(of: str):
    other = (LABELS + 1) % 3
    pictures, point = [picture_of(LABELS), picture_of(other)], (1.5 / COLUMNS, 0.5 / ROWS)
    asked = PointSettings(point=point, of=of, opacity=1.0)
    content = show_point([model_of(all_knowing(NAMES))], pictures, asked, LOOKING)
    assert LABELS[0, 1] == 1 and other[0, 1] == 2
    assert 1 not in (LABELS[0, 4], LABELS[3, 1], LABELS[3, 4])  # where a mirrored point would lie
    assert np.abs(middles(panel(content, "oracle")) - yellow_where(LABELS == 1)).max() < HALF_A_STEP
    wanted = other == (2 if of == "each" else 1)
    assert np.abs(middles(panel(content, "oracle", 1)) - yellow_where(wanted)).max() < HALF_A_STEP
    for place, picture in enumerate(pictures):
        drawn = np.argwhere(
            (panel(content, "picture", place) != as_bytes(framed(picture, LOOKING.frame)) / 255).any(-1)
        )
        if of == "first" and place == 1:
            assert not len(drawn)
        else:
            assert np.abs(drawn.mean(0) + 0.5 - (0.5 * SHOWN, 1.5 * SHOWN)).max() < 0.5


def ramps() -> Tensor:
    """[3, h, w]: red grows from left to right, green less from top to bottom, blue a little with both; uncorrelated."""
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, ROWS), torch.linspace(-1, 1, COLUMNS), indexing="ij")
    return 0.5 + torch.stack([0.4 * columns, 0.2 * rows, 0.1 * rows * columns])


def principal(colours: Tensor) -> np.ndarray:
    """What `rgb` shows of `ramps`, whose channels are its principal components: [h, w, 3]."""
    channels = ramps().flatten(1).double().numpy()
    low, high = np.percentile(channels, (2, 98), axis=1)
    return np.clip((colours.permute(1, 2, 0).double().numpy() - low) / (high - low), 0, 1)


def test_pca_shows_the_strongest_direction_first_and_every_patch_at_its_place():
    pictures = [Picture(name="made up", pixels=pixels_of(each)) for each in (ramps(), ramps().flip(2))]
    turned = torch.tensor([[0.0, -2.0, 0.0], [0.0, 0.0, 3.0], [-1.0, 0.0, 0.0]])
    models = [model_of(Reading(torch.eye(3))), model_of(Reading(turned), title="turned")]
    content = show_pca(models, pictures, PcaSettings(colours="rgb"), LOOKING)
    for place, colours in enumerate((ramps(), ramps().flip(2))):
        wanted = np.kron(principal(colours), np.ones((SHOWN, SHOWN, 1)))
        for title in ("oracle", "turned"):
            assert np.abs(panel(content, title, place) - wanted).max() < HALF_A_STEP
        assert np.abs(middles(panel(content, "picture", place)) - colours.permute(1, 2, 0).numpy()).max() < 0.03


def test_in_lab_the_strongest_direction_is_lightness_and_the_second_blue_to_yellow():
    picture = Picture(name="made up", pixels=pixels_of(ramps()))
    content = show_pca([model_of(Reading(torch.eye(3)))], [picture], PcaSettings(), LOOKING)
    light, _, yellow = np.moveaxis(oklab(middles(panel(content, "oracle"))), -1, 0)
    assert (np.diff(light, axis=1) > 0.04).all() and (np.diff(yellow.mean(1)) > 0.03).all()


def test_a_row_of_a_layer_shows_that_layer():
    columns_first, rows_first = torch.diag(torch.tensor([1.0, 0.1, 0.0])), torch.diag(torch.tensor([0.1, 1.0, 0.0]))
    model = model_of(Reading(rows_first, columns_first))
    picture = Picture(name="made up", pixels=pixels_of(ramps()))
    for layers, blocks in (("all", [1, 2]), ((2, 1), [2, 1]), ((1,), [1])):
        asked = PcaSettings(layers=layers, basis="own", colours="rgb")
        content = show_pca([model], [picture], asked, LOOKING)
        assert [row.title for row in content.rows[1:]] == [f"oracle, block {block}" for block in blocks]
        for block in blocks:
            strongest = middles(panel(content, f"oracle, block {block}"))[..., 0]
            along, across = np.diff(strongest, axis=block - 1), np.diff(strongest, axis=2 - block)
            assert (along > 0.1).all() and np.abs(across).max() == 0


def test_parts_are_painted_where_they_lie_in_pictures_of_any_aspect():
    high = torch.tensor([[0, 1, 0, 0], [0, 0, 2, 2], [1, 0, 2, 0], [0, 0, 0, 0], [1, 0, 0, 1], [1, 1, 0, 0]])
    pictures = [picture_of(LABELS), picture_of(high)]
    models = [model_of(all_knowing(NAMES)), model_of(all_knowing(NAMES), title="again")]
    content = show_parts(models, pictures, PartsSettings(num=3, opacity=1.0, features="value"), LOOKING)
    assert [name for name, _ in content.legend] == ["part 1", "part 2", "part 3"]
    colours = np.array([to_rgb(colour) for colour in distinct_colours(3)])
    assert np.abs(np.array([colour for _, colour in content.legend]) - colours).max() < 1e-9
    for title in ("oracle", "again"):
        for place, (labels, side) in enumerate(((LABELS, SHOWN), (high, 6))):
            wanted = np.kron(colours[labels.numpy()], np.ones((side, side, 1)))
            assert np.abs(panel(content, title, place) - wanted).max() < HALF_A_STEP


def made_up_truth(*, depth: Tensor | None = None, normals: Tensor | None = None) -> Truth:
    """Of `LABELS`; depth [h, w] and normals [3, h, w] of every patch."""
    return Truth(
        classes=pixels_of(LABELS),
        class_names=tuple(NAMES),
        num_things=3,
        depth=pixels_of(torch.ones(ROWS, COLUMNS) if depth is None else depth),
        normals=pixels_of(torch.ones(3, ROWS, COLUMNS) if normals is None else normals),
    )


def test_segmentation_has_the_truths_colours_at_the_truths_places():
    picture = picture_of(LABELS, truth=made_up_truth())
    asked = SegmentationSettings(opacity=1.0)
    content = show_segmentation([model_of(all_knowing(NAMES))], [picture], asked, LOOKING)
    wanted = np.array([to_rgb(DEEP[index]) for index in range(3)])[LABELS.numpy()]
    for title in ("truth", "oracle"):
        assert np.abs(middles(panel(content, title)) - wanted).max() < HALF_A_STEP
    [below] = [each.below for each in content.rows[2].panels]
    assert below.endswith(" % right") and int(below.split()[0]) > 90


DEPTH = torch.linspace(1, 4, ROWS * COLUMNS).reshape(ROWS, COLUMNS)
"""Metres: nearest in the top left corner, farthest in the bottom right one."""
UP, RIGHT, CAMERA = (0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
NORMALS = torch.tensor([[CAMERA] * 6, [CAMERA] * 6, [RIGHT] * 2 + [CAMERA] * 4, [UP] * 6]).permute(2, 0, 1)
"""A floor, a wall behind it, and at its left one that faces right."""
FACING = {UP: (0.5, 1.0, 0.5), RIGHT: (1.0, 0.5, 0.5), CAMERA: (0.5, 0.5, 1.0)}


def with_depth_in_it() -> Picture:
    """Red is the depth, in parts of 8 m."""
    return Picture(name="made up", pixels=pixels_of(DEPTH / 8).expand(3, -1, -1), truth=made_up_truth(depth=DEPTH))


def with_normals_in_it() -> Picture:
    return Picture(name="made up", pixels=pixels_of((NORMALS + 1) / 2), truth=made_up_truth(normals=NORMALS))


def test_a_probe_that_knows_the_depth_draws_the_truth_dark_near_and_yellow_far():
    picture = with_depth_in_it()
    size = LOOKING.frame.size_of(picture)
    probes = [("oracle", lambda each: geometry.upsample(each.truth.depth[None, None], size)[0, 0])]
    content = draw_depth(probes, [picture], GeometrySettings(), LOOKING)
    assert np.array_equal(panel(content, "truth"), panel(content, "oracle"))
    assert content.rows[2].panels[0].below == "0.00 m off"
    check_depth(content)


def check_depth(content: Content) -> None:
    """The colours that the note promises, at every patch."""
    scale = content.rows[1].scale
    assert "Dark blue is near, yellow is far" in content.note and 1 <= scale.low < 1.2 and 3.8 < scale.high <= 4
    share = np.clip((DEPTH.numpy() - scale.low) / (scale.high - scale.low), 0, 1)
    for title in ("truth", "oracle"):
        shown = middles(panel(content, title))
        assert np.abs(shown - colormaps["cividis"](share)[..., :3]).max() < 0.02
        assert np.abs(shown[[0, -1], [0, -1]] - (DARK, YELLOW)).max() < HALF_A_STEP


def test_a_probe_that_knows_the_normals_draws_the_truth_red_right_green_up_and_blue_towards_the_camera():
    picture = with_normals_in_it()
    size = LOOKING.frame.size_of(picture)
    probes = [("oracle", lambda each: geometry.normals.normals_of(each.truth.normals[None], size=size)[0])]
    content = draw_normals(probes, [picture], GeometrySettings(), LOOKING)
    assert np.array_equal(panel(content, "truth"), panel(content, "oracle"))
    assert content.rows[2].panels[0].below == "0° off"
    check_normals(content)


def check_normals(content: Content) -> None:
    assert "Red is how far a surface faces right, green up, blue the camera" in content.note
    wanted = np.array([[FACING[tuple(each)] for each in row] for row in NORMALS.permute(1, 2, 0).tolist()])
    for title in ("truth", "oracle"):
        assert np.abs(middles(panel(content, title)) - wanted).max() < HALF_A_STEP


@pytest.mark.parametrize(
    ("task", "show", "picture", "check", "read"),
    [
        (geometry.depth, show_depth, with_depth_in_it(), check_depth, lambda means: 8 * means[:, :1]),
        (geometry.normals, show_normals, with_normals_in_it(), check_normals, lambda means: 2 * means - 1),
    ],
    ids=["depth", "normals"],
)
def test_what_a_fitted_probe_reads_in_a_picture_is_drawn_where_it_is(
    task: object, show: Callable, picture: Picture, check: Callable, read: Callable, monkeypatch: pytest.MonkeyPatch
):
    # The fit is replaced by the truth, which the probe then has to read from the pixels it is given.
    monkeypatch.setattr(task, "fit", lambda *_: lambda pixels: read(nn.functional.avg_pool2d(pixels, PATCH)))
    looking = Looking(frame=LOOKING.frame, scenes=Scenes())
    check(show([model_of(Reading(torch.eye(3)))], [picture], GeometrySettings(fitted=2), looking))
