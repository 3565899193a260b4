"""The model card: where a student comes from, what it may be used for, how it did, and code that runs."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import save_file
from test_family_tips import write_tokenizer
from test_licences import TEXTS, choose, stated
from tiny_released import timm_file
from tiny_runs import trained
from tiny_teachers import PARTS, partial

from distill.config import Data, Dataset, recipe_from_file
from distill.encoders.weights import sha256_of_weights
from distill.publish.card import FILES, check_files, write_card
from distill.publish.card.choice import Choice, choose_for
from distill.publish.card.facts import gather
from distill.publish.card.licences import NOT_CHOSEN, TERMS, check_text, metadata, wants_copy
from distill.publish.card.loading import FOLDER, PICTURE
from distill.publish.card.opening import limits
from distill.publish.card.provenance import data_in_words, fingerprint, without_machine
from distill.publish.card.sections import PAPER, QUANTITIES, SOFTWARE, licence, proven, training
from distill.publish.card.sources import TOKENIZER, Source, hub_name, sources_of
from distill.publish.plan import plan, write
from distill.publish.proof.prove import BOTH, IMAGE, PHOTOS, WIDE
from distill.publish.proof.record import FormatProof, Proof
from distill.publish.student import Side, load_subject
from distill.train.checkpoint import find

STRICT = [name for name, terms in TERMS.items() if terms.own or terms.noncommercial]
REPOSITORY = Path(__file__).parents[1]
ONE_STEP = ("optim.steps=1", "optim.warmup=0", "evaluate.tasks=[]")
TIPS = (
    *("student.image.model=timm:vit_base_patch14_reg1_tipsv2", "student.image.width=64", "student.image.num_heads=1"),
    *("student.text.kind=tips", "student.text.width=64", "student.text.num_heads=1", "student.text.context_length=24"),
)
CONVNET = (
    *("student.image.patch_size=null", "student.image.width=null", "student.image.depth=null"),
    *("student.image.num_heads=null", "student.image.num_cls=1"),
    *("student.text.kind=none", "objective.contrastive.weight=0"),
)
FEATURES = (
    *("teacher.kind=frozen", "objective.patch.target=features", "objective.cls.weight=0", "data.views.num_local=0"),
    *("student.text.kind=none", "objective.contrastive.weight=0"),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Of one step each: with captions, with TIPS's text tower, convnets, and distilled from a file of timm's."""
    root = tmp_path_factory.mktemp("runs")
    words = root / "words"
    words.mkdir()
    given = timm_file(root / "teacher", "test_vit", image_size=160, grid=(10, 10), width=64)
    teacher = (f"teacher.model={given.model}", f"teacher.weights={given.weights}", "teacher.image_size=32")
    return {
        "captions": trained(root / "captions", *ONE_STEP),
        "tips": trained(root / "tips", *ONE_STEP, *TIPS, f"student.text.tokenizer={write_tokenizer(words)}"),
        "convnet": trained(root / "convnet", *ONE_STEP, *CONVNET, "student.image.model=timm:test_convnext"),
        "mobilenet": trained(root / "mobilenet", *ONE_STEP, *CONVNET, "student.image.model=timm:mobilenetv3_small_050"),
        "taught": trained(root / "taught", *ONE_STEP, *FEATURES, *teacher),
    }


def proof_of(folder: Path, formats: dict[str, bool]) -> Proof:
    """As if everything had been compared. `formats`: name to whether it holds the text tower."""
    proven = {}
    for name, with_text in formats.items():
        files = sorted(path for path in (folder / name).rglob("*") if path.is_file())
        differences = {"cls": 1e-7, "patches": 2e-6} | ({"text": 3e-7, "logits": 4e-7} if with_text else {})
        proven[name] = FormatProof(
            files=tuple(path.relative_to(folder).as_posix() for path in files),
            sha256=("0" * 64,) * len(files),
            bytes=sum(path.stat().st_size for path in files),
            library=name,
            version="1.0",
            differences=differences,
        )
    return Proof(
        formats=proven,
        refused={"tips": "its text tower is not one of TIPS"},
        dtype="fp32",
        num_pictures=8,
        pictures="held-out scenes",
        image_size=32,
        num_texts=6,
        tolerance=1e-5,
        pixel_tolerance=0.01,
    )


