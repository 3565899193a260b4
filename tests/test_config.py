"""Recipes: pages, overrides, and errors that say what was meant."""

from dataclasses import replace
from pathlib import Path

import pytest

from distill.config import (
    InvalidCombination,
    Masking,
    Patch,
    Recipe,
    RecipeError,
    Student,
    content_hash,
    differences,
    list_recipes,
    load_recipe,
    page_path,
    recipe_dict,
    recipe_from_file,
    recipe_text,
    resolve,
    save_recipe,
)
from distill.config.pages import FOLDER, catalogue
from distill.config.tree import all_keys, choices, types_of

NEEDED = {"distill/vanilla": ["teacher.checkpoint=runs/teacher"]}
"""What a recipe cannot know by itself."""


def page(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def refusal(path: Path | str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, list(overrides))
    return str(caught.value)


def test_every_recipe_of_the_package_resolves_and_comes_back_equal(tmp_path: Path) -> None:
    names = [name for name, _ in list_recipes()]
    on_disk = [path for path in FOLDER.rglob("*.yaml") if not {"study", "suite", "launch"} & set(path.parts)]
    assert len(names) == len(on_disk) > 0
    for name in names:
        recipe = load_recipe(name, NEEDED.get(name, []))
        save_recipe(recipe, tmp_path / "recipe.yaml")
        assert recipe_from_file(tmp_path / "recipe.yaml") == recipe, name


def test_every_recipe_says_what_it_is_how_to_run_it_and_what_to_expect() -> None:
    assert list_recipes()
    for name, description in list_recipes():
        header = page_path(name).read_text().split("\n\n")[0]
        assert len(description) > 20, name
        for heading in ("# Source:", "# Command:", "# Time:", "# Result:"):
            assert heading in header, f"{name} has no {heading}"


def test_ibot_and_ibotpp_differ_in_nothing_but_which_patches_the_loss_hears() -> None:
    changed = differences(load_recipe("ibot"), load_recipe("ibotpp"), ignore=("run", "name"))
    assert changed == ['objective.patch.supervise: "masked" -> "all"']


def test_a_recipe_is_found_by_its_short_name_its_full_name_and_its_path() -> None:
    by_path = load_recipe(FOLDER / "pretrain" / "ibotpp.yaml")
    assert load_recipe("ibotpp") == load_recipe("pretrain/ibotpp") == load_recipe("pretrain/ibotpp.yaml") == by_path
    assert by_path.name == "ibotpp"


def test_an_ambiguous_short_name_lists_its_candidates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("a/same.yaml", "b/same.yaml"):
        (tmp_path / name).parent.mkdir()
        page(tmp_path, "seed: 1", name)
    monkeypatch.setattr("distill.config.pages.FOLDER", tmp_path)
    catalogue.cache_clear()
    try:
        assert "a/same, b/same" in refusal("same")
        assert load_recipe("a/same").seed == 1
    finally:
        catalogue.cache_clear()


def test_unknown_recipes_and_files_name_the_nearest() -> None:
    assert "did you mean pretrain/ibotpp" in refusal("ibottp")
    assert "no such file" in refusal("nowhere/mine.yaml")
    with pytest.raises(RecipeError, match="no such file"):
        recipe_from_file("nowhere/recipe.yaml")


def test_studies_and_launch_settings_are_no_recipes() -> None:
    assert page_path("gpu_8", kind="launch") == FOLDER / "launch" / "gpu_8.yaml"
    assert "no recipe of this name" in refusal("gpu_8")


def test_what_comes_later_wins_page_over_parents_and_command_line_over_pages(tmp_path: Path) -> None:
    page(tmp_path, "seed: 1\noptim: {lr: 0.1, clip: 1}\nmasking: {ratio: 0.1}", "first.yaml")
    page(tmp_path, "seed: 2\noptim: {lr: 0.2}", "second.yaml")
    mine = page(tmp_path, "extends: [first.yaml, second]\noptim.lr: 0.3")
    recipe = load_recipe(mine, ["optim.clip=4"])
    assert (recipe.seed, recipe.optim.lr, recipe.optim.clip, recipe.masking.ratio) == (2, 0.3, 4.0, 0.1)


def test_a_page_may_extend_one_of_distills_recipes_of_the_same_name(tmp_path: Path) -> None:
    mine = page(tmp_path, "extends: ibotpp\nseed: 5", "ibotpp.yaml")
    assert differences(load_recipe("ibotpp"), load_recipe(mine)) == ["seed: 0 -> 5"]


def test_a_name_is_not_inherited(tmp_path: Path) -> None:
    page(tmp_path, "name: parent", "base.yaml")
    assert load_recipe(tmp_path / "base.yaml").name == "parent"
    assert load_recipe(page(tmp_path, "extends: base")).name == "mine"
    assert load_recipe(tmp_path / "base.yaml", ["name=other"]).name == "other"


def test_extends_in_a_circle_is_refused(tmp_path: Path) -> None:
    page(tmp_path, "extends: b.yaml", "a.yaml")
    page(tmp_path, "\nextends: a.yaml", "b.yaml")
    message = refusal(tmp_path / "a.yaml")
    assert "circle" in message and "b.yaml:2" in message


def test_a_missing_parent_is_reported_where_it_is_named(tmp_path: Path) -> None:
    message = refusal(page(tmp_path, "seed: 1\nextends: ibottpp"))
    assert "mine.yaml:2: extends" in message and "did you mean pretrain/ibotpp" in message


def test_overrides_are_typed_like_pages() -> None:
    words = ["teacher.checkpoint=null", "evaluate.tasks=[knn, retrieval]", "student.image.extra.drop_path_rate=0.1"]
    words += ["data.views.global_scale=[0.5, 1]", "optim.lr=1e-3", "optim.steps=1e4", "run.name=007", "compile=true"]
    recipe = load_recipe("ibotpp", words)
    assert recipe.evaluate.tasks == ("knn", "retrieval")
    assert recipe.student.image.extra == {"drop_path_rate": 0.1}
    assert recipe.data.views.global_scale == (0.5, 1.0)
    assert (recipe.optim.lr, recipe.optim.steps, recipe.run.name, recipe.compile) == (1e-3, 10_000, "007", True)
    assert isinstance(recipe.optim.steps, int)


def test_free_arguments_of_a_model_are_joined_and_an_empty_section_clears_them(tmp_path: Path) -> None:
    base = page(tmp_path, "student: {image: {extra: {a: 1, b: {c: [x]}}}}")
    assert load_recipe(base, ["student.image.extra.a=2"]).student.image.extra == {"a": 2, "b": {"c": ["x"]}}
    assert load_recipe(base, ["student.image.extra={}"]).student.image.extra == {}


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("lr", "optim.lr"),
        ("optim.lrr", "optim.lr"),
        ("teacher.depth", "student.image.depth or student.text.depth"),
        ("student.imge.model", "student.image.model"),
        ("objectiv.patch.supervise", "objective.patch.supervise"),
        ("optim.warmup_step", "optim.warmup"),
    ],
)
def test_an_unknown_setting_names_the_one_that_was_meant(key: str, meant: str) -> None:
    assert f"command line: {key}: there is no such setting; did you mean {meant}?" in refusal("ibot", f"{key}=1")


