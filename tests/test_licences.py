"""Names of licences, which one a student may have, and what is not known about what it learnt from."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from test_family_tips import write_tokenizer
from tiny_released import timm_file
from tiny_runs import tiny

from distill.config import recipe_dict
from distill.config.text import dump
from distill.publish.card.choice import Choice, choose_for
from distill.publish.card.licences import NOT_CHOSEN, TERMS, check_text, going_along, holds, metadata, named_by
from distill.publish.card.names import HUB, bare, named
from distill.publish.card.sources import TOKENIZER, Source, given_along, licensed, sources_of

TEXT_OF_TIPS = (
    *("student.image.model=timm:vit_base_patch14_reg1_tipsv2", "student.image.width=64", "student.image.num_heads=1"),
    *("student.text.kind=tips", "student.text.width=64", "student.text.num_heads=1"),
)
DISTILLED = (
    *("teacher.kind=frozen", "objective.patch.target=features", "objective.cls.weight=0", "data.views.num_local=0"),
    *("student.text.kind=none", "objective.contrastive.weight=0", "teacher.image_size=32"),
)


NOTICES = {
    "apache-2.0": 'Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in '
    "compliance with the License. See http://www.apache.org/licenses/LICENSE-2.0",
    "mit": "Permission is hereby granted, free of charge, to any person or organization obtaining a copy of the "
    "software and accompanying documentation covered by this license",  # Boost's
    "bsd-3-clause": "Redistribution and use in source and binary forms, with or without modification, are permitted",
    "bsd-2-clause": "Use of this source code is governed by the BSD 2-Clause License.",
    "dinov3-license": "DINOv3 License. Built with DINOv3",
    "fair-noncommercial-research-license": "Under the FAIR Noncommercial Research License.",
}
TEXTS = {
    "apache-2.0": "Apache License\n  Version 2.0, January 2004\n\n  TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND\n"
    "  DISTRIBUTION\n\n  1. Definitions.",
    "mit": "Permission is hereby granted, free of charge, to any person [...]\n\nThe above copyright notice and this\n"
    "permission notice shall be included in all copies or substantial\nportions of the Software.",
    "bsd-3-clause": "Redistribution and use in source and binary\nforms, with or without modification [...]\n\n"
    "3. Neither the name of the copyright holder nor the names of its contributors may be used to endorse or promote\n"
    "products derived from this software",
    "bsd-2-clause": "Redistribution and use in source and binary\nforms, with or without modification [...]",
    "dinov3-license": "“Agreement” means the terms and conditions for use, reproduction, distribution and "
    "modification\nof the DINO Materials set forth herein.",
    "fair-noncommercial-research-license": "FAIR Noncommercial Research License\n\n[...] applicable to "
    "Research Materials",
    "apple-amlr": "“Research Purposes” means non-commercial scientific research and\n  academic development activities "
    "[...]\n\n* No Other License: Except as expressly stated",
    "gemma": "By using, reproducing, modifying, distributing, performing or displaying\nany portion or element of "
    "Gemma, Model Derivatives including via any Hosted Service",
    "nvidia-open-model-license": "(“NVIDIA”)\nand governs Your use of the Models that NVIDIA provides to\nYou under "
    "this Agreement.",
}
"""Words of the texts themselves, broken into lines as they are found."""


def choose(licences: dict[str, str | None], *, asked: str | None, text: str = "") -> Choice:
    """Of sources of these names and licences."""
    sources = tuple(Source(role="frozen teacher", name=name, licence=each) for name, each in licences.items())
    return choose_for(sources, asked=asked, text=text)


def stated(sources: tuple[Source, ...]) -> list[tuple[str, str | None]]:
    return [(each.name, each.licence) for each in licensed(sources)]


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
    for licence, said in {
        None: "nobody states the licence of a",
        "unknown": "nobody states the licence of a",
        "other": "a is under a licence of its own, which it does not name",
        "llama3": "a is under llama3, not known here",
    }.items():
        with pytest.raises(ValueError, match=f"^{said}; read it"):
            choose({"a": licence}, asked=None)
        assert choose({"a": licence}, asked="mit").warnings[0].startswith(f"{said}: --licence mit is your word")


def test_software_licences_ask_for_their_text_in_one_sentence_and_refuse_nothing():
    chosen = choose({"a": "apache-2.0"}, asked=None)
    assert chosen.texts == () and chosen.warnings == (
        "the Apache License 2.0 wants its text and notices kept: give them along with --licence-text FILE",
    )
    several = choose({"a": "Apache-2.0", "b": "mit", "c": "apache-2.0"}, asked="bsd-3-clause").warnings
    assert len(several) == 1 and several[0].startswith("the Apache License 2.0 and the MIT License want their text")
    assert not choose({}, asked="mit").warnings  # their own to write
    strict = choose({"a": "mit", "b": "nvidia-open-model-license"}, asked="mit")
    assert strict.texts == ("nvidia-open-model-license",) and len(strict.warnings) == 2


def test_nobody_is_warned_of_a_text_that_goes_along():
    text = f"{TEXTS['mit']}\n\n{TEXTS['apache-2.0']}"
    assert not choose({"a": "apache-2.0", "b": "mit"}, asked=None, text=text).warnings
    [left] = choose({"a": "mit", "b": "bsd-2-clause"}, asked=None, text=text).warnings
    assert left.startswith("the BSD 2-Clause License wants")
    [left] = choose({"a": "mit", "b": "nvidia-open-model-license"}, asked="mit", text=text).warnings
    assert left.startswith("the NVIDIA Open Model License asks for a copy")


def test_a_mention_or_a_notice_is_not_the_text():
    assert [TERMS[name] for name in TERMS if name in TEXTS] == going_along([*TERMS])
    for name in TEXTS:
        terms = TERMS[name]
        for mention in ("", f"{terms.title} ({terms.url}): {terms.notice}", NOTICES.get(name, "")):
            assert not holds(mention, terms), (name, mention)
        others = [other for other in TEXTS if holds(TEXTS[name], TERMS[other])]
        assert others == [name]
    assert all(holds("\n\n".join(TEXTS.values()), TERMS[name]) for name in TEXTS), "one after another"
    assert not holds("CC0 1.0", TERMS["cc0-1.0"]), "nobody asks for its text"


@pytest.mark.parametrize("turned", [False, True])
def test_two_sources_of_one_name_both_count_whatever_their_order(turned: bool):
    """As an ensemble of two folders of one name, whose places are cut."""
    found = [
        Source(role="a: frozen teacher", name="transformers:model", sha256="1" * 64, licence="cc-by-nc-4.0"),
        Source(role="b: frozen teacher", name="transformers:model", sha256="2" * 64, licence="apache-2.0"),
    ]
    sources = tuple(reversed(found)) if turned else tuple(found)
    chosen = choose_for(sources, asked=None)
    assert chosen.name == "cc-by-nc-4.0" and {*chosen.sources} == {"cc-by-nc-4.0", "apache-2.0"}
    with pytest.raises(ValueError, match="cannot be published under apache"):
        choose_for(sources, asked="apache-2.0")
    ours = Source(role="frozen teacher", name="distill:run", is_own=True, behind=sources[:1])
    assert choose_for((ours, *sources[1:]), asked=None).name == "cc-by-nc-4.0"
    gone = tuple(replace(each, licence=None, problem=f"no {each.role}") for each in found)
    with pytest.raises(ValueError, match=r"\(no a: frozen teacher\); .*\(no b: frozen teacher\)"):
        choose_for(gone, asked=None)


def test_the_most_demanding_of_free_licences_is_taken_whatever_their_order():
    order = ["nvidia-open-model-license", "cc-by-4.0", "apache-2.0", "mit", "bsd-3-clause", "bsd-2-clause", "cc0-1.0"]
    for first, second in pairwise(order):
        for names in ((first, second), (second, first)):
            assert choose({str(place): name for place, name in enumerate(names)}, asked=None).name == first


def test_names_and_notices_are_kept_under_a_licence_that_asks_for_nothing_too():
    for asked in ("cc0-1.0", "unlicense"):
        said = choose({"a": "cc-by-4.0", "b": "cc0-1.0"}, asked=asked).warnings
        assert said == (
            f"{asked} asks nothing of others, yet names and notices have to be kept as the Creative Commons "
            "Attribution 4.0 asks",
        )
        said = choose({"a": "apache-2.0", "b": "mit"}, asked=asked, text=TEXTS["mit"]).warnings
        assert said[0].endswith("have to be kept as the Apache License 2.0 and the MIT License ask")
        assert not choose({"a": "cc0-1.0"}, asked=asked).warnings
    assert not choose({"a": "cc-by-4.0"}, asked="mit").warnings


def test_every_non_commercial_licence_of_the_hub_is_taken_for_a_non_commercial_source():
    for asked in ("cc-by-nc-2.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"):
        assert choose({"a": "cc-by-nc-4.0"}, asked=asked).name == asked
    assert choose({"a": "cc-by-nc-4.0"}, asked="cc-by-nc-2.0").warnings == (
        "cc-by-nc-2.0: the student is for non-commercial use only",
    )
    own = choose({"a": "cc-by-nc-4.0"}, asked="other:lab-nc", text="For research.")
    assert own.name == "lab-nc" and own.warnings == (
        "the student is for non-commercial use only, and that lab-nc says so is your word",
    )
    for asked in ("mit", "h-research"):
        with pytest.raises(ValueError, match=f"under {asked}, no non-commercial licence known here; leave"):
            choose({"a": "cc-by-nc-4.0"}, asked=asked)
    with pytest.raises(ValueError, match=r"cc-by-nc-2\.0, lets .* non-commercially only: .* here; say cc-by-nc-2\.0$"):
        choose({"a": "cc-by-nc-2.0"}, asked="mit")


def test_why_a_licence_is_handed_on_is_said_as_it_is():
    for name in ("dinov3-license", "cc-by-sa-4.0", "cc-by-nc-sa-4.0", "fair-noncommercial-research-license"):
        with pytest.raises(ValueError, match="wants derived works under that same licence"):
            choose({"a": name}, asked="cc-by-nc-2.0")
    for name in ("apple-amlr", "gemma"):
        with pytest.raises(ValueError, match="binds derived works to its restrictions"):
            choose({"a": name}, asked="cc-by-nc-2.0")


@pytest.mark.parametrize("name", [name for name in TERMS if TERMS[name].copy])
def test_a_chosen_licence_that_wants_its_text_along_is_told_before_the_push(name: str):
    chosen = choose({}, asked=name)
    assert chosen.texts == (name,)
    assert f"the {TERMS[name].title} asks for a copy of its text to go along: --licence-text FILE" in chosen.warnings
    assert not [said for said in choose({}, asked=name, text=TEXTS[name]).warnings if "--licence-text" in said]


def test_a_text_without_a_licence_is_refused_where_no_source_asks_for_one():
    with pytest.raises(ValueError, match="text of a licence, and none was chosen"):
        check_text(NOT_CHOSEN, has_text=True, sources=["cc-by-4.0"])
    check_text(NOT_CHOSEN, has_text=True, sources=["apache-2.0"])  # whose notices are to be kept
    check_text(NOT_CHOSEN, has_text=False)


def test_a_file_that_is_not_found_from_here_is_not_called_a_missing_licence(tmp_path: Path, monkeypatch):
    """A relative path, as the training's command had it, and the publication given in another folder."""
    timm_file(tmp_path / "weights", "test_vit", image_size=160, grid=(10, 10), width=64)
    teacher = ("teacher.model=timm:test_vit", "teacher.weights=weights/test_vit.safetensors")
    folder = checkpoint(tmp_path / "run", *DISTILLED, *teacher)
    monkeypatch.chdir(tmp_path)
    assert stated(sources_of(folder)) == [("timm:test_vit", "apache-2.0")]
    monkeypatch.chdir(tmp_path / "weights")
    sources = sources_of(folder)
    assert [each.name for each in sources] == ["timm:test_vit"]
    assert "weights/test_vit.safetensors" in str(sources[0].problem)
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
    assert stated(sources_of(run)) == [] and [each.licence for each in given_along(sources_of(run))] == [None]
    (folder / "config.json").write_text(json.dumps({"model_type": "tipsv2"}))
    assert stated(sources_of(run)) == []  # nothing states one
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    [source] = sources_of(run)
    assert (source.role, source.name, source.licence) == (TOKENIZER, "tokenizer.model", "apache-2.0")
    assert source.weights == "released with google/tipsv2-b14"
    (folder / "tips_v2_oss_b14_vision.npz").touch()
    [source] = sources_of(run)
    assert source.weights == "released with tips_v2_oss_b14" and stated((source,)) == [(source.name, "CC-BY-4.0")]
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