def nothing_compared() -> Proof:
    about = {"num_pictures": 8, "pictures": "held-out scenes", "image_size": 32, "num_texts": 0}
    return Proof(formats={}, dtype="fp32", tolerance=1e-5, pixel_tolerance=0.01, **about)


def card_of(run: Path, folder: Path, side: Side = "student", **wanted) -> tuple[dict, str]:
    """Metadata and text of a card without formats."""
    folder.mkdir(exist_ok=True)
    subject, text = load_subject(run, side=side), wanted.pop("text", "")
    facts = gather(subject, licence=wanted.pop("licence", None), text=text, page=wanted.pop("page", None))
    write_card(folder, facts=facts, subject=subject, proof=nothing_compared(), text=text, **wanted)
    card = ModelCard.load(folder / "README.md")
    return card.data.to_dict(), card.text


def choose_licence(run: Path, *, licence: str | None = None, licence_text: Path | None = None) -> Choice:
    """As `gather` does it."""
    text = "" if licence_text is None else licence_text.read_text()
    found = choose_for(sources_of(find(run).folder), asked=licence, text=text)
    check_text(found.name, has_text=bool(text), sources=found.sources)
    return found


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize(
    ("kind", "formats"),
    [
        ("captions", ("timm", "open_clip", "transformers")),
        ("tips", ("timm", "transformers", "tips", "onnx")),
        ("convnet", ("timm", "transformers")),
        ("mobilenet", ("timm",)),
    ],
)
def test_every_block_of_code_runs_as_it_stands(
    runs: dict[str, Path], tmp_path: Path, kind: str, formats: tuple[str, ...], capsys: pytest.CaptureFixture
):
    subject = load_subject(runs[kind], side="student")
    planned = plan(subject, formats, dtype="fp32")
    for name in planned.formats:
        (tmp_path / name).mkdir()
        write(name, subject, tmp_path / name, dtype="fp32")
    write_card(tmp_path, facts=gather(subject), subject=subject, proof=proof_of(tmp_path, planned.formats))
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}_moved"))  # no file knows where it lies
    assert not [file for file in moved.rglob("*.json") if str(tmp_path) in file.read_text()]
    text = (moved / "README.md").read_text()
    blocks = re.findall(r"\*\*(\w+)\*\*\n\n```python\n(.*?)```", text, re.DOTALL)
    assert [name for name, _ in blocks] == list(formats)
    picture = moved / "a.png"
    Image.linear_gradient("L").resize((50, 40)).save(picture)
    found = {name: run_block(code, folder=moved, picture=picture) for name, code in blocks}
    side = 32 // subject.image.patch_size
    if kind in ("convnet", "mobilenet"):
        assert found["timm"]["features"].shape == (1, subject.image.width, side, side)
    elif kind == "captions":
        assert found["timm"]["tokens"].shape == (1, 2 + side**2, subject.image.width)
        assert found["open_clip"]["probabilities"].shape == (1, 2)
        assert found["transformers"]["tokens"].shape[-1] == subject.image.width
    else:
        assert found["onnx"]["cls"].shape == (1, 2, 64) and found["onnx"]["features"].shape == (1, 64)
        assert {"cls_token", "pos_embed"} <= found["tips"]["towers"]["vision"].keys()
        assert "'label': 'cat'" in capsys.readouterr().out


def run_block(code: str, *, folder: Path, picture: Path) -> dict:
    """The names that a block leaves behind."""
    names: dict = {}
    exec(compile(code.replace(FOLDER, str(folder)).replace(PICTURE, str(picture)), "card", "exec"), names)
    return names