def test_a_setting_like_no_other_lists_what_its_section_holds() -> None:
    assert "optim holds name, lr, schedule" in refusal("ibot", "optim.zzz=1")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optim.lr=abc", "'abc' is not a number"),
        ("optim.lr=true", "true is not a number"),
        ("optim.weight_decay=.nan", "nan is not a number"),
        ("optim.steps=1.5", "1.5 is not a whole number"),
        ("seed=null", "null is not a whole number"),
        ("compile=7", "7 is not true or false"),
        ("data.views.flip=.inf", "inf is not a number"),
        ("student.image.extra=3", "3 is not a section of further settings"),
        ("student.image.extra.rate=.nan", "nan is not a finite value"),
        ("evaluate.tasks=null", "null is not a list such as"),
        ("compile=maybe", "'maybe' is not true or false"),
        ("teacher.image_size=big", "'big' is not a whole number or null"),
        ("student.image.num_cls=3", "3 is not one of 1, 2"),
        ("student.image.num_cls=true", "true is not one of 1, 2"),
        ("objective.patch.supervise=visble", "not one of masked, visible, all, none; did you mean visible?"),
        ("evaluate.tasks=[kn]", "['kn'] is not a list such as [zero_shot_segmentation]: any of"),
        ("evaluate.tasks=knn", "'knn' is not a list such as"),
        ("data.views.global_scale=[0.5]", "[0.5] is not a list of 2 numbers"),
        ("data.views.global_scale=[1.0, 0.5]", "is not 0 < low <= high <= 1"),
        ("data.views.fixed=1025", "1025 is not between 0 and 1024"),
        ("teacher.cache_storage=int4", "not one of fp32, fp16, int8"),
        ("masking.ratio=1.5", "1.5 is not between 0 and 0.95"),
        ("student.image.model=resnet", "does not start with 'timm:'"),
        ("teacher.model=vit_tiny_patch16_224", "'vit_tiny_patch16_224' is not FAMILY:NAME"),
        ("teacher.model='timm:'", "'timm:' is not FAMILY:NAME"),
        ("optim=3", "is a section; set what it holds, such as optim.name"),
        ("optim.lr.x=3", "nothing is inside optim.lr, which takes a number"),
        ("run.folder=${oc.env:HOME}", "recipes do not refer to"),
        ("name=[", "not valid YAML"),
    ],
)
def test_a_bad_value_is_refused_with_its_key_its_place_and_what_was_expected(word: str, message: str) -> None:
    refused = refusal("ibot", word)
    assert message in refused
    assert refused.startswith(f"command line: {word.split('=')[0]}")


