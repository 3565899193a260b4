"""What is published loads in plain timm, open_clip, transformers and onnxruntime, and says what the student says.

Worst differences measured (fp32, CPU, one thread; vectors against the length of the student's, logits as cosines): timm
0, open_clip 1.2e-7, transformers 1.7e-6, tips 5.3e-7, onnx 1.9e-6. Prepared pixels of photos in [0, 1]: 3.6e-3.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_family_tips import write_tokenizer
from tiny_runs import process

from distill.config import load_recipe
from distill.encoders.dual import build_dual
from distill.publish.formats import convnext, open_clip, transformers
from distill.publish.formats.plain import gated_ratio, plain, ratio, why_not_plain
from distill.publish.plan import FORMATS, plan, write
from distill.publish.proof import prove as prove_module
from distill.publish.proof import questions
from distill.publish.proof.prove import SCRIPTS, TOLERANCE, Case, Mismatch, allowed, differences, needed, prove
from distill.publish.student import Subject, rounded
from teachers.families.tips import load as load_tips

CONVNET = [
    *("student.image.patch_size=null", "student.image.width=null", "student.image.depth=null"),
    *("student.image.num_heads=null", "student.image.num_cls=1"),
]
SMALL = ["student.image.extra.depths=[1,1,1,1]", "student.image.extra.dims=[8,16,16,24]"]
TIPS = [
    *("student.image.model=timm:vit_base_patch14_reg1_tipsv2", "student.image.width=64", "student.image.num_heads=1"),
    *("student.text.kind=tips", "student.text.width=64", "student.text.num_heads=1", "student.text.context_length=24"),
]
SIGMOID = ["objective.contrastive.kind=sigmoid", "student.image.num_cls=1"]
STUDENTS = {
    "tips": TIPS,
    "vit": ["student.text.width=16"],
    "siglip": ["student.text.width=16", *SIGMOID],
    "convnet": ["student.image.model=timm:convnext_atto", "student.text.kind=none", *CONVNET, *SMALL],
    "convnet with text": ["student.image.model=timm:test_resnet", "student.text.width=16", *CONVNET],
    "mobilenet": ["student.image.model=timm:mobilenetv3_small_050", "student.text.kind=none", *CONVNET],
    "gated": ["student.image.model=timm:vit_giant_patch14_reg1_tipsv2", "student.image.extra.mlp_ratio=5.5", *TIPS[1:]],
    "rotary": ["student.image.model=timm:vit_small_patch16_dinov3", "student.text.kind=none"],
}
WITHOUT_TEXT = ["objective.contrastive.weight=0", "evaluate.tasks=[linear_segmentation]"]


@pytest.fixture(scope="module")
def subjects(tmp_path_factory) -> dict[str, Subject]:
    tokenizer = write_tokenizer(tmp_path_factory.mktemp("words"))
    return {name: made(name, tokenizer) for name in STUDENTS}


def made(name: str, tokenizer: Path) -> Subject:
    """A student whose every tensor is random: norms, scales and biases do not hide."""
    words = [*STUDENTS[name], f"student.text.tokenizer={tokenizer}"]
    recipe = load_recipe("smoke", words + (WITHOUT_TEXT if "student.text.kind=none" in words else []))
    torch.manual_seed(0)
    encoder = build_dual(recipe.student, recipe.data.image_size).eval()
    for tensor in [*encoder.parameters(), *(b for n, b in encoder.named_buffers() if "running" in n)]:
        tensor.data += 0.05 * torch.rand_like(tensor)
    bias = -9.5 if name == "siglip" else None
    return Subject(encoder=encoder, recipe=recipe, checkpoint=tokenizer, temperature=0.03, logit_bias=bias)


def cases(format: str, kinds: dict[str, dict], subjects: dict[str, Subject], folder: Path) -> list[Case]:
    """The format written for each of these students, with what `write` is told about it."""
    found = []
    for name, settings in kinds.items():
        subject, place = subjects[name], folder / name
        place.mkdir()
        held = write(format, subject, place, **{"dtype": "fp32"} | settings)
        with_text = plan(subject, (format,), dtype="fp32").formats[format]
        found.append(Case(folder=place, subject=held, questions=questions.ask(subject, None), with_text=with_text))
    return found


def worst(format: str, kinds: dict[str, dict], subjects: dict[str, Subject], folder: Path) -> dict[str, set[str]]:
    """Prove the students in one process; which quantities were compared of each."""
    proven = prove(format, cases(format, kinds, subjects, folder))
    assert all(value <= allowed(name) for found in proven for name, value in found.differences.items())
    return {name: set(found.differences) for name, found in zip(kinds, proven, strict=True)}


TOKENS, PHOTOS = {"cls", "patches"}, {"photo_pixels", "photo_cls"}
IMAGE = {*TOKENS, *PHOTOS}
BOTH = {*IMAGE, "text", "logits"}


def test_timm_builds_the_image_tower_from_the_folder(subjects, tmp_path):
    said = worst("timm", {name: {} for name in subjects} | {"vit": {"dtype": "bf16"}}, subjects, tmp_path)
    assert said["mobilenet"] == said["siglip"] == IMAGE and said["tips"] == said["vit"] == {*IMAGE, "cls2"}
    tensors = load_file(tmp_path / "vit" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert tensors.keys() == subjects["vit"].image.model.state_dict().keys()


def test_another_preparation_of_pictures_is_no_student(subjects, tmp_path):
    """Without antialiasing pictures of the training's own size stay what they were; photos do not."""
    (case,) = cases("transformers", {"siglip": {}}, subjects, tmp_path)
    page = case.folder / "preprocessor_config.json"
    page.write_text(json.dumps(json.loads(page.read_text()) | {"resample": 0}))
    with pytest.raises(Mismatch, match=r"is not the student: it differs in photo_pixels by 0\.\d+, and"):
        prove("transformers", [case])