def test_the_metadata_are_those_of_the_hub(runs: dict[str, Path], tmp_path: Path):
    data, text = card_of(runs["taught"], tmp_path / "out", datasets=["someone/photos"])
    assert data["license"] == "apache-2.0" and data["pipeline_tag"] == "image-feature-extraction"
    assert data["library_name"] == "distill" and data["datasets"] == ["someone/photos"]
    assert "distillation" in data["tags"] and "arxiv:2604.12012" in data["tags"]
    assert text.lstrip().startswith("# taught\n")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "recipe.yaml"]
    front = (tmp_path / "out" / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(front)["license"] == "apache-2.0"


def test_the_library_is_named_whose_files_lie_at_the_top(runs: dict[str, Path], tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_vit", "model_args": {}}))
    found = FormatProof(
        files=("config.json",), sha256=("0" * 64,), bytes=1, library="timm", version="1", differences={"cls": 0.0}
    )
    proof = replace(nothing_compared(), formats={"timm": found})
    subject = load_subject(runs["captions"], side="student")
    write_card(tmp_path, facts=gather(subject), subject=subject, proof=proof)
    assert ModelCard.load(tmp_path / "README.md").data.library_name == "timm"


def test_a_teacher_is_named_with_hash_and_licence(runs: dict[str, Path], tmp_path: Path):
    [source] = sources_of(find(runs["taught"]).folder)
    weights = runs["taught"].parent / "teacher" / "test_vit.safetensors"
    assert source.name == "timm:test_vit" and source.licence == "apache-2.0" and source.hub is None
    assert source.weights == "test_vit.safetensors" and len(source.sha256) == 64
    summary = json.loads((runs["taught"] / "summary.json").read_text())
    assert summary["teachers"][0]["weights_sha256"] == source.sha256
    _, text = card_of(runs["taught"], tmp_path / "out")
    said = section(text, "What it learnt from")
    assert "frozen teacher | `timm:test_vit` | test_vit.safetensors | apache-2.0" in said and source.sha256 in said
    assert "Apache License 2.0" in section(text, "Licence") and "no legal advice" in section(text, "Licence")
    assert str(weights.parent) not in text


def test_a_cached_teacher_is_asked_for_what_the_run_did_not_record(runs: dict[str, Path], tmp_path: Path):
    copy = copied(runs["taught"], tmp_path / "copy")
    summary = json.loads((copy / "summary.json").read_text())
    (copy / "summary.json").write_text(json.dumps(summary | {"teachers": []}))
    [recorded], [asked] = sources_of(find(runs["taught"]).folder), sources_of(find(copy).folder)
    assert asked == recorded


def test_the_card_of_a_moving_average_describes_the_average(runs: dict[str, Path], tmp_path: Path):
    subject = load_subject(runs["captions"], side="teacher")
    _, text = card_of(runs["captions"], tmp_path / "out", side="teacher")
    assert "These are the weights of the moving average of the image tower, its momentum teacher beside the" in text
    said = section(text, "Training")
    for name in ("teacher.safetensors", "student.safetensors"):
        assert f"{name} `{sha256_of_weights([subject.checkpoint / name])}`" in said
    _, text = card_of(runs["captions"], tmp_path / "student")
    assert "moving average of the image tower" not in text and "teacher.safetensors" not in text


def test_the_card_of_a_partly_trained_teacher_describes_that_teacher(runs: dict[str, Path], tmp_path: Path):
    small = ("student.image.width=24", "student.image.num_heads=1", "objective.contrastive.weight=0")
    words = (*ONE_STEP, *partial(runs["captions"], *PARTS["blocks"]), *small, "student.text.kind=none")
    run = trained(tmp_path / "small", *words)
    _, text = card_of(run, tmp_path / "out", side="teacher")
    assert "width 48" in text and "It is `distill:captions`, of which blocks went on learning" in text
    assert "The text tower (open_clip" in text and "moving average of" not in text and "distilled from" not in text
    sums = section(text, "Training")
    assert "SHA-256 of teacher.safetensors `" in sums and "student.safetensors" not in sums
    _, text = card_of(run, tmp_path / "student")
    assert "width 24" in text and "It was distilled from `distill:captions`" in text and "no text tower" in text


def test_the_opening_says_what_was_trained_and_on_what(runs: dict[str, Path], tmp_path: Path):
    first = {
        name: card_of(runs[name], tmp_path / name)[1].split("\n\n")[1] for name in ("captions", "taught", "convnet")
    }
    assert "`vit_tiny_patch16_224` of timm with patches of 8 pixels, width 48, depth 2 (0.1 M" in first["captions"]
    assert "by self-distillation and by comparing pictures with captions for 1" in first["captions"]
    assert "(CLS 1 learnt from alt-text captions, CLS 2 from short and detailed ones)" in first["captions"]
    assert "it gives two CLS tokens and one token for every patch" in first["taught"], "it has read no captions"
    assert "It was distilled from `timm:test_vit` for 1" in first["taught"]
    assert "it gives one token for the whole picture" in first["convnet"] and "caption" not in first["convnet"]


def test_the_limits_know_the_sizes_of_local_crops(runs: dict[str, Path]):
    facts = gather(load_subject(runs["captions"], side="student"), licence=None, page=None)
    data = facts.recipe.data
    for number, said in ((0, "32 × 32 pixels; other"), (2, "32 × 32 pixels, with local crops of 24; other")):
        views = replace(data.views, num_local=number, local_size=24)
        changed = replace(facts, recipe=replace(facts.recipe, data=replace(data, views=views)))
        assert said in limits(changed, with_text=True)


def copied(run: Path, to: Path) -> Path:
    return shutil.copytree(run, to)


def test_what_a_teacher_of_ours_learnt_from_counts(runs: dict[str, Path], tmp_path: Path):
    """A student of a student of somebody's model stands under that model's licence."""
    words = (*ONE_STEP, *FEATURES, f"teacher.checkpoint={runs['taught']}", "student.image.init=teacher")
    run = trained(tmp_path / "second", *words)
    [source] = sources_of(find(run).folder)
    assert source.name == "distill:taught" and source.is_own and source.role.endswith("start of its image tower")
    assert stated((source,)) == [("timm:test_vit", "apache-2.0")]
    _, text = card_of(run, tmp_path / "out")
    said = section(text, "What it learnt from")
    assert (
        "`distill:taught` | step 1 | trained with this toolkit" in said and "↳ frozen teacher | `timm:test_vit`" in said
    )
    gone = copied(run, tmp_path / "gone")
    checkpoint = find(gone).folder
    page = (checkpoint / "recipe.yaml").read_text().replace(str(runs["taught"]), "/nowhere/taught")
    (checkpoint / "recipe.yaml").write_text(page)
    lost = sources_of(checkpoint)
    assert stated(lost) == [("distill:taught", None)]
    with pytest.raises(ValueError, match=r"of distill:taught could not be looked up \(/nowhere/taught is neither"):
        choose_for(lost, asked=None)
    page = json.loads((checkpoint.parent.parent / "summary.json").read_text())
    assert [source.sha256 for source in lost] == [each["weights_sha256"] for each in page["teachers"]]


def test_a_student_of_its_own_has_no_source(runs: dict[str, Path], tmp_path: Path):
    assert sources_of(find(runs["captions"]).folder) == ()
    data, text = card_of(runs["captions"], tmp_path / "out")
    assert data["license"] == NOT_CHOSEN and data["pipeline_tag"] == "zero-shot-image-classification"
    assert "Nobody else's weights" in section(text, "What it learnt from")
    assert "chose no licence" in section(text, "Licence")
    assert "pretrained by self-distillation" in text


@pytest.mark.parametrize("free", [name for name in TERMS if name not in STRICT])
def test_free_licences_leave_the_choice_open(free: str):
    chosen = choose({"a": free.upper()}, asked=None)
    assert chosen.name == free
    assert len(chosen.warnings) == (TERMS[free].copy or TERMS[free].keep)
    assert choose({"a": free}, asked="mit").name == "mit"


@pytest.mark.parametrize("strict", STRICT)
def test_other_licences_are_passed_on_or_refused(strict: str):
    assert choose({"a": "mit", "b": strict}, asked=None).name == strict
    with pytest.raises(ValueError, match=f"learnt from b, whose licence, {strict}, .* cannot be published under mit"):
        choose({"a": "mit", "b": strict}, asked="mit")


def test_non_commercial_sources_allow_non_commercial_students_only():
    assert choose({"a": "cc-by-nc-4.0"}, asked="cc-by-nc-sa-4.0").name == "cc-by-nc-sa-4.0"
    assert "non-commercial use only" in choose({"a": "cc-by-nc-4.0"}, asked=None).warnings[0]
    for asked in ("apache-2.0", "cc-by-4.0", "gpl-3.0"):
        with pytest.raises(ValueError, match="non-commercially only"):
            choose({"a": "cc-by-nc-4.0"}, asked=asked)


def test_two_licences_that_exclude_each_other_are_refused():
    for others in ({"a": "dinov3-license", "b": "gemma"}, {"a": "dinov3-license", "b": "cc-by-nc-4.0"}):
        with pytest.raises(ValueError, match="no licence known here gives both what they ask for"):
            choose(others, asked=None)
    assert choose({"a": "dinov3-license", "b": "cc-by-4.0"}, asked=None).name == "dinov3-license"
    assert choose({"a": "fair-noncommercial-research-license", "b": "cc-by-nc-4.0"}, asked=None).name.startswith("fair")


@pytest.mark.parametrize("unknown", [None, "some-licence"])
def test_unknown_licences_take_the_publishers_word(unknown: str | None):
    with pytest.raises(ValueError, match=r"teacher.* --licence"):
        choose({"teacher": unknown}, asked=None)
    chosen = choose({"teacher": unknown}, asked="MIT")
    assert chosen.name == "mit" and "is your word" in chosen.warnings[0]


def test_what_the_hub_does_not_list_is_named_with_a_link():
    assert metadata("apache-2.0") == {"license": "apache-2.0"}
    found = metadata("dinov3-license")
    assert (
        found["license"] == "other"
        and found["license_name"] == "dinov3-license"
        and "meta.com" in found["license_link"]
    )
    assert wants_copy(["mit", None, "dinov3-license", "gemma"]) == ["dinov3-license", "gemma"]
    assert wants_copy(["Gemma Terms of Use"]) == ["gemma"]
    assert all(terms.url.startswith("https://") and len(terms.says) > 10 for terms in TERMS.values())


def test_a_licence_is_refused_before_anything_is_written(runs: dict[str, Path], tmp_path: Path):
    copy = copied(runs["taught"], tmp_path / "copy")
    summary = json.loads((copy / "summary.json").read_text())
    summary["teachers"][0]["licence"] = "CC-BY-NC-4.0"
    (copy / "summary.json").write_text(json.dumps(summary))
    assert choose_licence(copy).name == "cc-by-nc-4.0"
    with pytest.raises(ValueError, match="cannot be published under apache"):
        card_of(copy, tmp_path / "out", licence="apache-2.0")
    assert not list((tmp_path / "out").iterdir())


def test_the_recipe_goes_along_without_the_machine(runs: dict[str, Path], tmp_path: Path):
    card_of(runs["taught"], tmp_path / "out")
    page = tmp_path / "out" / "recipe.yaml"
    found, trained_with = recipe_from_file(page), recipe_from_file(find(runs["taught"]).folder / "recipe.yaml")
    assert found.teacher.weights == "test_vit.safetensors" and found.optim == trained_with.optim
    assert str(tmp_path.parent) not in page.read_text()
    assert without_machine(["/a/b.pth", "transformers:/m/dinov2", "a/b", "../c/*/*.jpg", 3]) == [
        *("b.pth", "transformers:dinov2", "a/b", "c/*/*.jpg", 3)
    ]
    assert without_machine("timm:/data/My Models/jane/dino.pth") == "timm:dino.pth"
    assert without_machine("/home/jane doe/proj/x") == "x"
    prose = "See https://arxiv.org/abs/2604.12012, read from /home/jane/page.yaml"
    assert without_machine(prose) == "See https://arxiv.org/abs/2604.12012, read from page.yaml"


def test_the_page_that_a_run_stands_on_is_named_with_what_was_changed(runs: dict[str, Path], tmp_path: Path):
    _, text = card_of(runs["captions"], tmp_path / "out")
    said = section(text, "Training")
    assert "stands on the page `smoke.yaml`, with these settings changed" in said and "`optim.steps: " in said
    page = tmp_path / "promoted.yaml"
    changed = (find(runs["captions"]).folder / "recipe.yaml").read_text()
    page.write_text(f"# A page.\n#\n# Written by `distill study promote bridge`; change the study.\n\n{changed}")
    said = section(card_of(runs["captions"], tmp_path / "out", page=page)[1], "Training")
    assert "is the page `promoted.yaml`, which the study `bridge` promoted, unchanged." in said
    assert "Written by `distill study promote bridge`" in said.split("```text")[1]
    with pytest.raises(ValueError, match="no such file"):
        card_of(runs["captions"], tmp_path / "out", page=tmp_path / "none.yaml")


def test_what_only_lies_elsewhere_is_no_other_setting(runs: dict[str, Path], tmp_path: Path):
    page = tmp_path / "page.yaml"
    trained_with = (find(runs["taught"]).folder / "recipe.yaml").read_text()
    weights = re.search(r"weights: (/\S+)", trained_with)[1]
    page.write_text(
        trained_with.replace(weights, "/of/somebody/test_vit.safetensors").replace("steps: 1\n", "steps: 2\n")
    )
    said = section(card_of(runs["taught"], tmp_path / "out", page=page)[1], "Training")
    assert "`teacher.weights: lies in another place`; `optim.steps: 2 -> 1`" in said and "/of/somebody" not in said


@pytest.mark.parametrize(("seconds", "told"), [(3.4, "3 seconds"), (170.0, "2.8 minutes"), (9000.0, "2.5 hours")])
def test_how_long_a_run_took(seconds: float, told: str, runs: dict[str, Path]):
    facts = gather(load_subject(runs["captions"], side="student"), licence=None, page=None)
    assert f"- Run: {told} on " in training(replace(facts, summary=facts.summary | {"seconds": seconds}))


def test_the_data_has_a_fingerprint_while_it_is_there(runs: dict[str, Path], tmp_path: Path):
    said = section(card_of(runs["captions"], tmp_path / "out")[1], "Training")
    assert "100 procedurally drawn scenes" in said and re.search(r"Its fingerprint, .*, is `[0-9a-f]{16}`\.", said)
    gone = Data(source="dataset", dataset=Dataset(path=f"{tmp_path}/nothing/photos"))
    assert fingerprint(gone) is None and data_in_words(gone) == "imagefolder `photos`"


def test_data_that_is_a_pattern_is_named_with_its_folder():
    data = Data(source="dataset", dataset=Dataset(path="/data/of/somebody/photos/*.jpg"))
    assert data_in_words(data) == "imagefolder `photos/*.jpg`"
    assert without_machine(data.dataset.path) == "photos/*.jpg"


def test_data_in_files_is_told_with_their_number(runs: dict[str, Path], tmp_path: Path):
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (4, 4)).save(tmp_path / "photos" / f"{number}.jpg")
    facts = gather(load_subject(runs["taught"], side="student"), licence=None, page=None)
    data = Data(source="dataset", image_size=32, dataset=Dataset(path=f"{tmp_path}/photos/*.jpg"))
    said = training(replace(facts, recipe=replace(facts.recipe, data=data)))
    assert "- Data: imagefolder `photos/*.jpg`, 3 files. Its fingerprint, as this is written, is `" in said
    assert str(tmp_path) not in said


def test_a_picture_is_shown_and_has_to_be_one(runs: dict[str, Path], tmp_path: Path):
    picture = tmp_path / "picture.png"
    Image.new("RGB", (4, 4)).save(picture)
    _, text = card_of(runs["captions"], tmp_path / "out", picture=picture)
    assert "(features.png)" in text and (tmp_path / "out" / "features.png").read_bytes() == picture.read_bytes()
    wrong = tmp_path / "wrong.png"
    wrong.write_text("no picture")
    with pytest.raises(ValueError, match="is no PNG"):
        check_files(picture=wrong, licence_text=None, page=None)
    (tmp_path / "third").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "third" / "features.png")
    assert "(features.png)" in card_of(runs["captions"], tmp_path / "third")[1]