def test_a_mistake_in_a_page_is_reported_with_its_line(tmp_path: Path) -> None:
    message = refusal(page(tmp_path, "seed: 1\noptim:\n  steps: 3\n  lrr: 2\nmasking: {ratio: full}\nbatch_size: 3"))
    assert "mine.yaml:4: optim.lrr" in message
    assert "mine.yaml:5: masking.ratio: 'full' is not a number" in message
    assert "mine.yaml:6: batch_size" in message and "data.batch_size" in message


def test_values_out_of_range_are_all_reported_where_they_were_set_last(tmp_path: Path) -> None:
    message = refusal(page(tmp_path, "masking:\n  ratio: 2\noptim: {steps: 5}"), "optim.steps=-4")
    assert "mine.yaml:2: masking.ratio: 2.0 is not between 0 and 0.95" in message
    assert "command line: optim.steps: -4 is not positive" in message


def test_a_value_that_contradicts_its_neighbour_names_the_neighbours_place() -> None:
    message = refusal("ibot", "student.image.update=last_k")
    assert message.startswith("student.image.last_k") and "(student.image.update: command line)" in message


def test_settings_that_mean_nothing_together_raise_their_own_error_with_both_places() -> None:
    with pytest.raises(InvalidCombination) as caught:
        load_recipe("ibot", ["masking.ratio=0"])
    assert caught.value.keys == ("objective.patch.supervise", "masking.ratio")
    assert "masking.ratio is 0.0 (command line)" in str(caught.value)
    assert "objective.patch.supervise is 'masked' (recipes/pretrain/ibot.yaml:" in str(caught.value)
    assert not isinstance(caught.value, RecipeError)


