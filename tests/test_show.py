"""Maps, colours and sheets: against independent references, on made-up features and pictures."""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import colormaps, rc_context, rcParams
from matplotlib.colors import to_rgb
from oracles import all_knowing, know_nothing, painted
from PIL import Image
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.pairwise import cosine_similarity

from distill.contracts import Tokens
from distill.show import colours, sheet
from distill.show.basis import principal_basis, turned_like
from distill.show.content import Content, Frame, Panel, Row, Scale, as_bytes
from distill.show.layout import Measures, fitting_height, keys_of, spans
from distill.show.letters import Letters, unknown_letters
from distill.show.models import Model, fitted
from distill.show.palette import DEEP, PALE, class_colours, distinct_colours
from distill.show.parts import find_parts, named_alike
from distill.show.pictures import Picture, read_picture, read_pictures
from distill.show.sheet import Paper, check_room, draw
from distill.show.similarity import cosines, patch_at
from distill.show.views import Looking
from distill.show.views.pca import bases_of
from distill.show.views.segmentation import SegmentationSettings, segment
from distill.show.views.segmentation import show as show_segmentation
from distill.show.vision import from_oklab, oklab

GRIDS = ((5, 7), (6, 4), (3, 3))
HALF_A_STEP = 0.501 / 255
"""Of the bytes of a panel."""


def maps_of(seed: int, *, width: int = 12) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    spread = np.linspace(4, 0.2, width)
    return [generator.normal(size=(*grid, width)) * spread + generator.normal(size=width) * 0 + 2 for grid in GRIDS]


def flat(maps: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([each.reshape(-1, each.shape[-1]) for each in maps])


def turn(size: int, *, seed: int = 1) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def test_the_basis_is_that_of_scikit_learn_but_for_signs():
    maps = maps_of(0)
    basis, reference = principal_basis(maps), PCA(3).fit(flat(maps))
    ours = flat([basis.components(each) for each in maps])
    assert np.abs(np.abs(ours) - np.abs(reference.transform(flat(maps)))).max() < 1e-12
    assert (basis.axes_DK.max(0) >= -basis.axes_DK.min(0)).all()


def test_a_component_runs_over_all_its_colours_in_all_pictures_together():
    maps = maps_of(0)
    shares = flat([principal_basis(maps).shares(each) for each in maps])
    assert (shares.min(0) == 0).all() and (shares.max(0) == 1).all()
    assert 0.01 < (shares == 0).mean() < 0.03


def test_features_without_any_difference_have_one_colour_and_no_nan():
    flat_maps = [np.ones((2, 2, 5)), np.ones((1, 3, 5))]
    basis = principal_basis(flat_maps)
    for each in (
        basis,
        turned_like(basis, flat_maps, basis, flat_maps),
        turned_like(basis, flat_maps, basis, flat_maps),
    ):
        assert len(np.unique(flat([each.shares(one) for one in flat_maps]), axis=0)) == 1
        assert np.isfinite(each.shares(flat_maps[0])).all()


def test_a_model_whose_features_are_turned_and_stretched_gets_the_colours_of_the_first():
    maps = maps_of(0)
    other = [3 * each @ turn(12) + 5 for each in maps]
    first, alone = principal_basis(maps), principal_basis(other)
    turned = turned_like(first, maps, alone, other)
    ours, theirs = flat([turned.shares(each) for each in other]), flat([first.shares(each) for each in maps])
    assert np.abs(ours - theirs).max() < 1e-9
    # Without it, an accident of signs: the features were turned.
    assert np.abs(flat([alone.shares(each) for each in other]) - theirs).max() > 0.5


def test_turning_shows_nothing_that_the_three_components_do_not_hold():
    maps, others = maps_of(0), maps_of(9, width=8)
    alone = principal_basis(others)
    turned = turned_like(principal_basis(maps), maps, alone, others)
    inside = alone.axes_DK @ np.linalg.lstsq(alone.axes_DK, turned.axes_DK, rcond=None)[0]
    assert np.abs(inside - turned.axes_DK).max() < 1e-12
    components = flat([turned.components(each) for each in others])
    assert np.abs(np.cov(components.T, bias=True) - np.eye(3)).max() < 1e-9


def test_grids_of_different_models_are_compared_where_they_differ():
    fine = [np.kron(each, np.ones((2, 2, 1))) for each in maps_of(0)]
    first = principal_basis(maps_of(0))
    turned = turned_like(first, maps_of(0), principal_basis(fine), fine)
    ours = flat([turned.components(each)[::2, ::2] for each in fine])
    theirs = flat([first.components(each) for each in maps_of(0)])
    for component in range(3):
        assert np.corrcoef(ours[:, component], theirs[:, component])[0, 1] > 0.999999


def test_one_basis_for_all_rows_needs_features_of_one_width():
    rows = [maps_of(0), maps_of(1)]
    one, two = bases_of(rows, "shared", reference=0)
    assert one is two and np.allclose(one.mean_D, flat([*rows[0], *rows[1]]).mean(0))
    with pytest.raises(ValueError, match="8 and 12 wide have no basis in common"):
        bases_of([maps_of(0), maps_of(1, width=8)][::-1], "shared", reference=0)


def test_parts_are_as_tight_as_those_of_scikit_learn():
    points = np.random.default_rng(0).normal(size=(400, 6))
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    ours = find_parts(points, num=7)
    centres = np.stack([unit[ours == part].mean(0) for part in range(7)])
    spread = ((unit - centres[ours]) ** 2).sum()
    reference = KMeans(7, n_init=10, random_state=0).fit(unit)
    assert spread < 1.03 * reference.inertia_  # measured: 1.007
    assert (np.diff(np.bincount(ours)) <= 0).all()
    assert np.array_equal(ours, find_parts(points, num=7))


def test_parts_find_groups_that_lie_apart():
    generator = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), [50, 40, 30, 20])
    points = 5 * np.eye(6)[truth] + 0.3 * generator.normal(size=(140, 6))
    assert np.array_equal(find_parts(points, num=4), truth)
    assert adjusted_rand_score(find_parts(points, num=4, seed=3), truth) == 1