def test_the_tokenizer_of_a_text_tower_is_named_and_forces_no_licence(runs: dict[str, Path], tmp_path: Path):
    data, text = card_of(runs["tips"], tmp_path / "out")
    file = runs["tips"].parent / "words" / "tokenizer.model"
    row = f"| tokenizer | `tokenizer.model` | of no known release | not stated | `{sha256_of_weights([file])}` |"
    assert row in section(text, "What it learnt from") and "Nobody else's weights" in section(
        text, "What it learnt from"
    )
    assert "tokenizer.model` comes without any statement of a licence: that it may be" in section(text, "Licence")
    assert data["license"] == NOT_CHOSEN and str(file.parent) not in text
    assert "nobody states the licence of the tokenizer tokenizer.model" in choose_licence(runs["tips"]).warnings[-1]
    assert not [word for word in choose_licence(runs["captions"]).warnings if "tokenizer" in word]


def test_a_licence_of_ones_own_stands_in_the_card_with_its_text(runs: dict[str, Path], tmp_path: Path):
    with pytest.raises(ValueError, match="lab-terms: the hub knows no such licence, so its text has to go along"):
        card_of(runs["taught"], tmp_path / "out", licence="Lab-Terms")
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(ValueError, match="its text has to go along"):
        choose_licence(runs["taught"], licence="Lab-Terms")
    text = tmp_path / "terms.txt"
    text.write_text(f"You may.\n\n{TEXTS['apache-2.0']}\n")
    data, card = card_of(runs["taught"], tmp_path / "out", licence="Lab-Terms", text=text.read_text())
    chosen = choose_licence(runs["taught"], licence="Lab-Terms", licence_text=text)
    assert not chosen.warnings and chosen.sources == ("apache-2.0",)
    named = {"license": "other", "license_name": "lab-terms", "license_link": "LICENSE"}
    assert named.items() <= data.items()
    said = section(card, "Licence")
    assert "under `lab-terms`, a licence of its own, whose text is in [LICENSE](LICENSE)" in said
    assert "[LICENSE](LICENSE) holds the text of the Apache License 2.0." in said
    _, card = card_of(runs["taught"], tmp_path / "without")
    assert "The text of the Apache License 2.0 is behind its link above." in section(card, "Licence")