FROZEN = "teacher.kind=frozen teacher.checkpoint=run "
TIMM = "teacher.kind=frozen teacher.model=timm:x teacher.weights=x "
FEATURES = FROZEN + "objective.patch.target=features "
ENSEMBLE = "teacher.kind=ensemble objective.patch.target=features teacher.members.one.checkpoint=x "
CLUSTERS = FROZEN + "objective.patch.target=clusters objective.prototypes.balance=sinkhorn "
STREAM = "data.source=dataset data.dataset.path=x data.dataset.streaming=true"
MEANINGLESS = [
    ("objective.patch.supervise=masked masking.ratio=0", "masking.ratio"),
    ("objective.patch.supervise=masked masking.image_share=0", "masking.ratio"),
    ("teacher.kind=frozen", "teacher.checkpoint"),
    (TIMM + "objective.patch.target=features teacher.checkpoint=run", "teacher.model"),
    ("teacher.checkpoint=run", "teacher.kind"),
    (FROZEN + "teacher.weights=x", "teacher.weights"),
    (TIMM, "objective.patch.target"),
    (TIMM + "objective.patch.target=features objective.cls.weight=1 data.views.num_local=2", "teacher.model"),
    ("objective.contrastive.temperature=null", "objective.contrastive.temperature"),
    ("objective.patch.target=features", "teacher.kind"),
    ("masking.how=drop", "objective.patch.supervise"),
    ("masking.how=drop objective.patch.supervise=visible objective.patch.weight=0", "masking.how"),
    ("masking.how=drop objective.patch.supervise=visible masking.image_share=0.5", "masking.image_share"),
    ("objective.cls.weight=1", "data.views.num_local"),
    ("student.image.init=teacher", "student.image.init"),
    ("student.text.init=teacher", "student.text.init"),
    ("student.head.init=teacher", "student.head.init"),
    ("student.text.kind=none", "objective.contrastive.weight"),
    ("student.text.kind=none objective.contrastive.weight=0 evaluate.tasks=[retrieval]", "evaluate.tasks"),
    ("objective.patch.visible_weight=0.5", "objective.patch.normalise"),
    ("student.text.kind=tips", "student.text.tokenizer"),
    ("objective.contrastive.weight=0 objective.patch.supervise=none", "objective"),
    ("data.source=dataset", "data.dataset.path"),
    ("optim.accumulate=3", "data.batch_size"),
    (FROZEN + "teacher.scope=head", "teacher.scope"),
    (FROZEN + "objective.features.gram_weight=1", "objective.features.gram_weight"),
    (FROZEN + "objective.features.standardise=phi_s", "objective.features.standardise"),
    (FEATURES + "objective.features.adapter_hidden=8", "objective.features.adapter"),
    (FEATURES + "objective.features.standardise=none objective.features.momentum=0.5", "objective.features.momentum"),
    (FEATURES + "objective.clusters.momentum=0.5", "objective.clusters.momentum"),
    (CLUSTERS + "objective.features.loss=smooth_l1", "objective.features.loss"),
    (CLUSTERS + "objective.prototypes.balance=centre", "objective.prototypes.balance"),
    (CLUSTERS + "student.head.init=teacher", "student.head.init"),
    (CLUSTERS + "objective.cls.weight=1 data.views.num_local=2", "student.head.shared"),
    ("objective.patch.target=clusters objective.prototypes.balance=sinkhorn", "teacher.kind"),
    ("teacher.match=features", "teacher.match"),
    ("teacher.image_size=48", "teacher.image_size"),
    (FROZEN + "teacher.match=pixels teacher.image_size=48", "teacher.match"),
    ("teacher.cache=here", "teacher.kind"),
    (FROZEN + "teacher.cache=here data.views.flip=0.5", "data.views.fixed"),
    (FROZEN + "teacher.cache=here data.source=dataset data.dataset.path=x", "data.views.fixed"),
    (FROZEN + "teacher.cache_storage=int8", "teacher.cache"),
    (FROZEN + "teacher.cache_components=8", "teacher.cache"),
    ("data.views.fixed=2", "data.views.fixed"),
    ("data.views.fixed=2 " + STREAM, "data.dataset.streaming"),
    (FEATURES + "teacher.drop=0.5", "teacher.drop"),
    (FEATURES + "teacher.balance=running_loss", "teacher.balance"),
    (FEATURES + "teacher.members.one.checkpoint=x", "teacher.members"),
    ("teacher.kind=ensemble objective.patch.target=features", "teacher.members"),
    (ENSEMBLE + "teacher.checkpoint=x", "teacher.checkpoint"),
    (ENSEMBLE + "teacher.cache_storage=int8", "teacher.cache_storage"),
    (ENSEMBLE + "objective.patch.target=prototypes", "objective.patch.target"),
    (ENSEMBLE + "objective.patch.supervise=none", "objective.patch.supervise"),
    (ENSEMBLE + "objective.patch.weight=0", "objective.patch.weight"),
    (ENSEMBLE + "objective.cls.weight=1 data.views.num_local=2", "objective.cls.weight"),
    (ENSEMBLE + "objective.features.loss=smooth_l1", "objective.features.loss"),
    (ENSEMBLE + "student.image.init=teacher", "student.image.init"),
    (ENSEMBLE + "student.head.init=teacher", "student.head.init"),
    (ENSEMBLE + "teacher.drop=0.5", "teacher.drop"),
    (ENSEMBLE + "teacher.trainable=[head]", "teacher.trainable"),
    (ENSEMBLE + "teacher.scope=head", "teacher.scope"),
    (ENSEMBLE + "teacher.members.one.model=timm:x", "teacher.members.one.model"),
    (ENSEMBLE + "teacher.members.two.weights=x", "teacher.members.two.model"),
    (ENSEMBLE + "teacher.members.one.cache=here data.views.flip=0.5", "teacher.members.one.cache"),
    (ENSEMBLE + "teacher.members.one.features.adapter_hidden=8", "teacher.members.one.features.adapter"),
    (ENSEMBLE + "teacher.members.one.match=pixels teacher.members.one.image_size=48", "teacher.members.one.match"),
]


