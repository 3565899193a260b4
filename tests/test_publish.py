"""What is published loads in plain timm, open_clip, transformers and onnxruntime, and says what the student says.

Worst differences measured (fp32, CPU, one thread; vectors against the length of the student's, logits as cosines): timm
0, open_clip 1.2e-7, transformers 1.7e-6, tips 5.3e-7, onnx 1.9e-6. Prepared pixels of photos in [0, 1]: 3.6e-3.
"""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from test_family_tips import write_tokenizer
from tiny_runs import process, trained

from distill.cli import main
from distill.config import load_recipe
from distill.encoders.dual import build_dual
from distill.eval.command import load_encoder
from distill.publish import command
from distill.publish.formats import convnext, open_clip, timm, transformers
from distill.publish.formats.plain import gated_ratio, plain, ratio, why_not_plain
from distill.publish.hub import prepare
from distill.publish.place import whole
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


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "done", "optim.steps=1", "optim.warmup=0")


def spoilt(run: Path, folder: Path, change) -> Path:
    """A copy of the run whose tensors went through `change`, sealed again; its one checkpoint."""
    checkpoint = next((run / "checkpoints").glob("step_*"))
    copied = folder / "checkpoints" / checkpoint.name
    copied.parent.mkdir()
    subprocess.run(["cp", "-r", str(checkpoint), str(copied)], check=True)
    tensors = load_file(copied / "student.safetensors")
    change(tensors)
    save_file(tensors, copied / "student.safetensors")
    reseal(copied, "student.safetensors")
    return copied


def reseal(checkpoint: Path, changed: str, **manifest: int) -> None:
    """Its manifest knows nothing of a file that was changed, and says `manifest`."""
    page = json.loads((checkpoint / "manifest.json").read_text()) | manifest
    page["sha256"].pop(changed, None)
    (checkpoint / "manifest.json").write_text(json.dumps(page))


def test_a_run_is_published_with_its_proof(run, tmp_path, capsys, shared_data):
    target = tmp_path / "new" / "published"
    photos = str(shared_data / "coco_captions" / "images")
    words = ["publish", str(run), "--to", str(target), "--formats", "timm", "--dtype", "fp16", "--photos", photos]
    assert main(words) == 0
    proof = json.loads((target / "proof.json").read_text())
    assert proof["formats"]["timm"]["files"] == ["timm/config.json", "timm/model.safetensors"]
    assert proof["dtype"] == "fp16" and 0 < proof["rounding"]["text"] < 0.01 and proof["image_size"] == 32
    assert proof["num_pictures"] == 8 and proof["pictures"] == "photos of the folder images"
    assert sorted(path.name for path in target.parent.iterdir()) == ["published"]
    assert "timm 1." in capsys.readouterr().out
    tensors, encoder = load_file(target / "timm" / "model.safetensors"), load_encoder(run)[0]
    assert tensors.keys() == encoder.image.model.state_dict().keys()  # no heads, no mask token, no optimiser
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_library_that_says_something_else_stops_the_publication(run, tmp_path, monkeypatch):
    def says_nothing_right(name, words, place):
        save_file({quantity: torch.zeros(8, 48) for quantity in ("cls", "cls2")}, words[2])
        return {"library": "timm", "version": "0"}

    monkeypatch.setattr(prove_module, "_run", says_nothing_right)
    with pytest.raises(Mismatch, match="the timm format gives no patches"):
        command.publish(run, tmp_path / "published", command.Wish(formats=("timm",)))
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_mismatch_stops_the_publication(run, tmp_path, monkeypatch):
    honest = timm.save

    def dishonest(tensors, path, *, dtype):
        honest({name: value + 1e-3 for name, value in tensors.items()}, path, dtype=dtype)

    monkeypatch.setattr(timm, "save", dishonest)
    with pytest.raises(Mismatch, match=r"timm 1\.\S+ makes of the timm format is not the student: it differs in cls"):
        command.publish(run, tmp_path / "new" / "published", command.Wish(formats=("timm",)))
    assert not any(tmp_path.iterdir())


def refused(run: Path, folder: Path, capsys) -> str:
    """What publishing says where it refuses; and that nothing is left of it."""
    before = sorted(folder.rglob("*"))
    assert main(["publish", str(run), "--to", str(folder / "new" / "published"), "--formats", "timm"]) == 2
    assert sorted(folder.rglob("*")) == before
    (message,) = capsys.readouterr().err.splitlines()
    return message


