"""`distill show`: from models and pictures to a sheet, and what it says of mistakes."""

import errno
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import trained

from distill import cli
from distill.cli.show import MAPS
from distill.show import sheet
from distill.show.command import told_apart
from distill.show.content import Frame
from distill.show.models import Asked, load_model
from distill.show.pictures import scene_pictures
from distill.show.views import VIEWS, Looking
from distill.show.views.geometry import GeometrySettings
from distill.show.views.geometry import _of as geometry_note
from distill.show.words import settings_of, split_words

SMALL = ["num_pictures=3", "height=0.6", "width=6"]
WORDS = {
    "pca": ["layers=all"],
    "segmentation": [],
    "heat": ["query=[a red circle, dots]"],
    "similarity": ["point=0.2,0.9", "of=first"],
    "parts": ["num=4"],
    "depth": ["fitted=16"],
    "normals": ["fitted=16"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "tiny", "optim.steps=1", "optim.warmup=0")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for name, size in (("wide.jpg", (20, 70)), ("high.png", (90, 30)), ("even.webp", (40, 40))):
        Image.fromarray(generator.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / name)
    return folder


def test_the_command_line_knows_every_kind_of_map():
    assert set(MAPS) == set(VIEWS) == set(WORDS)


@pytest.mark.parametrize("what", VIEWS)
def test_every_map_of_a_run_and_of_its_start_is_drawn_on_its_own_scenes(what: str, run: Path, tmp_path: Path, capsys):
    file = tmp_path / "new" / f"{what}.png"
    models = [str(run), str(run), "side=untrained", "title=at the start"]
    assert cli.main(["show", what, *models, *WORDS[what], *SMALL, "--to", str(file)]) == 0
    assert capsys.readouterr().out == f"written to {file}\n"
    with Image.open(file) as drawn:
        assert drawn.width == 600
    assert [each.name for each in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize(
    "words",
    [
        ["segmentation", "classes=[cat, dog]", "mode=slide", "image_size=48"],
        ["pca", "colours=rgb", "basis=shared", "image_size=40"],
        ["heat", "query=a cat: on a mat"],
    ],
)
def test_photos_of_any_aspect_become_a_pdf(words: list[str], run: Path, photos: Path, tmp_path: Path):
    file = tmp_path / "sheet.pdf"
    assert cli.main(["show", words[0], str(run), *words[1:], *SMALL, "--images", str(photos), "--to", str(file)]) == 0
    assert file.read_bytes().startswith(b"%PDF")


def test_encoders_of_two_families_are_drawn_side_by_side(run: Path, photos: Path, tmp_path: Path):
    models = ["timm:test_vit", "weights=random", "timm:test_convnext", "weights=random", f"distill:{run}"]
    arguments = ["show", "pca", *models, "image_size=64", *SMALL, "--images", str(photos / "wide.jpg")]
    assert cli.main([*arguments, "--to", str(tmp_path / "sheet.png")]) == 0


def test_depth_of_photos_is_read_by_a_probe_fitted_on_the_named_folder(run: Path, photos: Path, tmp_path: Path):
    generator = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(generator.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / f"{number}_rgb.jpg")
        depth = generator.integers(800, 3000, (40, 40), dtype=np.uint16)
        Image.fromarray(depth).save(tmp_path / f"{number}_depth_mm.png")
    arguments = ["show", "depth", str(run), f"geometry={tmp_path}", *SMALL, "--images", str(photos)]
    assert cli.main([*arguments, "--to", str(tmp_path / "sheet.png")]) == 0
    fitted_on = geometry_note(GeometrySettings(geometry=str(tmp_path)))
    assert tmp_path.name in fitted_on and str(tmp_path) not in fitted_on


def test_a_frozen_teacher_stands_beside_its_student(run: Path, tmp_path: Path):
    words = ("teacher.kind=frozen", f"teacher.checkpoint={run}", "optim.steps=1", "optim.warmup=0")
    student = trained(tmp_path / "student", *words)
    teacher = load_model(Asked(place=str(student), side="teacher")).encoder.state_dict()
    original = load_model(Asked(place=str(run))).encoder.state_dict()
    assert all(torch.equal(original[name], value) for name, value in teacher.items() if name in original)
    assert load_model(Asked(place=str(student))).title == "smoke"
    assert load_model(Asked(place=str(student), side="teacher")).title == "smoke teacher"


def test_a_checkpoint_that_is_passed_over_is_named(run: Path, tmp_path: Path, capsys):
    shutil.copytree(run, tmp_path / "run")
    [whole] = (tmp_path / "run" / "checkpoints").glob("step_*")
    later = shutil.copytree(whole, whole.with_name("step_00000002"))
    (later / "student.safetensors").write_bytes(b"cut")
    file = tmp_path / "sheet.png"
    assert cli.main(["show", "pca", str(tmp_path / "run"), *SMALL, "--to", str(file)]) == 0
    told = capsys.readouterr().err
    assert "step_00000002" in told and told.count("\n") == 1


def test_models_of_one_name_are_told_apart(run: Path):
    model = load_model(Asked(place=str(run)))
    assert [each.title for each in told_apart([model, model])] == ["smoke (1)", "smoke (2)"]
    models = [replace(model, title=title) for title in ("a", "a", "a (1)", "b")]
    assert [each.title for each in told_apart(models)] == ["a (2)", "a (3)", "a (1)", "b"]


def test_what_stands_behind_a_model_is_said_of_it():
    models, settings = split_words(["a", "side=teacher", "b:c", "title=my own", "num=3", "a/x=1/run", "weights=f"])
    assert models == [
        Asked(place="a", side="teacher"),
        Asked(place="b:c", title="my own"),
        Asked(place="a/x=1/run", weights="f"),
    ]
    assert settings == {"num": "3"}


def test_scenes_are_the_same_at_every_size(run: Path):
    small, large = (
        scene_pictures(load_model(Asked(place=str(run))).recipe.data.scenes, limit=2, side=s) for s in (48, 96)
    )
    for one, two in zip(small, large, strict=True):
        shrunk = torch.nn.functional.avg_pool2d(two.pixels[None], 2)[0]
        assert (shrunk - one.pixels).abs().mean() < 0.03  # measured: 0.012
        assert one.truth.class_names == two.truth.class_names


@pytest.mark.parametrize("what", VIEWS)
def test_every_model_has_its_row_whatever_it_is_called(what: str, run: Path):
    """Also one that is called like a row of the sheet's own."""
    model = load_model(Asked(place=str(run)))
    pictures = scene_pictures(model.recipe.data.scenes, limit=1, side=48)
    looking = Looking(frame=Frame(height=48, widest=48), image_size=32, scenes=model.recipe.data.scenes)
    said = {"query": "a red circle", "fitted": "16", "num": "3"}
    known = VIEWS[what].settings.__dataclass_fields__
    [settings] = settings_of({key: said[key] for key in said if key in known}, (VIEWS[what].settings,), what=what)
    titles = ["truth", "picture", "same", "same"]
    content = VIEWS[what].show([replace(model, title=title) for title in titles], pictures, settings, looking)
    rows = [row.title for row in content.rows]
    assert rows[-4:] == titles
    if what in ("depth", "normals", "segmentation"):
        assert rows[-5] == "truth" and content.rows[-5].panels[0].below == "" != content.rows[-4].panels[0].below


MISTAKES = {
    "scenes for which there is no memory": (["pca", "RUN", "image_size=2048", "num_pictures=200"], "fewer pictures"),
    "no model": (["pca"], "no model is named"),
    "no such run": (["pca", "nowhere"], "no such run or checkpoint folder"),
    "unknown setting": (["pca", "RUN", "basi=own"], "did you mean basis"),
    "setting of another map": (["pca", "RUN", "query=x"], "pca has no setting 'query'"),
    "wrong choice": (["pca", "RUN", "basis=mine"], "basis=mine: expected one of own, turned, shared"),
    "wrong number": (["parts", "RUN", "num=many"], "num=many: expected a whole number"),
    "more parts than patches": (["parts", "RUN", "num=900"], "900 parts of"),
    "half a point": (["similarity", "RUN", "point=0.3"], "2 numbers"),
    "point outside": (["similarity", "RUN", "point=3,0"], "shares of the picture"),
    "no query": (["heat", "RUN"], "needs a text"),
    "block that is not there": (["pca", "RUN", "layers=[1, 99]"], "99"),
    "no block": (["pca", "RUN", "layers=[]"], "name blocks, such as layers=[3, 6], or all"),
    "classes without brackets": (["segmentation", "RUN", "classes=cat, dog"], "several are written classes=[cat, dog]"),
    "layers of values": (["pca", "RUN", "layers=all", "features=value"], "value features"),
    "no text tower": (["heat", "timm:test_vit", "weights=random", "query=x"], "has no text tower"),
    "weights of a run": (["pca", "RUN", "weights=x"], "has its own"),
    "side of a family": (["pca", "timm:test_vit", "side=teacher"], "only runs have sides"),
    "no such side": (["pca", "RUN", "side=left"], "side=left: expected one of student, teacher, untrained"),
    "said of nobody": (["pca", "title=x", "RUN"], "none stands there"),
    "classes of photos": (["segmentation", "RUN", "--images", "PHOTOS"], "classes=[cat, dog, grass]"),
    "a class twice": (["segmentation", "RUN", "classes=[cat, cat]"], "once"),
    "depth of photos": (["depth", "RUN", "--images", "PHOTOS"], "geometry=FOLDER"),
    "too large to be drawn": (["pca", "RUN", "height=90", "dpi=1200"], "are too much to be drawn"),
    "no pictures": (["pca", "RUN", "--images", "RUN"], "holds no pictures"),
    "widths": (
        ["pca", "RUN", "timm:test_vit", "weights=random", "basis=shared", "image_size=64"],
        "no basis in common",
    ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_one_sentence_exit_code_2_and_no_file(kind: str, run: Path, photos: Path, tmp_path: Path, capsys):
    words, said = MISTAKES[kind]
    words = [{"RUN": str(run), "PHOTOS": str(photos)}.get(word, word) for word in words]
    assert cli.main(["show", words[0], *words[1:], "--to", str(tmp_path / "sheet.png")]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", ["sheet.jpg", "sheet", "."])
def test_a_sheet_of_another_kind_is_refused_before_anything_is_loaded(name: str, tmp_path: Path, capsys):
    assert cli.main(["show", "pca", "timm:nowhere", "--to", str(tmp_path / name)]) == 2
    assert ".png or .pdf" in capsys.readouterr().err


def test_a_sheet_below_a_file_is_refused_before_anything_is_loaded(tmp_path: Path, capsys):
    (tmp_path / "afile").write_text("something")
    for name in ("afile/x.png", "afile/deeper/x.png"):
        assert cli.main(["show", "pca", "timm:nowhere", "--to", str(tmp_path / name)]) == 2
        told = capsys.readouterr().err
        assert f"{tmp_path / 'afile'} is a file" in told and told.count("\n") == 1


def test_a_broken_picture_in_a_folder_is_named_and_the_others_are_drawn(
    run: Path, photos: Path, tmp_path: Path, capsys
):
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "text.png").write_text("no picture")
    file = tmp_path / "sheet.png"
    arguments = ["show", "pca", str(run), "num_pictures=9", "height=0.6", "width=6", "--to", str(file)]
    assert cli.main([*arguments, "--images", str(tmp_path / "photos")]) == 0
    told = capsys.readouterr().err
    assert told.startswith(f"left out: {tmp_path / 'photos' / 'text.png'}: ") and told.count("\n") == 1


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_on_a_full_disk_a_sheet_is_written_whole_or_not_at_all(
    suffix: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    file = tmp_path / f"sheet.{suffix}"
    file.write_text("the one before")

    def full(*arguments: object, **words: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sheet.Figure, "savefig", full)
    monkeypatch.setattr(sheet.PdfPages, "savefig", full)
    assert cli.main(["show", "pca", str(run), *SMALL, "--to", str(file)]) == 2
    assert capsys.readouterr().err == f"distill: error: No space left on device: {file}\n"
    assert [each.name for each in tmp_path.iterdir()] == [file.name] and file.read_text() == "the one before"


def test_signs_that_the_font_lacks_are_one_sentence(run: Path, tmp_path: Path, capsys):
    arguments = ["show", "heat", str(run), "query=猫", *SMALL, "--to", str(tmp_path / "sheet.png")]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().err == "the sheet's font has no sign for 猫: boxes stand in their place\n"