@pytest.mark.parametrize(
    ("format", "name", "page", "lost"),
    [
        ("timm", "vit", {}, "photo_cls"),
        ("transformers", "vit", {}, "feature_pipeline"),
        ("transformers", "tips", {}, "zero_shot_pipeline"),
        ("onnx", "tips", {"any_size": True}, "wide_patches"),
    ],
)
def test_a_format_has_to_answer_everything_it_is_asked(subjects, tmp_path, monkeypatch, format, name, page, lost):
    (tmp_path / "config.json").write_text(json.dumps(page))
    asked = questions.ask(subjects[name], None)
    case = Case(folder=tmp_path, subject=subjects[name], questions=asked, with_text=name == "tips")
    answered = {quantity: torch.zeros(1) for quantity in needed(format, case) - {lost}}

    def says_the_rest(name, words, place):
        save_file(answered, words[2])
        return {"library": name, "version": "0"}

    monkeypatch.setattr(prove_module, "_run", says_the_rest)
    with pytest.raises(Mismatch, match=f"the {format} format gives no {lost}"):
        prove(format, [case])


def test_a_network_without_a_pooled_feature_has_no_pipeline(subjects, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_args": {"features_only": True}}))
    asked = questions.ask(subjects["mobilenet"], None)
    case = Case(folder=tmp_path, subject=subjects["mobilenet"], questions=asked, with_text=False)
    assert "feature_pipeline" not in needed("transformers", case)


def test_open_clip_builds_both_towers_from_the_folder(subjects, tmp_path):
    kinds = {"vit": {"dtype": "fp16"}, "siglip": {}, "convnet with text": {}}
    said = worst("open_clip", kinds, subjects, tmp_path)
    assert said["vit"] == {*BOTH, "cls2"} and said["siglip"] == said["convnet with text"] == BOTH


def test_transformers_loads_models_processors_and_pipelines(subjects, tmp_path):
    kinds = {"tips": {"max_shard_size": "50KB"}, "vit": {}, "siglip": {}, "convnet": {}, "mobilenet": {}, "gated": {}}
    said = worst("transformers", kinds, subjects, tmp_path)
    assert said["tips"] == {*BOTH, "cls2", "feature_pipeline", "zero_shot_pipeline"} == said["gated"]
    assert said["vit"] == {*IMAGE, "cls2", "feature_pipeline"} and said["mobilenet"] == IMAGE
    assert len(list((tmp_path / "tips").glob("model-*.safetensors"))) > 2
    built = {name: json.loads((tmp_path / name / "config.json").read_text()).get("model_type") for name in kinds}
    assert built["vit"] == "dinov2_with_registers" and built["siglip"] == "dinov2" and built["convnet"] == "convnext"


@pytest.mark.parametrize("name", ["tips", pytest.param("convnet", marks=pytest.mark.slow)])
def test_onnx_graphs_take_any_batch_and_any_size(subjects, tmp_path, name):
    subject = subjects[name]
    case = Case(folder=tmp_path, subject=subject, questions=questions.ask(subject, None), with_text=name == "tips")
    # Annotated shapes are checked here, and a traced side has none: a process that checks nothing writes the graphs.
    writer = process(write_onnx, subject, tmp_path)
    writer.join()
    assert writer.exitcode == 0
    said = prove("onnx", [case])[0].differences.keys()
    assert said == {*IMAGE, "wide_cls", "wide_patches"} | ({*BOTH, "cls2"} if name == "tips" else set())
    assert (tmp_path / "tokenizer.model").is_file() == (name == "tips")


def write_onnx(subject: Subject, folder: Path) -> None:
    write("onnx", subject, folder, dtype="fp32")


@pytest.mark.slow
def test_transformers_reads_the_released_layout_of_tips(subjects, tmp_path):
    said = worst("tips", {"tips": {}, "gated": {"dtype": "fp16"}}, subjects, tmp_path)
    assert said["tips"] == said["gated"] == {*TOKENS, "cls2", "text", "logits"}


@pytest.mark.parametrize("name", ["tips", "gated"])
@torch.no_grad()
def test_files_in_the_released_layout_are_the_student_as_a_teacher(subjects, tmp_path, name):
    subject = subjects[name]
    write("tips", subject, tmp_path, dtype="fp32")
    read = load_tips(str(tmp_path), None)
    pixels, texts = torch.rand(2, 3, 32, 48), ["a red circle", "7 blue squares"]
    ours, theirs = subject.image(pixels), read.image(pixels)
    assert torch.equal(ours.patches, theirs.patches) and torch.equal(ours.cls, theirs.cls)
    assert torch.equal(subject.image.mask_token, read.image.mask_token)
    # Their tower reads 64 tokens at most, this student 24.
    assert torch.equal(subject.text(subject.text.tokenize(texts)), read.text(subject.text.tokenize(texts)))
    assert read.temperature == pytest.approx(0.03)


def test_what_a_format_cannot_hold_is_said(subjects):
    reasons = {name: plan(subject, None, dtype="bf16").refused for name, subject in subjects.items()}
    assert set(reasons["vit"]) == {"tips"} and set(reasons["convnet"]) == {"open_clip", "tips"}
    assert "SentencePiece" in reasons["tips"]["open_clip"] and "bf16" in reasons["tips"]["tips"]
    assert "no text tower" in reasons["mobilenet"]["open_clip"]
    with pytest.raises(ValueError, match=r"--formats tips: its text tower is not one of TIPS; leave it out"):
        plan(subjects["vit"], ("timm", "tips"), dtype="fp32")
    with pytest.raises(ValueError, match=r"no format 'onxx'; they are timm"):
        plan(subjects["vit"], ("onxx",), dtype="fp32")


def test_every_format_has_a_script_that_knows_nothing_of_this_package():
    assert {path.stem.removeprefix("load_") for path in SCRIPTS.glob("*.py")} == {*FORMATS}
    for path in SCRIPTS.glob("*.py"):
        text = path.read_text()
        assert "import distill" not in text and "from distill" not in text
        assert 'assert "distill" not in sys.modules' in text


@pytest.mark.parametrize(
    ("words", "named"),
    [([*CONVNET, "student.image.model=timm:test_resnet"], True), (["student.image.num_cls=1"], False)],
)
def test_towers_of_timms_own_sizes_are_called_by_their_name(tmp_path, words, named):
    recipe = load_recipe("smoke", words)
    encoder = build_dual(recipe.student, 32)
    subject = Subject(encoder=encoder, recipe=recipe, checkpoint=tmp_path, temperature=0.1, logit_bias=None)
    assert open_clip.is_named(subject) == named


def test_half_precision_stores_what_it_compares(subjects):
    half = rounded(subjects["siglip"], "fp16")
    for name, value in half.encoder.state_dict().items():
        original = subjects["siglip"].encoder.state_dict()[name]
        expected = original if "pixel" in name else original.half().float()
        assert torch.equal(value, expected) and value.dtype == original.dtype
    with torch.no_grad():
        large = rounded(subjects["vit"], "fp32").encoder.image.model.norm.weight
        before, _ = large.clone(), large.mul_(1e6)
        with pytest.raises(ValueError, match=r"in fp16: image\.model.norm\.weight holds NaN or infinity"):
            rounded(subjects["vit"], "fp16")
        large.copy_(before)


def test_a_scale_is_a_difference_and_so_is_nan():
    vectors = torch.randn(3, 8)
    assert differences({"cls": vectors}, {"cls": vectors}, temperature=1.0) == {"cls": 0.0}
    assert differences({"cls": 2 * vectors}, {"cls": vectors}, temperature=1.0)["cls"] > 0.1
    broken = differences({"cls": torch.full((3, 8), torch.nan)}, {"cls": vectors}, temperature=1.0)["cls"]
    assert not broken <= TOLERANCE
    assert differences({"cls": vectors[:2]}, {"cls": vectors}, temperature=1.0) == {"cls": float("inf")}


def test_widths_of_mlps_come_back_as_they_were():
    for inner in (160, 192, 4304, 341):
        assert int(64 * ratio(inner, 64)) == inner
    assert gated_ratio(176, 64) is not None and gated_ratio(177, 64) is None


def test_only_plain_towers_are_taken_for_plain(subjects):
    assert why_not_plain(subjects["vit"].image) is None and why_not_plain(subjects["gated"].image) is None
    assert "no plain vision transformer" in why_not_plain(subjects["rotary"].image)
    assert plain(subjects["gated"].image).gated and convnext.settings(subjects["vit"].image) is None
    assert transformers.kind_of(subjects["rotary"]) == "timm_wrapper"


def test_a_denser_map_is_no_convnext_of_transformers(tmp_path):
    """Strides and dilations leave no tensor behind."""
    words = ["student.image.model=timm:convnext_atto", *CONVNET, *SMALL]
    for extra, kind in (([], "convnext"), (["student.image.extra.output_stride=16"], "timm_wrapper")):
        recipe = load_recipe("smoke", words + extra)
        encoder = build_dual(recipe.student, 32)
        subject = Subject(encoder=encoder, recipe=recipe, checkpoint=tmp_path, temperature=0.1, logit_bias=None)
        assert transformers.kind_of(subject) == kind


def test_a_package_that_is_missing_leaves_its_format_out(subjects, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "transformers", None)
    found = plan(subjects["vit"], None, dtype="fp32")
    assert [*found.formats] == ["timm", "open_clip"]
    assert "(extra: onnx)" in found.refused["onnx"] and "(extra: hf)" in found.refused["transformers"]
    with pytest.raises(ValueError, match=r"--formats onnx: .* needs the package onnxruntime \(extra: onnx\)"):
        plan(subjects["vit"], ("onnx",), dtype="fp32")


def test_photos_are_asked_for_where_the_data_has_none(subjects, tmp_path):
    recipe = subjects["vit"].recipe
    of_files = replace(
        recipe, data=replace(recipe.data, source="dataset", dataset=replace(recipe.data.dataset, path="x"))
    )
    with pytest.raises(ValueError, match="name a folder of some with --photos"):
        questions.ask(replace(subjects["vit"], recipe=of_files), None)
    with pytest.raises(ValueError, match="holds no pictures"):
        questions.ask(subjects["vit"], tmp_path)