def test_a_name_too_long_for_the_disk_is_one_sentence_and_leaves_nothing(run, tmp_path, capsys):
    # 240 letters are a name, but not with the ending of what is unfinished.
    target = tmp_path / "new" / ("a" * 240)
    assert main(["publish", str(run), "--to", str(target), "--formats", "timm"]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("distill: error: File name too long: ") and not any(tmp_path.iterdir())


def test_bad_runs_are_refused_in_one_sentence(run, tmp_path, capsys):
    assert "is neither a run folder nor" in refused(tmp_path, tmp_path, capsys)
    broken = spoilt(run, tmp_path, lambda tensors: tensors["encoder.image.model.norm.bias"][3:5].fill_(torch.nan))
    assert "image.model.norm.bias holds NaN or infinity; the run has kept no earlier" in refused(
        tmp_path, tmp_path, capsys
    )
    recipe = (broken / "recipe.yaml").read_text()
    (broken / "recipe.yaml").write_text(recipe.replace("steps: 1\n", "steps: 9\n"))
    reseal(broken, "recipe.yaml")
    message = refused(tmp_path, tmp_path, capsys)
    assert "is of step 1 of 9: this run is not finished" in message and f"or publish {broken} as it is" in message
    reseal(broken, "recipe.yaml", format=99)
    assert "was written by a newer version (format 99" in refused(tmp_path, tmp_path, capsys)


def test_an_earlier_checkpoint_is_published_where_it_is_named(tmp_path, capsys):
    words = ("optim.steps=2", "optim.warmup=0", "run.checkpoint_every=1", "evaluate.tasks=[]")
    run = trained(tmp_path / "run", *words)
    first, last = (run / "checkpoints" / f"step_{step:08d}" for step in (1, 2))
    tensors = load_file(last / "student.safetensors")
    tensors["encoder.image.model.norm.bias"][:] = torch.inf
    save_file(tensors, last / "student.safetensors")
    reseal(last, "student.safetensors")
    capsys.readouterr()
    message = refused(run, tmp_path, capsys)
    assert message.endswith(f"norm.bias holds NaN or infinity; publish an earlier checkpoint, such as {first}")
    assert main(["publish", str(first), "--to", str(tmp_path / "published"), "--formats", "timm", "--no-picture"]) == 0
    assert "these are the weights of step 1 of 2, and the card says so" in capsys.readouterr().out
    assert "for 1 steps, of 2 that the whole training has" in (tmp_path / "published" / "README.md").read_text()


def test_what_does_not_fit_into_fp16_is_said(run, tmp_path, capsys):
    large = spoilt(run, tmp_path, lambda tensors: tensors["encoder.image.model.norm.bias"][0].fill_(1e6))
    words = ["publish", str(large), "--to", str(tmp_path / "out"), "--formats", "timm", "--dtype", "fp16"]
    assert main(words) == 2
    assert "in fp16: image.model.norm.bias holds NaN or infinity; choose --dtype bf16 or fp32" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--picture", "{}/none.png"], "--picture {}/none.png: no such file"),
        (["--picture", "{}/text"], "{}/text is no PNG"),
        (["--picture", "{}/text", "--no-picture"], "--picture and --no-picture contradict each other"),
        (["--licence-text", "{}/none"], "--licence-text {}/none: no such file"),
        (["--licence-text", "{}/noise"], "--licence-text {}/noise is no text in UTF-8"),
        (["--licence-text", "{}/empty"], "--licence-text {}/empty is empty"),
        (["--page", "{}/none.yaml"], "'{}/none.yaml': no such file"),
        (["--data", "a b"], "a b is no name of the hub"),
        (["--push", "alone"], "alone is no name of the hub, which look like OWNER/NAME"),
        (["--max-shard-size", "1"], "--max-shard-size 1: expected a whole number and its unit"),
        (["--max-shard-size", "1GB", "--formats", "timm"], "--max-shard-size 1GB is heard by models of transformers'"),
    ],
)
def test_options_that_cannot_be_heard_are_refused_before_the_work(run, tmp_path, capsys, monkeypatch, words, told):
    (tmp_path / "text").write_text("no picture")
    (tmp_path / "noise").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").write_text(" \n")
    monkeypatch.setattr(command, "whole", lambda target: pytest.fail("work was begun"))
    given = [word.format(tmp_path) for word in words]
    assert main(["publish", str(run), "--to", str(tmp_path / "out"), *given]) == 2
    assert told.format(tmp_path) in capsys.readouterr().err