def test_equal_patches_and_too_many_parts_are_no_trouble():
    assert set(find_parts(np.ones((9, 4)), num=3)) <= {0, 1, 2}
    with pytest.raises(ValueError, match="10 parts of 9 patches"):
        find_parts(np.ones((9, 4)), num=10)


def test_parts_of_another_model_get_the_numbers_of_those_they_cover():
    first = np.random.default_rng(0).integers(0, 5, 300)
    other = np.array([3, 0, 4, 1, 2])[first]
    other[:30] = 0
    named = named_alike(first, other, num=5)
    assert (named == first)[30:].all()
    assert len(set(named)) == 5


def test_similarity_is_the_cosine_with_the_patch_at_the_point():
    patches = torch.randn(1, 12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    found = Tokens(cls=patches[:, :1], patches=patches, grid=(3, 4))
    reference = cosine_similarity(patches[0].numpy())
    for point, place in (((0.0, 0.0), 0), ((1.0, 1.0), 11), ((0.3, 0.7), 9), ((0.99, 0.0), 3)):
        chosen = patch_at(found, point)[0]
        assert torch.equal(chosen, patches[0, place])
        ours = cosines(found, chosen)[0].flatten().numpy()
        assert np.abs(ours - reference[place]).max() < 1e-6
    with pytest.raises(ValueError, match="shares of the picture"):
        patch_at(found, (1.2, 0.5))


def test_oklab_is_ottossons():
    known = {(1, 1, 1): (1, 0, 0), (0, 0, 0): (0, 0, 0), (1, 0, 0): (0.62796, 0.22486, 0.12585)}
    for colour, place in known.items():
        assert np.abs(oklab(np.array(colour, dtype=float)) - place).max() < 2e-4
    some = np.random.default_rng(0).random((50, 3))
    assert np.abs(from_oklab(oklab(some)) - some).max() < 1e-6


def test_the_first_component_is_lightness_whatever_the_others_say():
    ramp = np.linspace(0, 1, 40)
    for second, third in ((0.5, 0.5), (0.2, 0.8), (0.9, 0.4)):
        shares = np.stack([ramp, np.full(40, second), np.full(40, third)], -1)[None]
        seen = oklab(colours.lightness_first(shares))[0, :, 0]
        assert (np.diff(seen) > 0).all()
        assert seen[-1] - seen[0] > 0.5


def test_colours_of_classes_stay_when_the_list_grows_and_differ():
    many = distinct_colours(40)
    assert many[:24] == [*DEEP, *PALE] and distinct_colours(26) == many[:26]
    assert len(set(many)) == 40
    assert class_colours(9, 5, [7, 2]) == {7: PALE[2], 2: DEEP[2]}


def test_an_overlay_has_the_legends_colours_and_stays_near_them_over_black_and_white():
    classes = np.array([[0, 1], [1, 0]])
    colour_of = {0: DEEP[0], 1: PALE[3]}
    [(_, first), (_, second)] = colours.legend_of(["a", "b"], colour_of, opacity=0.6)
    legend = np.array([first, second])[classes]
    over_grey = colours.laid_over(np.full((2, 2, 3), 0.5), colours.painted(classes, colour_of), opacity=0.6)
    assert np.abs(over_grey - legend).max() < 1e-12
    for grey in (0.0, 1.0):
        seen = colours.laid_over(np.full((2, 2, 3), grey), colours.painted(classes, colour_of), opacity=0.6)
        assert np.abs(seen - legend).max() < 0.081
    alone = colours.laid_over(np.zeros((2, 2, 3)), colours.painted(classes, colour_of), opacity=1.0)
    assert np.allclose(alone[0, 0], to_rgb(DEEP[0]))


def test_numbers_get_the_colours_of_cividis_and_equal_numbers_one_colour():
    values = np.array([[-1.0, 0.0], [0.5, 2.0]])
    seen = colours.scaled(values, low=0.0, high=1.0)
    assert np.allclose(seen, colormaps["cividis"](np.array([[0.0, 0.0], [0.5, 1.0]]))[..., :3])
    assert len(np.unique(colours.scaled(np.ones((2, 2)), low=1.0, high=1.0).reshape(-1, 3), axis=0)) == 1


def test_normals_have_their_usual_colours_and_none_is_black():
    normals = np.zeros((3, 1, 4))
    normals[:, 0, 0], normals[:, 0, 1], normals[:, 0, 2] = (0, 0, 1), (1, 0, 0), (0, -2, 0)
    assert np.allclose(colours.normals_colours(normals)[0], [(0.5, 0.5, 1), (1, 0.5, 0.5), (0.5, 0, 0.5), (0, 0, 0)])


def test_borders_lie_between_classes_and_nowhere_else():
    classes = np.zeros((9, 9), dtype=np.int64)
    classes[:, 4:] = 1
    drawn = colours.with_borders(np.full((9, 9, 3), 0.5), classes)
    assert (drawn[:, 3] == 0).all() and (drawn[:, [2, 4]] == 1).all() and (drawn[:, [0, 1, 5, 8]] == 0.5).all()
    assert (colours.with_borders(np.full((3, 3, 3), 0.5), np.ones((3, 3), dtype=np.int64)) == 0.5).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3), (40, 60), (1, 257)])