def test_a_licences_text_goes_along(runs: dict[str, Path], tmp_path: Path):
    card_of(runs["captions"], tmp_path / "out", licence="mit", text="You may.")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert (tmp_path / "out" / "LICENSE").read_text() == "You may." and written <= {*FILES}


def test_the_first_sentence_about_the_licence_leads_to_its_text(runs: dict[str, Path], tmp_path: Path):
    for words, said in (
        (TEXTS["mit"], "[MIT License](https://opensource.org/license/mit), whose text is in [LICENSE](LICENSE)."),
        ("You may.", "[MIT License](https://opensource.org/license/mit); what goes along is in [LICENSE](LICENSE)."),
    ):
        _, card = card_of(runs["captions"], tmp_path / "out", licence="mit", text=words)
        assert f"This model is published under {said}" in section(card, "Licence")
    _, card = card_of(runs["captions"], tmp_path / "without", licence="mit")
    assert "(LICENSE)" not in section(card, "Licence")


def test_a_licences_text_without_a_licence_is_refused(runs: dict[str, Path], tmp_path: Path):
    text = tmp_path / "words.txt"
    text.write_text("You may.")
    with pytest.raises(ValueError, match="none was chosen: say which with --licence"):
        choose_licence(runs["captions"], licence_text=text)
    with pytest.raises(ValueError, match="none was chosen"):
        card_of(runs["captions"], tmp_path / "out", text="You may.")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("turned", [False, True])
