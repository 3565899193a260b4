"""Teacher and student on one grid: which way is chosen, what is said, and what the teacher is shown."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_runs import losses, opened, tiny, trained
from torch.nn.functional import interpolate

from distill.compose import compose
from distill.contracts import Batch
from distill.encoders.vit import TimmViT
from distill.train import checkpoint
from distill.trained import load_trained
from teachers.matching import match_grids
from teachers.pixels import seen_at


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 32 pixels, 4 x 4 patches."""
    return trained(tmp_path_factory.mktemp("teacher") / "run", "optim.steps=1")


def frozen(teacher: Path) -> tuple[str, ...]:
    return ("teacher.kind=frozen", f"teacher.checkpoint={teacher}", "objective.patch.target=features")


CASES = {  # settings: (size of the teacher's pictures, what is said)
    (): (32, "32 pixels, 4 x 4 patches, as the student has"),
    ("student.image.patch_size=16",): (32, "resampled to the student's 2 x 2: of the finer grid only detail is lost"),
    ("student.image.patch_size=4",): (64, "64 pixels, at which its patches lie on the student's 8 x 8: between the"),
    ("student.image.patch_size=4", "teacher.match=features"): (32, "as asked by teacher.match=features"),
    ("student.image.patch_size=16", "teacher.match=pixels"): (16, "as asked by teacher.match=pixels"),
    ("student.image.patch_size=4", "teacher.image_size=40"): (40, "teacher.image_size sets the size"),
    ("data.image_size=64",): (64, "64 pixels, at which its patches lie on the student's 8 x 8"),
}


@pytest.mark.parametrize("settings", CASES, ids=lambda words: " ".join(words) or "the same")
def test_what_loses_least_is_chosen_and_said(settings: tuple[str, ...], teacher: Path, tmp_path: Path):
    size, said = CASES[settings]
    parts = compose(tiny(tmp_path, *frozen(teacher), *settings))
    assert (parts.teacher.image_size, parts.matches[0].image_size) == (size, size)
    assert str(parts.matches[0]).startswith("teacher: pictures of ") and said in str(parts.matches[0])
    assert parts.teacher_views == ((size,) if size > parts.recipe.data.image_size else ())


def test_the_choice_is_told_once_at_the_start(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    trained(tmp_path / "run", *frozen(teacher), "student.image.patch_size=4", "optim.steps=1")
    said = "".join(capsys.readouterr())
    assert said.count("at which its patches lie on the student's 8 x 8") == 1
    assert compose(tiny(tmp_path)).matches == ()


class OneSize(TimmViT):
    """Takes pictures of 32 pixels only."""

    def grid(self, height: int, width: int) -> tuple[int, int]:
        if height != 32:
            raise ValueError("it takes pictures of 32 pixels only")
        return super().grid(height, width)


def test_a_teacher_of_one_size_is_matched_by_its_features_and_refuses_others(teacher: Path, tmp_path: Path):
    image = compose(tiny(tmp_path, *frozen(teacher))).teacher.image
    image.__class__ = OneSize
    options = {"image_size": 32, "is_given": False, "student_grid": (8, 8)}
    match = match_grids(image, asked="auto", **options)
    assert match.image_size == 32 and match.said.endswith(
        "although these are finer: it takes pictures of 32 pixels only"
    )
    with pytest.raises(ValueError, match="32 pixels only"):
        match_grids(image, asked="pixels", **options)


def batch_of(recipe) -> Batch:
    with opened(recipe) as training:
        return next(training.stream)


def test_a_teacher_of_higher_resolution_sees_scenes_drawn_at_its_size(teacher: Path, tmp_path: Path):
    views = ("data.views.global_scale=[0.3, 0.6]", "data.views.flip=0.5", "data.scenes.tier=hard")
    small = batch_of(tiny(tmp_path / "small", *frozen(teacher), *views))
    both = batch_of(tiny(tmp_path / "both", *frozen(teacher), *views, "teacher.image_size=96"))
    assert small.teacher_pixels == {} and torch.equal(both.pixels, small.pixels)
    assert list(both.teacher_pixels) == [96]
    larger = both.teacher_pixels[96]
    assert larger.shape == (8, 3, 96, 96) and larger.min() >= 0 and larger.max() <= 1
    # The same view: shrunk it is the student's, up to sensor noise, and it is not the student's view made larger.
    shrunk = interpolate(larger, (32, 32), mode="bicubic", antialias=True)
    assert (shrunk - both.pixels).abs().mean() < 0.04
    others = shrunk.roll(1, 0)
    assert (others - both.pixels).abs().mean() > 3 * (shrunk - both.pixels).abs().mean()
    enlarged = interpolate(both.pixels, (96, 96), mode="bicubic")
    assert (enlarged - larger).abs().mean() > 0.01
    assert torch.equal(seen_at(both, 96), larger)
    assert torch.equal(seen_at(replace(both, teacher_pixels={}), 32), both.pixels)


def test_a_teacher_of_higher_resolution_sees_photos_from_the_file(teacher: Path, tmp_path: Path):
    """A pattern of one-pixel stripes survives at the file's size and is grey at the student's."""
    (tmp_path / "photos").mkdir()
    for number in range(8):
        stripes = (torch.arange(128) % 2 * 255).to(torch.uint8).expand(128, 128).contiguous()
        content = io.BytesIO()
        Image.fromarray(stripes.numpy()).convert("RGB").save(content, "png")
        (tmp_path / "photos" / f"{number}.png").write_bytes(content.getvalue())
    photos = ("data.source=dataset", "data.dataset.format=imagefolder", f"data.dataset.path={tmp_path}/photos")
    alone = ("objective.contrastive.weight=0", "student.text.kind=none", "teacher.image_size=128")
    batch = batch_of(tiny(tmp_path / "run", *frozen(teacher), *photos, *alone))
    assert batch.pixels.std() < 0.05 and batch.teacher_pixels[128].std() > 0.45


def test_a_run_with_a_view_of_the_teachers_own_is_the_same_in_micro_batches(teacher: Path, tmp_path: Path):
    settings = (*frozen(teacher), "teacher.image_size=48", "objective.contrastive.weight=0", "student.text.kind=none")
    whole, pieces = (
        (tmp_path / n, *settings, "optim.steps=2", "optim.warmup=0", f"optim.accumulate={n}") for n in ("1", "4")
    )
    for one, other in zip(losses(trained(*pieces)), losses(trained(*whole)), strict=True):
        assert abs(one - other) < 3e-6 * other


def test_adapters_train_beside_the_student_and_do_not_leave_with_it(teacher: Path, tmp_path: Path):
    ladder = "objective.features={adapter: mlp, adapter_hidden: 24, student_layers: [1]}"
    run = trained(tmp_path / "run", *frozen(teacher), ladder, "student.image.width=24", "optim.steps=1")
    kept = checkpoint.find(run).tensors("student")
    adapters = [name for name in kept if "adapters" in name]
    assert {name.split(".")[0] for name in adapters} == {"adapters"} and "adapters.layers.0.1.0.weight" in adapters
    student = load_trained(run).encoder.state_dict()
    assert student and not any("adapter" in name for name in student)
    assert {f"encoder.{name}" for name in student} == {name for name in kept if name.startswith("encoder.")}


def test_earlier_layers_that_are_not_there_are_refused(teacher: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"names \[2\], but the student has 2 blocks"):
        compose(tiny(tmp_path, *frozen(teacher), "objective.features.student_layers=[1, 2]"))