def test_pictures_of_any_aspect_keep_it_in_the_frame(size: tuple[int, int]):
    height, width = Frame(height=100, widest=800).size_of(Picture(name="", pixels=torch.zeros(3, *size)))
    assert 1 <= height <= 100 and 1 <= width <= 800
    if min(height, width) > 1:
        assert abs(height / width / (size[0] / size[1]) - 1) < 0.5 / min(height, width) + 0.5 / max(height, width)


def test_as_many_pictures_lie_side_by_side_as_fit():
    assert spans([40, 40, 40, 10], room=90, gap=5) == [(0, 2), (2, 4)]
    assert spans([500, 20], room=90, gap=5) == [(0, 1), (1, 2)]
    measures = Measures(width=1600, dpi=100)
    for aspects in ([1.0] * 8, [1.5] * 7, [0.2, 6.0, 1.0], [1.0], [30.0]):
        height = fitting_height(aspects, measures)
        assert measures.inches(1.5) <= height <= measures.inches(3.2)


def test_long_names_are_broken_where_they_have_signs_and_shortened_in_the_middle():
    letters = Letters(100)
    width = letters.width("deit_tiny_patch16_2", 11.0)
    lines = letters.wrapped("deit_tiny_patch16_224 is small", 11.0, width=width)
    assert lines == ["deit_tiny_patch16_", "224 is small"]
    assert "".join(letters.wrapped("x" * 90, 11.0, width=width)) == "x" * 90
    for line in letters.wrapped("x" * 90, 11.0, width=width):
        assert letters.width(line, 11.0) <= width
    short = letters.shortened("a name\nof two lines.jpg", 11.0, width=width)
    assert short.startswith("a name") and "…" in short and short.endswith(".jpg")