def test_the_card_tells_two_sources_of_one_name_apart(runs: dict[str, Path], turned: bool):
    facts = gather(load_subject(runs["captions"], side="student"), licence="cc-by-nc-4.0", page=None)
    found = [
        Source(role="a: frozen teacher", name="transformers:model", sha256="1" * 64, licence="cc-by-nc-4.0"),
        Source(role="b: frozen teacher", name="transformers:model", sha256="2" * 64, licence="apache-2.0"),
    ]
    same = replace(found[0], role="c: frozen teacher")
    sources = (*(reversed(found) if turned else found), same)
    said = licence(replace(facts, sources=sources), "")
    assert said.count("- `transformers:model`") == 2
    assert "`transformers:model` (SHA-256 `11111111…`) is under the [Creative Commons Attribution-NonComm" in said
    assert "`transformers:model` (SHA-256 `22222222…`) is under the [Apache License 2.0]" in said
    assert "- `transformers:model` is under" in licence(replace(facts, sources=(found[0],)), "")


def test_what_the_licence_of_the_tokenizer_asks_for_is_owed_in_any_case(runs: dict[str, Path]):
    """It is given on as it is, whatever a student is."""
    facts = gather(load_subject(runs["captions"], side="student"), licence="mit", page=None)
    words = Source(role=TOKENIZER, name="tokenizer.model", licence="apache-2.0")
    said = licence(replace(facts, sources=(words,)), "")
    owed = "goes along unchanged, so what its licence, the Apache License 2.0, asks for is owed in any case."
    assert owed in said
    for free in (None, "cc0-1.0"):
        said = licence(replace(facts, sources=(replace(words, licence=free),)), "")
        assert "goes along unchanged." in said and "owed" not in said