def test_a_model_brings_its_own_weights_unless_some_are_named() -> None:
    words = (TIMM + "objective.patch.target=features").split()
    assert load_recipe("ibotpp", words).teacher.weights == "x"
    assert load_recipe("ibotpp", [*words, "teacher.weights=null"]).teacher.weights is None
    of_ours = "teacher.kind=frozen teacher.model=distill:run"
    assert load_recipe("ibotpp", of_ours.split()).objective.patch.target == "prototypes"


@pytest.mark.parametrize(("words", "key"), MEANINGLESS, ids=lambda text: text)
def test_every_rule_about_combinations_is_alive(words: str, key: str) -> None:
    with pytest.raises(InvalidCombination) as caught:
        load_recipe("ibotpp", words.split())
    assert key in caught.value.keys


def test_the_paper_grid_runs_on_clusters_of_a_teacher_without_a_head() -> None:
    grid = ("supervise=masked", "supervise=visible", "supervise=all")
    targets = (TIMM + "objective.patch.target=clusters objective.prototypes.balance=sinkhorn", FEATURES)
    for cell in (f"{target} objective.patch.{row}" for target in targets for row in grid):
        assert load_recipe("ibotpp", cell.split()).objective.patch.supervise in cell
    crops = "objective.cls.weight=1 data.views.num_local=2 student.head.shared=false"
    assert load_recipe("ibotpp", f"{targets[0]} {crops}".split()).objective.cls.weight == 1


def test_what_was_a_switch_once_keeps_its_meaning(tmp_path: Path) -> None:
    """Run folders of before hold pages with `standardise: true`."""
    for former, today in (("true", "mean_std"), ("false", "none")):
        recipe = load_recipe(
            page(tmp_path, f"extends: ibotpp\nobjective: {{features: {{standardise: {former}}}}}"),
            FEATURES.split(),
        )
        assert recipe.objective.features.standardise == today
    assert "none, mean_std, phi_s" in refusal("ibot", "objective.features.standardise=1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2", "mine.yaml:2: seed is set twice, first at"),
        ("optim: {lr: 1}\noptim: {clip: 1}", "optim is set twice"),
        ("optim: {lr: 1}\noptim.lr: 2", "mine.yaml:2: optim.lr is set twice"),
        ("seed: 1\n  lr: 2", "mine.yaml:2: not valid YAML"),
        ("- 1\n- 2", "a recipe is a list of `key: value` lines"),
        ("seed: &x 1\nname: *x", "aliases are not read"),
        ("name: !!python/name:os.system", "not valid YAML"),
        ("optim:", "optim: is a section"),
        ("extends: {a: 1}", "there is no such setting"),
        ("extends: 3", "extends takes the name or path"),
    ],
)
def test_a_page_that_is_no_plain_yaml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(page(tmp_path, text))