def content_of(sizes: list[tuple[int, int]], *, num_rows: int = 2, legend: tuple = ()) -> Content:
    generator = np.random.default_rng(0)
    rows = [
        Row(
            title="a model whose name is rather long/and_not_to_be_broken_anywhere" * (number + 1),
            panels=tuple(
                Panel(rgb=as_bytes(generator.random((*size, 3))), below="$x_1$ a name.jpg" * 3) for size in sizes
            ),
            scale=Scale(low=0.0, high=2.0, unit="m") if number else None,
        )
        for number in range(num_rows)
    ]
    return Content(heading="What is $shown$", note="how to read it " * 30, rows=tuple(rows), legend=legend)


def pixels_of(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))


def places_of(page: np.ndarray, panel: np.ndarray) -> list[tuple[int, int]]:
    """(y, x) of the top left corner wherever the panel is on the page."""
    height, width = panel.shape[:2]
    corners = np.argwhere((page == panel[0, 0]).all(-1)).tolist()
    return [(y, x) for y, x in corners if np.array_equal(page[y : y + height, x : x + width], panel)]


def test_every_panel_is_on_the_sheet_pixel_by_pixel_in_its_row_and_beneath_its_picture(tmp_path: Path):
    content = content_of([(100, 100), (100, 31), (7, 380), (100, 2)])
    page = pixels_of(draw(content, tmp_path / "sheet.png", Paper(width=6.0)))
    assert page.shape[1] == 600
    places = np.array([[places_of(page, panel.rgb) for panel in row.panels] for row in content.rows])
    assert places.shape == (2, 4, 1, 2)  # each once
    y, x = places[:, :, 0, 0], places[:, :, 0, 1]
    assert (y[0] < y[1]).all() and np.array_equal(x[0], x[1])
    # Two pictures fit side by side; the others lie beneath, again under both rows.
    assert x[0, 0] < x[0, 1] and x[0, 2] < x[0, 3] and y[1, :2].max() < y[0, 2:].min()
    # Nothing reaches the margins.
    edges = [page[:8], page[-8:], page[:, :8], page[:, -8:]]
    assert all((edge == 255).all() for edge in edges)


def test_the_legends_swatches_have_the_legends_colours(tmp_path: Path):
    names = [*(f"class {number}" for number in range(30)), "one with a name that is longer than the sheet " * 9]
    legend = tuple((name, to_rgb(colour)) for name, colour in zip(names, distinct_colours(31), strict=True))
    content = content_of([(30, 30)], legend=legend)
    page = pixels_of(draw(content, tmp_path / "sheet.png", Paper(width=8.0)))
    measures = Measures(width=800, dpi=100)
    keys, height = keys_of(content, measures, Letters(100))
    top = len(page) - measures.margin - round(height)
    for key, (_, colour) in zip(keys, legend, strict=True):
        seen = page[top + round(key.y) + 12, round(key.x) + 10]
        assert np.abs(seen - np.round(255 * np.array(colour))).max() <= 1
    assert len({key.y for key in keys}) > 2 and "…" in keys[-1].name