def test_a_package_that_is_missing_leaves_its_format_out(subjects, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "transformers", None)
    found = plan(subjects["vit"], None, dtype="fp32")
    assert [*found.formats] == ["timm", "open_clip"]
    assert "(extra: onnx)" in found.refused["onnx"] and "(extra: hf)" in found.refused["transformers"]
    with pytest.raises(ValueError, match=r"--formats onnx: .* needs the package onnxruntime \(extra: onnx\)"):
        plan(subjects["vit"], ("onnx",), dtype="fp32")


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGHUP])
def test_who_is_asked_to_end_leaves_nothing(run, tmp_path, capsys, monkeypatch, asked):
    def ended(name, cases):
        (left,) = tmp_path.iterdir()
        assert left.name.startswith(".published.") and left.name.endswith(".unfinished")
        os.kill(os.getpid(), asked)
        time.sleep(60)

    monkeypatch.setattr(command, "prove", ended)
    before = signal.getsignal(asked)
    assert main(["publish", str(run), "--to", str(tmp_path / "published"), "--formats", "timm"]) == 130
    assert not any(tmp_path.iterdir()) and signal.getsignal(asked) is before


def test_what_a_killed_publication_left_goes_with_the_next(tmp_path):
    dead, other = tmp_path / f".out.{'0' * 12}.unfinished", tmp_path / f".outer.{'0' * 12}.unfinished"
    for folder in (dead, other):
        (folder / "timm").mkdir(parents=True)
    with whole(tmp_path / "out") as first:
        assert not dead.exists() and other.exists()
        with whole(tmp_path / "out") as second:  # somebody else at the same time: neither takes the other's
            assert first.exists() and second.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "out"]


def test_the_card_shows_what_the_student_sees(run, tmp_path, capsys, shared_data):
    words = ["publish", str(run), "--formats", "timm", "--to"]
    assert main([*words, str(tmp_path / "scenes")]) == 0
    assert "features.png" not in capsys.readouterr().out
    card = (tmp_path / "scenes" / "README.md").read_text()
    assert "](features.png)" in card and "Below are those that it had before its training." in card
    with Image.open(tmp_path / "scenes" / "features.png") as picture:
        assert picture.width == 1350
    photos = ["--photos", str(shared_data / "coco_captions")]
    assert main([*words, str(tmp_path / "photos"), *photos]) == 0
    said = capsys.readouterr().out
    assert "features.png shows photos of coco_captions: give it on only if you may; --no-picture leaves it out" in said
    assert any(
        "shows photos of coco_captions" in each for each in prepare(tmp_path / "photos", "a/b", private=True).warnings
    )
    assert main([*words, str(tmp_path / "none"), *photos, "--no-picture"]) == 0
    assert not (tmp_path / "none" / "features.png").exists()
    assert "features.png" not in (tmp_path / "none" / "README.md").read_text() + capsys.readouterr().out


@pytest.mark.parametrize(
    "problem",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_disk_that_fills_up_is_one_sentence(run, tmp_path, capsys, monkeypatch, problem):
    def full(tensors, path, *, dtype):
        path.write_bytes(b"half")
        raise problem

    monkeypatch.setattr(timm, "save", full)
    assert "is full; nothing was published" in refused(run, tmp_path, capsys)


def test_a_small_disk_is_left_as_it_was(run, tmp_path, capsys, monkeypatch):
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a file system")
    try:
        assert "is too full: 0 MB are free" in refused(run, place, capsys)
        monkeypatch.setattr(command, "check_room", lambda *arguments: None)
        assert "is full; nothing was published" in refused(run, place, capsys)
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_photos_are_asked_for_where_the_data_has_none(subjects, tmp_path):
    recipe = subjects["vit"].recipe
    of_files = replace(
        recipe, data=replace(recipe.data, source="dataset", dataset=replace(recipe.data.dataset, path="x"))
    )
    with pytest.raises(ValueError, match="name a folder of some with --photos"):
        questions.ask(replace(subjects["vit"], recipe=of_files), None)
    with pytest.raises(ValueError, match="holds no pictures"):
        questions.ask(subjects["vit"], tmp_path)
