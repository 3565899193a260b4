"""Names of licences, which one a student may have, and what is not known about what it learnt from."""

import json
import shutil
from pathlib import Path

import pytest
from test_family_tips import write_tokenizer
from tiny_released import timm_file
from tiny_runs import tiny

from distill.config import recipe_dict
from distill.config.text import dump
from distill.publish.card.choice import choose, choose_for
from distill.publish.card.licences import TERMS, going_along, holds, metadata, named_by
from distill.publish.card.names import HUB, bare, named
from distill.publish.card.sources import TOKENIZER, given_along, licences_of, lost, sources_of

TEXT_OF_TIPS = (
    *("student.image.model=timm:vit_base_patch14_reg1_tipsv2", "student.image.width=64", "student.image.num_heads=1"),
    *("student.text.kind=tips", "student.text.width=64", "student.text.num_heads=1"),
)
DISTILLED = (
    *("teacher.kind=frozen", "objective.patch.target=features", "objective.cls.weight=0", "data.views.num_local=0"),
    *("student.text.kind=none", "objective.contrastive.weight=0", "teacher.image_size=32"),
)


def checkpoint(run: Path, *words: str) -> Path:
    """A checkpoint folder with nothing but its recipe."""
    folder = run / "checkpoints" / "step_00000001"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(dump(recipe_dict(tiny(run, *words))))
    return folder


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("words"))


def test_every_name_of_the_hub_is_taken_whatever_its_case():
    for name in HUB:
        assert named(name.upper()) == name and metadata(name) == {"license": name}
        assert choose({}, asked=name).name == name


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("apache2", "apache-2.0"),
        ("Apache 2.0", "apache-2.0"),
        ("appache-2.0", "apache-2.0"),
        ("MIT-License", "mit"),
        ("gplv3", "gpl-3.0"),
        ("bsd3", "bsd-3-clause or bsd-3-clause-clear"),
        ("cc-by", "cc-by-4.0 or cc-by-3.0 or cc-by-2.5"),
        ("cc-by-nc-40", "cc-by-nc-4.0"),
        ("dinov3", "dinov3-license"),
    ],
)
def test_a_name_that_is_almost_one_of_the_known_is_refused(wrong: str, meant: str):
    with pytest.raises(ValueError) as refused:
        choose({}, asked=wrong)
    said = str(refused.value)
    assert said.startswith(f"--licence {wrong}: ") and said.endswith(f"did you mean {meant}?") and "other:NAME" in said


def test_a_licence_of_ones_own_has_a_name_like_no_other_or_says_other():
    assert named("My-Lab-Terms") == "my-lab-terms" and named("seer-license") == "seer-license"
    with pytest.raises(ValueError, match=r"did you mean bsd-3-clause\?"):
        named("bsd-4-clause")
    assert named("other:bsd-4-clause") == named("bsd-4-clause", beside=["bsd-4-clause"]) == "bsd-4-clause"
    assert choose({"a": "bsd-4-clause"}, asked="BSD-4-Clause").name == "bsd-4-clause"  # as the teacher's is stated
    for wrong, why in {
        "other": "names no licence",
        "other:": "names no licence",
        "other:MIT": "so say --licence mit",
        "my terms": "letters, digits",
        "": "names no licence",
    }.items():
        with pytest.raises(ValueError, match=why):
            named(wrong, beside=["other", "my terms"])
    assert metadata("my-lab-terms") == {"license": "other", "license_name": "my-lab-terms", "license_link": "LICENSE"}