def test_a_pdf_has_as_many_pages_as_it_needs_and_equal_bytes(tmp_path: Path):
    content = content_of([(150, 200)] * 7, legend=(("cat", (0.1, 0.2, 0.3)),))
    one, two = (draw(content, tmp_path / name, Paper(width=5.0, dpi=100)).read_bytes() for name in ("a.pdf", "b.pdf"))
    assert one == two and one.startswith(b"%PDF") and one.rstrip().endswith(b"%%EOF")
    assert one.count(b"/Type /Page\n") + one.count(b"/Type /Page ") == 7


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_a_users_matplotlibrc_changes_nothing(suffix: str, tmp_path: Path):
    content = content_of([(30, 40)], legend=(("cat", (0.1, 0.2, 0.3)),))
    plain = draw(content, tmp_path / f"plain.{suffix}", Paper(width=5.0)).read_bytes()
    own = {
        "savefig.dpi": 30,
        "savefig.bbox": "tight",
        "font.family": "monospace",
        "text.color": "red",
        "pdf.fonttype": 42,
    }
    with rc_context(own | {"figure.dpi": 50, "axes.titlesize": 30, "image.interpolation": "bilinear"}):
        assert draw(content, tmp_path / f"own.{suffix}", Paper(width=5.0)).read_bytes() == plain
        assert rcParams["savefig.bbox"] == "tight"


def test_letters_that_the_font_lacks_are_named_and_draw_without_a_warning(tmp_path: Path):
    picture = Panel(rgb=np.zeros((20, 20, 3), dtype=np.uint8), below="naïve café, Ωμέγα")
    content = Content(
        heading="“猫”", note="how", rows=(Row(title="a 犬\n", panels=(picture,)),), legend=(("猫", (0.1, 0.2, 0.3)),)
    )
    assert unknown_letters(content.texts) == "猫犬"
    draw(content, tmp_path / "sheet.png", Paper())  # warnings are errors


def test_a_sheet_too_large_to_be_drawn_is_refused_and_names_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sheet, "MOST_PIXELS", 100_000)
    with pytest.raises(ValueError, match="num_pictures"):
        draw(content_of([(300, 300)]), tmp_path / "sheet.png", Paper(width=6.0))
    assert not [*tmp_path.iterdir()]


def model_of(encoder, *, image_size: int) -> Model:
    return Model(title="oracle", encoder=encoder, image_size=image_size)


def test_an_encoder_that_knows_the_classes_paints_them_where_they_are():
    names = ["cat", "dog", "tree"]
    labels = torch.tensor([[0, 1, 2], [2, 0, 1]]).repeat_interleave(16, 0).repeat_interleave(16, 1)
    picture = Picture(name="made up", pixels=painted(labels))
    looking = Looking(frame=Frame(height=32, widest=48), image_size=32)
    settings = SegmentationSettings(classes=tuple(names), opacity=1.0)
    model = model_of(all_knowing(names), image_size=32)
    [found] = segment(model, [picture], names, settings, looking)
    # Bilinear maps between patches of 8 leave the corners where four classes meet undecided.
    assert (found == labels.numpy()).mean() > 0.98
    content = show_segmentation([model], [picture], settings, looking)
    assert [name for name, _ in content.legend] == names
    shown = content.rows[1].panels[0].rgb / 255
    for index, (_, colour) in enumerate(content.legend):
        inside = (found == index) & (labels.numpy() == index)
        assert (np.abs(shown[inside] - np.array(colour)).max(-1) < HALF_A_STEP).mean() > 0.5


@pytest.mark.parametrize("size", [(30, 47), (200, 31), (1, 90)])
def test_what_a_model_is_shown_is_whole_patches_of_the_asked_size(size: tuple[int, int]):
    picture = Picture(name="made up", pixels=torch.rand(3, *size))
    shown = fitted(model_of(know_nothing(patch_size=7), image_size=28), picture, 35)
    assert min(shown.shape[-2:]) == 35 and all(side % 7 == 0 for side in shown.shape[-2:])


def test_a_picture_with_more_patches_than_attention_can_take_is_refused():
    picture = Picture(name="thread.png", pixels=torch.rand(3, 1, 2000))
    with pytest.raises(ValueError, match=r"thread.png: .* patches of 7 for oracle"):
        fitted(model_of(know_nothing(patch_size=7), image_size=224), picture, None)