def test_words_that_are_no_settings_are_refused() -> None:
    assert "'masking' is not key=value" in refusal("ibot", "masking")


@pytest.mark.parametrize("text", ["1e-3", "yes", "no", "2024-01-01", "007", "null", "1:30", "~", "", "a: b", "é – ×"])
def test_any_text_survives_being_saved(tmp_path: Path, text: str) -> None:
    recipe = replace(load_recipe("ibot", [f"student.image.extra.rate={1e-5}"]), name=text)
    recipe = replace(recipe, student=replace(recipe.student, image=replace(recipe.student.image, extra={"word": text})))
    save_recipe(recipe, tmp_path / "deep" / "recipe.yaml")
    assert recipe_from_file(tmp_path / "deep" / "recipe.yaml") == recipe
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["recipe.yaml"]


def test_the_resolved_page_shows_every_setting() -> None:
    values, text = resolve("ibotpp"), recipe_text(load_recipe("ibotpp"))
    for key in all_keys():
        inner = values
        for name in key.split("."):
            inner = inner[name]
        assert f"{key.rsplit('.', 1)[-1]}:" in text
    assert len(all_keys()) > 80


def test_the_hash_hears_every_setting_but_those_of_the_run() -> None:
    recipe = load_recipe("ibot")
    assert content_hash(recipe) == content_hash(load_recipe("ibot", ["run.folder=elsewhere", "run.workers=7"]))
    assert content_hash(recipe) != content_hash(load_recipe("ibot", ["optim.steps=7"]))
    assert content_hash(load_recipe("ibot", ["optim.clip=2"])) == content_hash(load_recipe("ibot", ["optim.clip=2.0"]))


def test_differences_name_keys_and_both_values() -> None:
    old = load_recipe("ibot", ["student.image.extra.a=1", "optim.lr=0.0015"])
    new = load_recipe("ibot", ["optim.lr=0.5", "run.folder=elsewhere", "evaluate.tasks=[knn]"])
    assert differences(old, new, ignore=("run", "evaluate")) == [
        "student.image.extra.a: 1 -> not set",
        "optim.lr: 0.0015 -> 0.5",
    ]
    assert any(line.startswith("evaluate.tasks") for line in differences(old, new))
    assert differences(old, old) == []


def test_code_sees_dataclasses_and_plain_values_only() -> None:
    recipe = load_recipe("ibotpp")
    assert type(recipe.student) is Student and type(recipe.objective.patch) is Patch
    assert type(recipe.evaluate.tasks) is tuple and type(recipe.student.image.extra) is dict
    assert type(recipe.masking) is Masking and type(recipe_dict(recipe)["evaluate"]["tasks"]) is list


def test_every_choice_of_every_setting_can_be_set() -> None:
    """A choice may mean nothing beside another, but it is never refused for its type or its key."""
    kinds = {}
    for key in all_keys():
        section = Recipe
        for name in key.split(".")[:-1]:
            section = types_of(section)[name]
        kinds[key] = types_of(section)[key.rsplit(".", 1)[-1]]
    listed = {key: choices(kind) for key, kind in kinds.items() if choices(kind)}
    assert sum(map(len, listed.values())) > 40
    for turn in range(max(map(len, listed.values()))):
        chosen = {key: words[turn % len(words)] for key, words in listed.items()}
        words = [f"{key}=[{word}]" if "tuple" in str(kinds[key]) else f"{key}={word}" for key, word in chosen.items()]
        try:
            load_recipe("ibotpp", words)
        except InvalidCombination:
            pass
        except RecipeError as error:
            assert all("update=last_k" in line for line in str(error).split("\n"))
