"""Every family of teachers: what all of them promise, what they teach, and how they refuse."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from test_family_hf import write as write_folder
from tiny_released import EXAMPLES, RELEASED, Released
from tiny_runs import losses, opened, tiny, train_alone, words

from distill import cli
from distill.catalogue.families import FAMILIES
from distill.compose import Parts, compose
from distill.contracts import ImageEncoder, TextEncoder
from distill.encoders.dual import DualEncoder
from distill.encoders.timm_names import timm_statistics
from distill.encoders.vit import create_vit, wrap_vit
from distill.train import resume
from teachers import Frozen
from teachers.families import LOADERS, RANDOM, Pretrained, load, open_clip_names, tips_files, tips_sizes
from teachers.families import ours as our_family
from teachers.families import timm as timm_family

IMAGES_ONLY = (
    "objective.patch.target=features",
    "objective.contrastive.weight=0",
    "student.text.kind=none",
    "masking.ratio=0",
    "data.image_size=64",
    "data.batch_size=4",
    "optim.steps=2",
    "optim.warmup=0",
)
STUDENTS = {
    "a ViT": (),
    "a convnet": (
        "student.image.model=timm:test_resnet",
        *(f"student.image.{size}=null" for size in ("patch_size", "width", "depth", "num_heads")),
        "student.image.num_cls=1",
    ),
}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Released]:
    """What `RELEASED` writes, written once."""
    written: dict[tuple[str, str], Released] = {}

    def of(family: str, kind: str) -> Released:
        if (family, kind) not in written:
            folder = tmp_path_factory.mktemp("released") / "here"
            written[family, kind] = RELEASED[family][kind](folder)
        return written[family, kind]

    return of


def teacher(given: Released) -> tuple[str, ...]:
    weights = () if given.weights is None else (f"teacher.weights={given.weights}",)
    return ("teacher.kind=frozen", f"teacher.model={given.model}", *weights)


def test_every_family_is_described_loaded_and_tested():
    assert len(FAMILIES) >= 5 and list(LOADERS) == list(FAMILIES)
    assert RELEASED.keys() == FAMILIES.keys() and all(RELEASED.values())
    for family in FAMILIES.values():
        described = (family.title, family.names, family.dense, family.text, family.heads, family.licence)
        assert all(0 < len(text) < 260 for text in described)


def test_what_the_list_calls_by_name_is_called_so_where_it_is_read():
    tips, clip = FAMILIES["tips"], FAMILIES["open_clip"]
    files = (tips_files.VISION, tips_files.TEXT, tips_files.TOKENIZER, *tips_sizes.RELEASED, f"weights={RANDOM}")
    assert all(word in tips.names for word in files) and tips.licence.startswith(tips_files.LICENCE)
    words = (open_clip_names.CONFIG, open_clip_names.SAFE_WEIGHTS[0], f"{open_clip_names.HUB}OWNER/NAME")
    assert all(word in clip.names for word in words)


@pytest.mark.parametrize(("family", "kind"), EXAMPLES)
def test_what_every_family_promises(family: str, kind: str, released: Callable):
    given: Released = released(family, kind)
    found = load(given.model, given.weights)
    assert isinstance(found, Pretrained) and isinstance(found.image, ImageEncoder)
    assert found.name == given.model and found.licence == given.licence and found.source not in ("", "random")
    assert found.files and all(file.is_file() for file in found.files)
    _check_pictures(found, given)
    _check_texts(found, given)
    assert (found.heads is not None) == given.with_heads == (found.num_prototypes is not None)
    frozen = Frozen(DualEncoder(found.image, found.text), found.heads, image_size=found.image_size)
    assert not any(module.training for module in frozen.train().modules())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def _check_pictures(found: Pretrained, given: Released) -> None:
    """Shapes, statistics, value features, hidden patches refused or obeyed."""
    image, side = found.image, found.image_size
    assert side == given.image_size and image.num_cls == given.num_cls and found.cls
    assert image.pixel_mean.flatten().tolist() == pytest.approx(given.mean)
    assert image.pixel_std.flatten().tolist() == pytest.approx(given.std)
    assert not any(module.training for module in image.modules())
    pixels = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    num_patches = given.grid[0] * given.grid[1]
    with torch.no_grad():
        plain, values = image(pixels), image.values(pixels)
        for tokens in (plain, values):
            assert tokens.grid == image.grid(side, side) == given.grid
            assert tokens.cls.shape == (2, given.num_cls, given.width)
            assert tokens.patches.shape == (2, num_patches, given.width)
            assert tokens.cls.isfinite().all() and tokens.patches.isfinite().all()
        assert torch.equal(image(pixels).patches, plain.patches)
        hidden = torch.arange(num_patches).expand(2, -1) % 2 == 0
        try:
            assert (image(pixels, hidden).patches - plain.patches).abs().max() > 1e-3
        except ValueError as refusal:
            assert "no mask token" in str(refusal)
    depths = {image.layer_of(name) for name, _ in image.named_parameters()}
    assert max(depths) == image.num_layers and min(depths) in (0, 1)
    with torch.no_grad():  # torch's own attention takes another way with history
        assert torch.equal(copy.deepcopy(image)(pixels).cls, plain.cls)


def _check_texts(found: Pretrained, given: Released) -> None:
    assert (found.text is not None) == given.with_text == (found.temperature is not None)
    if found.text is None:
        return
    assert isinstance(found.text, TextEncoder) and not found.text.training and found.temperature > 0
    texts = ["a photo of a cat", "dog", ""]
    embedded = DualEncoder(found.image, found.text).encode_text(texts)
    assert embedded.shape == (3, given.width) and embedded[:2].isfinite().all()
    assert not torch.allclose(embedded[0], embedded[1])
    assert found.text.tokenize([]).shape[0] == 0


@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize(("family", "kind"), EXAMPLES)
def test_every_family_teaches_its_features_to_every_kind_of_student(
    family: str,
    kind: str,
    student: str,
    released: Callable,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    given: Released = released(family, kind)
    recipe = tiny(tmp_path / "run", *IMAGES_ONLY, *STUDENTS[student], *teacher(given))
    kept: list[Parts] = []
    monkeypatch.setattr(resume, "save", lambda *arguments, parts, **named: kept.append(parts))
    assert train_alone(recipe) == 0
    said = capsys.readouterr().err
    assert f"teacher {given.model}, weights " in said and f"licence {given.licence or 'not stated'}" in said
    assert len(losses(tmp_path / "run")) == 2 and all(0 < loss < 10 for loss in losses(tmp_path / "run"))
    [parts] = kept
    assert parts.learner.adapters.patch.weight.shape[0] == given.width
    start, end = compose(recipe), parts
    for name, value in end.learner.encoder.image.named_parameters():
        is_mask = name.startswith("mask_")  # nothing is hidden
        assert is_mask or not torch.equal(value, start.learner.encoder.image.get_parameter(name)), name
    known, now = start.teacher.state_dict(), end.teacher.state_dict()
    assert all(torch.equal(known[name], now[name]) for name in known)


def test_the_teachers_weights_do_not_move_the_students_start(released: Callable, tmp_path: Path):
    """Which numbers a teacher draws before its file is read depends on its size."""
    starts = [
        compose(tiny(tmp_path, *IMAGES_ONLY, *teacher(released("timm", kind)))).learner
        for kind in ("class token", "attention pooling")
    ]
    mine, theirs = (start.encoder.state_dict() for start in starts)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_run_of_mineby_its_family_is_what_the_checkpoint_setting_gives(released: Callable, tmp_path: Path):
    given: Released = released("distill", "run")
    folder = given.model.removeprefix("distill:")
    by_model = compose(tiny(tmp_path, *teacher(given)))
    by_checkpoint = compose(tiny(tmp_path, "teacher.kind=frozen", f"teacher.checkpoint={folder}"))
    assert by_model.taught_by == by_checkpoint.taught_by and by_model.taught_by[0].with_heads
    for part in ("teacher", "objective"):
        one, other = getattr(by_model, part).state_dict(), getattr(by_checkpoint, part).state_dict()
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_teachers_own_temperature_can_be_asked_for(released: Callable, tmp_path: Path):
    given: Released = released("distill", "run")
    learner = compose(tiny(tmp_path, "objective.contrastive.temperature=null", *teacher(given))).learner
    known = load(given.model, None).temperature
    assert known != 0.07 and learner.temperatures.log_scale[0].item() == pytest.approx(-math.log(known))
    with pytest.raises(ValueError, match="this teacher states none"):
        features = ("objective.patch.target=features", "objective.contrastive.temperature=null")
        compose(tiny(tmp_path, *features, *teacher(released("timm", "class token"))))


def test_a_students_towers_may_not_start_from_towers_of_another_kind(released: Callable, tmp_path: Path):
    features = ("objective.patch.target=features", *teacher(released("transformers", "images and texts")))
    for part in ("image", "text"):
        with pytest.raises(ValueError, match=rf"student\.{part}\.init: .*they are of different kinds"):
            compose(tiny(tmp_path, *features, f"student.{part}.init=teacher"))


def test_a_student_takes_over_tokenizer_and_text_tower_only_where_both_say_the_same(released: Callable, tmp_path: Path):
    given: Released = released("distill", "run")
    features = (*teacher(given), "student.text.init=teacher")
    parts = compose(tiny(tmp_path, *features))
    texts = ["a red circle", "sand"]
    ours, theirs = parts.learner.encoder.encode_text(texts), parts.teacher.encoder.encode_text(texts)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)  # 5e-7: one is in train mode, one in eval
    with pytest.raises(ValueError, match="every tensor fits, but the copy says something else"):
        compose(tiny(tmp_path, *features, "student.text.num_heads=4"))
    with pytest.raises(ValueError, match=r"student\.text from teacher: .* should have shape"):
        compose(tiny(tmp_path, *features, "student.text.context_length=16"))


def test_random_weights_are_had_only_by_asking_and_are_announced(tmp_path: Path, capsys: pytest.CaptureFixture):
    model = ("teacher.kind=frozen", "teacher.model=timm:test_vit")
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE=1 forbids to download"):
        compose(tiny(tmp_path, *IMAGES_ONLY, *model))
    recipe = tiny(tmp_path / "run", *IMAGES_ONLY, *model, "teacher.weights=random")
    with opened(recipe) as training:
        training._announce()
        one = training.parts.teacher.state_dict()
    assert "teacher timm:test_vit with RANDOM weights, as asked for: it has learnt nothing" in capsys.readouterr().err
    other = compose(recipe).teacher.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("name", "num_cls", "cls"),
    [
        ("vit_base_patch14_reg1_tipsv2", 2, "the class token, and the only register"),
        ("vit_small_patch14_dinov2", 1, "the class token"),
        ("vit_small_patch14_reg4_dinov2", 1, "the class token"),
        ("vit_base_patch16_radio_v3", 1, "the class token"),
        ("vit_base_patch16_siglip_224", 1, "what attention pools of all patches"),
    ],
)
def test_a_timm_encoder_says_what_its_cls_tokens_are(name: str, num_cls: int, cls: str):
    with torch.device("meta"):
        model = create_vit(name, {"img_size": timm_family._patch_size(name) * 4, "embed_dim": 32, "num_heads": 2})
    tower = wrap_vit(model, name, num_cls=None, statistics=timm_statistics(name))
    assert tower.num_cls == num_cls and timm_family._cls(tower) == cls


def test_timm_pictures_are_cut_to_whole_patches():
    assert timm_family._tower("test_efficientnet")[1] % 32 == 0
    assert timm_family._patch_size("vit_so400m_patch14_siglip_384") == 14


def test_timms_own_weights_are_looked_up_in_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "models--timm--test_vit.r160_in1k"
    (home / "snapshots" / "0123").mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0123")
    weights = timm.create_model("test_vit").state_dict()
    save_file(weights, home / "snapshots" / "0123" / "model.safetensors")
    found = load("timm:test_vit", None)
    assert found.source == "timm/test_vit.r160_in1k"
    assert torch.equal(found.image.model.norm.weight, weights["norm.weight"])
    assert torch.equal(found.image.model.pos_embed, weights["pos_embed"])


def _spoilt_timm(folder: Path, spoil: Callable[[Path], None]) -> list[str]:
    path = folder / "model.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), path)
    spoil(path)
    return ["timm:test_vit", "--weights", str(path)]


def _shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _reshape(path: Path) -> None:
    save_file(load_file(path) | {"norm.weight": torch.ones(3)}, path)


def _pickled(folder: Path) -> list[str]:
    torch.save({"model": {"norm.weight": torch.ones(3)}, "args": Path("x")}, folder / "model.pth")
    return ["timm:test_vit", "--weights", str(folder / "model.pth")]


def _without_tokenizer(folder: Path) -> list[str]:
    write_folder(folder / "siglip", "siglip")
    (folder / "siglip" / "tokenizer.json").unlink()
    return [f"transformers:{folder / 'siglip'}"]


def _empty(folder: Path) -> list[str]:
    return [f"distill:{folder}"]


MISTAKES: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "no such family": (lambda folder: ["tmm:test_vit"], "did you mean timm:test_vit"),
    "no family": (lambda folder: ["test_vit"], "is not FAMILY:NAME"),
    "no name": (lambda folder: ["timm:"], "is not FAMILY:NAME"),
    "no such model": (lambda folder: ["timm:test_vitt"], "the nearest that are: timm:test_vit"),
    "no such tag": (lambda folder: ["timm:test_vit.best"], "but test_vit.r160_in1k"),
    "no such file": (lambda folder: ["timm:test_vit", "--weights", "nowhere.safetensors"], "does not exist"),
    "a folder for a name": (lambda folder: [f"timm:{folder}"], "is a path; timm's models go by their names"),
    "a family that cannot": (lambda folder: ["timm:swin_tiny_patch4_window7_224"], "feature map"),
    "not downloaded": (lambda folder: ["timm:test_vit"], "HF_HUB_OFFLINE=1 forbids"),
    "weights to unpickle": (_pickled, "write its state dict with safetensors.torch.save_file"),
    "a truncated file": (lambda folder: _spoilt_timm(folder, _shorten), "not a complete safetensors file"),
    "another shape": (
        lambda folder: _spoilt_timm(folder, _reshape),
        "norm.weight should have shape [64], got [3]",
    ),
    "no tokenizer": (_without_tokenizer, "no tokenizer for its text tower"),
    "no run": (_empty, "neither a run folder nor a checkpoint folder"),
    "weights for a run": (lambda folder: [*_empty(folder), "--weights", "random"], "brings its own weights"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_users_mistake_is_one_sentence_and_exit_code_2(mistake: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    arguments, complaint = MISTAKES[mistake]
    assert cli.main(["teachers", "inspect", *arguments(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("distill: error: ")
    assert complaint in printed.err and printed.err.count("\n") == 1


def test_training_refuses_a_teacher_in_the_same_words(tmp_path: Path, capsys: pytest.CaptureFixture):
    name, *weights = _spoilt_timm(tmp_path, _reshape)
    settings = ["teacher.kind=frozen", f"teacher.model={name}", f"teacher.weights={weights[1]}"]
    assert cli.main(["train", "smoke", *words(tmp_path / "run", *IMAGES_ONLY, *settings)]) == 2
    assert "norm.weight should have shape [64], got [3]" in capsys.readouterr().err
    settings = ["teacher.kind=frozen", "teacher.model=timm:test_vit", "teacher.weights=random"]
    size = "teacher.image_size=100"
    assert cli.main(["train", "smoke", *words(tmp_path / "other", *IMAGES_ONLY, *settings, size)]) == 2
    assert "teacher.image_size=100: a picture of 100 x 100 pixels does not split" in capsys.readouterr().err


def test_the_list_names_every_family_in_80_columns(capsys: pytest.CaptureFixture):
    assert cli.main(["teachers"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n{name} " in f"\n{printed}" for name in FAMILIES)
    for label in ("NAME", "patches", "text tower", "heads", "licence"):
        assert printed.count(f"  {label}  ") == len(FAMILIES)
    assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.parametrize(
    ("family", "kind"), [("timm", "convnet"), ("transformers", "images and texts"), ("distill", "run")]
)
def test_inspecting_prints_what_an_encoder_is(
    family: str, kind: str, released: Callable, capsys: pytest.CaptureFixture
):
    given: Released = released(family, kind)
    weights = [] if given.weights is None else ["--weights", given.weights]
    assert cli.main(["teachers", "inspect", given.model, *weights]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{given.model}\n")
    side, (rows, columns) = given.image_size, given.grid
    assert f"{side} x {side} pixels" in printed and f"{rows} x {columns}, each of" in printed
    assert f"{given.width} wide" in printed and f"CLS tokens  {given.num_cls}: " in printed
    assert (given.licence or "not stated") in printed and "deviation " + f"{given.std[0]:.3g}" in printed
    assert ("cosine with its caption" in printed) == ("temperature" in printed) == given.with_text
    assert ("prototypes" in printed) == given.with_heads
    assert "effective rank" in printed and "finite" in printed
    with_paths_out = [line for line in printed.splitlines() if "/" not in line]
    assert max(map(len, with_paths_out)) <= 80


def test_a_random_encoder_is_warned_of_and_no_failure(capsys: pytest.CaptureFixture):
    assert cli.main(["teachers", "inspect", "timm:test_vit", "--weights", "random"]) == 0
    printed = capsys.readouterr().out
    assert "random, as asked for: it has learnt nothing" in printed
    assert "warning: a linear map of each patch's colours explains" in printed


def test_our_family_refuses_weights():
    with pytest.raises(ValueError, match=r"brings its own weights: leave weights out; got x\.pth"):
        our_family.load("run", "x.pth")