def png(width: int, height: int) -> bytes:
    """A picture that says it is this large and ends after the header's chunk."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    content = bytearray(file.getvalue())
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


BAD = {
    "text": (b"no picture at all", "cannot be opened"),
    "fifty megapixels": (png(10_000, 5_000), "more than 40 megapixels"),
    "bomb": (png(60_000, 60_000), "cannot be opened|more than"),
    "cut": (png(8, 8)[:45], "cannot be decoded|cannot be opened"),
    "empty": (b"", "cannot be opened"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_picture_is_one_sentence_with_its_name(kind: str, tmp_path: Path):
    content, said = BAD[kind]
    (tmp_path / "a.png").write_bytes(content)
    for read in (lambda: read_picture(content, name="a.png"), lambda: read_pictures(tmp_path, limit=4)):
        with pytest.raises(ValueError, match=said) as caught:
            read()
        assert "a.png" in str(caught.value) and "\n" not in str(caught.value)


def test_large_pictures_are_kept_small_and_upright(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.full((600, 900, 3), 77, dtype=np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    picture = read_picture(tmp_path / "a.jpg", name="a.jpg", longest=300)
    assert picture.pixels.shape == (3, 300, 200)
    assert abs(picture.pixels.mean().item() - 77 / 255) < 0.01


def test_a_folder_gives_pictures_spread_over_its_names(tmp_path: Path):
    for number in range(10):
        Image.new("RGB", (5, 4)).save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    assert [each.name for each in read_pictures(tmp_path, limit=5).pictures] == [
        "0.png",
        "2.png",
        "4.png",
        "6.png",
        "8.png",
    ]
    with pytest.raises(ValueError, match="no such file"):
        read_pictures(tmp_path / "nowhere", limit=5)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        read_pictures(tmp_path / "empty", limit=5)


def test_folders_within_the_folder_are_read_and_what_is_no_picture_is_left_out_by_name(tmp_path: Path):
    (tmp_path / "trip" / "day 2").mkdir(parents=True)
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / "folder.png").mkdir()
    for name in ("a.png", "trip/a.png", "trip/day 2/b.JPG", ".thumbnails/a.png"):
        Image.new("RGB", (5, 4)).save(tmp_path / name)
    (tmp_path / "trip" / "._a.png").write_bytes(b"what macOS remembers")
    (tmp_path / "text.png").write_text("no picture")
    found = read_pictures(tmp_path, limit=9)
    assert [each.name for each in found.pictures] == ["a.png", "trip/a.png", "trip/day 2/b.JPG"]
    [sentence] = found.left_out
    assert sentence.startswith(f"{tmp_path / 'text.png'}: cannot be opened")
    (tmp_path / "bad").mkdir()
    for name in ("one.png", "two.png"):
        (tmp_path / "bad" / name).write_text("no picture")
    with pytest.raises(ValueError, match=r"one.png: cannot be opened.*; nor can 1 more be shown"):
        read_pictures(tmp_path / "bad", limit=9)


def test_pictures_are_kept_no_larger_than_they_are_shown_and_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for number in range(3):
        Image.new("RGB", (400, 200)).save(tmp_path / f"{number}.png")
    sizes = {tuple(each.pixels.shape) for each in read_pictures(tmp_path, limit=3, shorter=50).pictures}
    assert sizes == {(3, 50, 100)}
    monkeypatch.setattr("distill.show.pictures.MOST_STORED", 10_000)
    assert len(read_pictures(tmp_path, limit=2, shorter=50).pictures) == 2
    with pytest.raises(ValueError, match="show fewer pictures"):
        read_pictures(tmp_path, limit=3, shorter=50)


def test_pictures_too_large_for_memory_are_refused_before_they_are_made():
    one = Picture(name="a", pixels=torch.zeros(3, 30, 40))
    frame = Paper(height=30.0, dpi=600).frame(Path("a.png"), [one])
    with pytest.raises(ValueError, match="pictures 18000 pixels high are too much to be drawn"):
        check_room(frame, [one], num_rows=2)
    check_room(Frame(height=600, widest=900), [one] * 60, num_rows=4)
    with pytest.raises(ValueError, match="num_pictures"):
        check_room(Frame(height=600, widest=900), [one] * 900, num_rows=4)


def test_the_ends_of_a_scale_are_told_apart():
    assert Scale(low=0.9981, high=0.99999).ends == ("0.998", "1.000")
    assert Scale(low=-0.0004, high=2.5, unit="m").ends == ("0.00 m", "2.50 m")
    assert Scale(low=1.0, high=1.0).ends == ("1.00", "1.00")