def test_names_stay_apart_without_their_signs():
    names = {*HUB, *TERMS}
    assert len(HUB) == len({*HUB}) == 82 and len({bare(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("stated", "name"),
    [
        ("Apache-2.0", "apache-2.0"),
        ("Apache License 2.0", "apache-2.0"),
        ("CC BY-NC 4.0", "cc-by-nc-4.0"),
        ("MIT License", "mit"),
        ("DINOv3-License", "dinov3-license"),
        ("Seer-License", "seer-license"),
        ("apache", "apache"),
    ],
)
def test_what_a_model_states_is_read_as_people_write_it(stated: str, name: str):
    assert named_by(stated) == name


def test_a_source_that_names_no_licence_is_told_from_one_whose_licence_is_not_known():
    for stated, said in {
        None: "nobody states the licence of a",
        "unknown": "nobody states the licence of a",
        "other": "a is under a licence of its own, which it does not name",
        "llama3": "a is under llama3, not known here",
    }.items():
        with pytest.raises(ValueError, match=f"^{said}; read it"):
            choose({"a": stated}, asked=None)
        assert choose({"a": stated}, asked="mit").warnings[0].startswith(f"{said}: --licence mit is your word")


def test_software_licences_ask_for_their_text_in_one_sentence_and_refuse_nothing():
    chosen = choose({"a": "apache-2.0"}, asked=None)
    assert chosen.texts == () and chosen.warnings == (
        "the Apache License 2.0 wants its text and notices kept: give them along with --licence-text FILE",
    )
    several = choose({"a": "Apache-2.0", "b": "mit", "c": "apache-2.0"}, asked="bsd-3-clause").warnings
    assert len(several) == 1 and several[0].startswith("the Apache License 2.0 and the MIT License want their text")
    assert not choose({}, asked="mit").warnings  # their own to write
    strict = choose({"a": "mit", "b": "nvidia-open-model-license"}, asked="mit")
    assert strict.texts == ("NVIDIA Open Model License",) and len(strict.warnings) == 2


def test_nobody_is_warned_of_a_text_that_goes_along():
    text = "Permission is hereby granted,\n  free of charge, to any\n\n  Apache License\n  Version 2.0, January 2004"
    assert not choose({"a": "apache-2.0", "b": "mit"}, asked=None, text=text).warnings
    [left] = choose({"a": "mit", "b": "bsd-2-clause"}, asked=None, text=text).warnings
    assert left.startswith("the BSD 2-Clause License wants")
    [left] = choose({"a": "mit", "b": "nvidia-open-model-license"}, asked="mit", text=text).warnings
    assert left.startswith("the NVIDIA Open Model License asks for a copy")
    along = going_along([*TERMS])
    assert len(along) == 9 and all(holds(terms.phrase or terms.title, terms) for terms in along)
    assert not any(holds("", terms) for terms in along)


def test_a_file_that_is_not_found_from_here_is_not_called_a_missing_licence(tmp_path: Path, monkeypatch):
    """A relative path, as the training's command had it, and the publication given in another folder."""
    timm_file(tmp_path / "weights", "test_vit", image_size=160, grid=(10, 10), width=64)
    teacher = ("teacher.model=timm:test_vit", "teacher.weights=weights/test_vit.safetensors")
    folder = checkpoint(tmp_path / "run", *DISTILLED, *teacher)
    monkeypatch.chdir(tmp_path)
    assert licences_of(sources_of(folder)) == {"timm:test_vit": "apache-2.0"}
    monkeypatch.chdir(tmp_path / "weights")
    sources = sources_of(folder)
    assert "weights/test_vit.safetensors" in lost(sources)["timm:test_vit"]
    with pytest.raises(ValueError) as refused:
        choose_for(sources, asked=None)
    said = str(refused.value)
    assert "the licence of timm:test_vit could not be looked up (" in said and "nobody states" not in said
    assert "weights/test_vit.safetensors" in said and "give the command where the training was started" in said
    assert said.endswith("with --licence") and "read it" not in said
    chosen = choose_for(sources, asked="apache-2.0")
    assert "could not be looked up" in chosen.warnings[0] and "is your word" in chosen.warnings[0]


def test_what_the_run_recorded_of_a_teacher_counts_where_it_is_gone(tmp_path: Path):
    """Of a run of ours its sum; what that learnt from is not known without it."""
    folder = checkpoint(tmp_path / "run", *DISTILLED, "teacher.checkpoint=runs/taught")
    recorded = {"member": "", "weights_sha256": "5" * 64, "licence": None, "source": "x", "with_text": False}
    (tmp_path / "run" / "summary.json").write_text(json.dumps({"teachers": [recorded]}))
    [source] = sources_of(folder)
    assert source.sha256 == "5" * 64 and source.weights is None and "runs/taught is neither" in source.problem


def test_a_tokenizer_beside_a_released_model_is_a_source_of_its_licence(words: Path, tmp_path: Path):
    folder = tmp_path / "models--google--tipsv2-b14" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    tokenizer = shutil.copy(words, folder)
    run = checkpoint(tmp_path / "run", *TEXT_OF_TIPS, f"student.text.tokenizer={tokenizer}")
    assert licences_of(sources_of(run)) == {} and [each.licence for each in given_along(sources_of(run))] == [None]
    (folder / "config.json").write_text(json.dumps({"model_type": "tipsv2"}))
    assert licences_of(sources_of(run)) == {}  # nothing states one
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    [source] = sources_of(run)
    assert (source.role, source.name, source.licence) == (TOKENIZER, "tokenizer.model", "apache-2.0")
    assert source.weights == "released with google/tipsv2-b14"
    (folder / "tips_v2_oss_b14_vision.npz").touch()
    [source] = sources_of(run)
    assert source.weights == "released with tips_v2_oss_b14" and licences_of((source,)) == {source.name: "CC-BY-4.0"}
    assert choose_for((source,), asked=None).name == "cc-by-4.0"
    assert not choose_for((source,), asked="apache-2.0").warnings


def test_a_tokenizer_that_was_published_here_is_nobodys_release(words: Path, tmp_path: Path):
    for name in ("student_vision.npz", "student_text.npz"):
        (tmp_path / name).touch()
    tokenizer = shutil.copy(words, tmp_path)
    run = checkpoint(tmp_path / "run", *TEXT_OF_TIPS, f"student.text.tokenizer={tokenizer}")
    chosen = choose_for(sources_of(run), asked="mit")
    assert chosen.name == "mit" and chosen.warnings == (
        "nobody states the licence of the tokenizer tokenizer.model: see that you may give it on",
    )
    Path(tokenizer).unlink()
    [source] = sources_of(run)
    assert source.sha256 is None and source.licence is None


def test_a_tower_without_a_file_of_words_has_no_tokenizer_among_its_sources(tmp_path: Path):
    assert sources_of(checkpoint(tmp_path / "run")) == ()