def test_proof_is_a_table_and_refusals_have_reasons(runs: dict[str, Path], tmp_path: Path):
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "config.json").write_text(json.dumps({"architecture": "test_vit", "model_args": {}}))
    save_file({}, tmp_path / "timm" / "model.safetensors")
    proof = replace(proof_of(tmp_path, {"timm": False}), dtype="fp16", rounding={"cls": 1.5e-3, "cls2": 2e-3})
    subject = load_subject(runs["captions"], side="student")
    write_card(tmp_path, facts=gather(subject), subject=subject, proof=proof)
    said = section((tmp_path / "README.md").read_text(), "The same weights in every format")
    assert "| patches | 2.0e-06 |" in said and "8 held-out scenes" in said and "may differ by more than 1e-05" in said
    assert "to fp16 by itself changes what the model says by CLS 1 1.5e-03, CLS 2 2.0e-03" in said
    assert "Formats that do not apply:\n\n- tips: its text tower is not one of TIPS." in said
    assert "| CLS | 1.0e-07 |" in said and "Prepared" not in said and "Other size" not in said


def test_what_a_proof_compares_has_words_and_is_explained_where_it_is_there():
    quantities = {*IMAGE, *BOTH, *PHOTOS, *WIDE, "feature_pipeline", "zero_shot_pipeline"}
    assert quantities == QUANTITIES.keys()
    found = FormatProof(
        files=("timm/config.json",),
        sha256=("0" * 64,),
        bytes=1,
        library="timm",
        version="1",
        differences=dict.fromkeys(sorted(quantities), 0.0) | {"photo_pixels": 3.6e-3},
    )
    said = proven(replace(nothing_compared(), formats={"timm": found}))
    assert re.findall(r"\| (CLS .*?) \| 0 \|", said) == [
        "CLS 1",
        "CLS 2",
        "CLS 1, other size",
        "CLS 1 of prepared pixels",
    ]
    assert "| prepared pixels | 3.6e-03 |" in said and "Nothing but the prepared pixels may differ" in said
    assert "differ by up to 0.010" in said and "“Other size”" in said


def test_the_citation_is_that_of_the_project():
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    [paper] = cited["references"]
    names = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    assert names in " ".join(PAPER.split()) and paper["title"] in PAPER and paper["url"] in PAPER
    assert cited["title"] in SOFTWARE and cited["authors"][0]["name"] in SOFTWARE


def test_names_of_the_hub_are_told_from_files():
    assert hub_name("transformers:facebook/dinov2-small", "facebook/dinov2-small") == "facebook/dinov2-small"
    assert hub_name("open_clip:hf-hub:timm/ViT-B-16-SigLIP2", "hf-hub:timm/ViT-B-16-SigLIP2") == "timm/ViT-B-16-SigLIP2"
    assert hub_name("timm:deit_tiny_patch16_224", "timm/deit_tiny_patch16_224.fb_in1k") is not None
    for model, weights in (
        ("timm:deit_tiny_patch16_224", "weights/model.safetensors"),
        ("transformers:facebook/dinov2-small", "random"),
        ("tips:/models/tips", "/models/tips"),
        ("transformers:a/b/c", "a/b/c"),
    ):
        assert hub_name(model, weights) is None
