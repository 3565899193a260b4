"""The site builds without a warning, asks for nothing from elsewhere, and says nothing that does not exist."""

import os
import re
import shlex
import subprocess
import sys
from argparse import ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Iterator
from dataclasses import is_dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import get_origin
from urllib.parse import unquote, urldefrag

import pytest
import yaml
from tiny_runs import trained

from distill.cli import AGREEMENT, TASKS, build_parser, parse
from distill.config import InvalidCombination, Recipe, load_recipe, page_path, recipe_from_file, recipe_from_words
from distill.config import tree as settings_tree
from distill.config.pages import catalogue
from distill.eval.command import evaluation_words
from distill.publish.card import loading
from distill.show.command import Common
from distill.show.sheet import Paper
from distill.show.views import VIEWS
from distill.show.words import settings_of, split_words
from distill.study.grid import read_page

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = sorted((REPOSITORY / "docs").rglob("*.md"))
PUBLISHING = REPOSITORY / "docs" / "publishing.md"
TROUBLESHOOTING = REPOSITORY / "docs" / "troubleshooting.md"
QUOTING = [*PAGES, REPOSITORY / "README.md"]
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
SETTING = re.compile(r"[a-z_0-9]+(\.[a-zA-Z_0-9]+)+")
SECTIONS = tuple(name for name, kind in settings_tree.types_of(Recipe).items() if is_dataclass(kind))
OF_ENCODERS = ("weights=", "image_size=")


def names(paths: list[Path]) -> list[str]:
    return [path.relative_to(REPOSITORY).as_posix() for path in paths]


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in FENCE.findall(page.read_text(encoding="utf-8")) if found == language]


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def commands(page: Path) -> Iterator[list[str]]:
    """The words after `distill` of every command in a shell block; comments, variables, redirections left out."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.partition(" >")[0], comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if "-m" in words and words[words.index("-m") + 1] == "distill":
                words = words[words.index("-m") + 1 :]
            if words and Path(words[0]).name == "distill":
                yield words[1:]


ALL_COMMANDS = [(page.name, words) for page in QUOTING for words in commands(page)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="mkdocs-material is not here (extra: docs)")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Links(HTMLParser):
    """What a page links to, what it loads, and the places in it that can be linked to."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attributes if value is not None}
        self.places |= {found["id"]} if "id" in found else set()
        self.places |= {found["name"]} if tag == "a" and "name" in found else set()
        if tag == "a" and "href" in found:
            self.targets.append(found["href"])
        if tag == "link" and found.get("rel") in ("stylesheet", "icon", "preconnect"):
            self.loaded.append(found["href"])
        if tag in ("script", "img", "iframe") and "src" in found:
            self.loaded.append(found["src"])


def read_site(folder: Path) -> dict[Path, Links]:
    found = {}
    for page in folder.rglob("*.html"):
        if page.name != "404.html":  # its addresses are the server's
            found[page.resolve()] = Links()
            found[page.resolve()].feed(page.read_text(encoding="utf-8"))
    return found


def test_the_site_builds_strictly_and_every_link_within_it_leads_somewhere(site: Path) -> None:
    pages = read_site(site)
    assert len(pages) > 20
    wrong = []
    for page, links in pages.items():
        for target in links.targets + links.loaded:
            if re.match(r"[a-z]+:", target):
                continue
            path, place = urldefrag(unquote(target))
            file = (page.parent / path).resolve() if path else page
            if not file.is_file() or (place and file in pages and place not in pages[file].places):
                wrong.append(f"{page.relative_to(site)}: {target}")
    assert not wrong


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = read_site(site)
    assert all(not re.match(r"(?:https?:)?//", address) for links in pages.values() for address in links.loaded)
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?https?:|@import", sheet.read_text(encoding="utf-8")), sheet


def test_every_command_and_recipe_is_in_the_reference(site: Path) -> None:
    reference = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    assert all(f"distill {name}" in reference for name in leading_words(build_parser()))
    assert all(name in (site / "reference" / "recipes.html").read_text(encoding="utf-8") for name in catalogue())


def leading_words(parser: ArgumentParser, before: str = "") -> list[str]:
    """The words of all commands and of their actions: `study`, `study run` …"""
    found = []
    for action in parser._actions:
        for word, inner in action.choices.items() if isinstance(action, _SubParsersAction) else ():
            found += [f"{before}{word}", *leading_words(inner, f"{before}{word} ")]
    return found


@pytest.mark.parametrize(
    ("page", "words"), ALL_COMMANDS, ids=[f"{page}: {' '.join(words)}" for page, words in ALL_COMMANDS]
)
def test_a_quoted_command_is_one_that_distill_takes(page: str, words: list[str]) -> None:
    options = parse(words)
    if words[0] in ("train", "cache", "recipes") and "recipe" in options:
        # `--to` is where the cache lies.
        place = ["teacher.cache=there"] if words[0] == "cache" else []
        check_recipe(options.recipe, [*place, *options.words])
    if words[0] == "study" and "study" in options:
        check_study(options)
    if words[0] == "eval" and "path" in options:
        check_evaluation(options)
    if words[0] == "show":
        places, settings = split_words(options.words)
        assert places
        settings_of(settings, (Common, Paper, VIEWS[options.what].settings), what=options.what)


def check_evaluation(options: Namespace) -> None:
    """Tasks and suites exist; without a suite there is one task. What else is bare is an encoder."""
    bare = [word for word in options.words if "=" not in word]
    if options.suite is None:
        assert len(bare) == 1 and bare[0] in (*TASKS, AGREEMENT)
    else:
        page_path(options.suite, kind="suite")
        assert all("/" in word or ":" in word for word in bare)
    settings = [word for word in options.words if "=" in word and not word.startswith((*OF_ENCODERS, "side="))]
    recipe_from_words(evaluation_words(settings))


def check_recipe(name: str, words: list[str]) -> None:
    """A page that a reader is told to write has its settings checked alone."""
    if name.endswith(".yaml"):
        assert all(setting_exists(word.partition("=")[0]) for word in words)
    else:
        load_recipe(name, words)


def check_study(options: Namespace) -> None:
    if not options.study.endswith(".yaml"):
        page = read_page(options.study)
        assert options.scale is None or options.scale in page.scales
        cells = {cell.name for cell in page.cells}
        assert set(vars(options).get("cell", [])) <= cells
    assert all(setting_exists(word.partition("=")[0]) for word in vars(options).get("words", []))


def test_many_commands_are_quoted() -> None:
    assert len(ALL_COMMANDS) > 60
    assert {words[0] for _, words in ALL_COMMANDS} == {*leading_words(build_parser())} - {
        name for name in leading_words(build_parser()) if " " in name
    }


@pytest.mark.parametrize("page", QUOTING, ids=names(QUOTING))
def test_commands_named_in_a_sentence_exist(page: Path) -> None:
    known = [*leading_words(build_parser()), "eval list"]
    for text in INLINE.findall(prose(page)):
        words = text.split()
        if words[:1] == ["distill"] and len(words) > 1 and not words[1].startswith("-"):
            assert words[1] in known, text
            if any(name.startswith(f"{words[1]} ") for name in known) and len(words) > 2 and words[2].islower():
                assert f"{words[1]} {words[2]}" in known or words[1] == "eval", text


def setting_exists(key: str) -> bool:
    """Whether a dotted key leads to a setting or a section; names in capitals, and those of members, are free."""
    kind, left = Recipe, key.split(".")
    while left:
        name = left.pop(0)
        if name == "*":
            return True
        if not is_dataclass(kind):
            return get_origin(kind) is dict
        kinds = settings_tree.types_of(kind)
        if name not in kinds:
            return False
        kind = kinds[name]
        entries = settings_tree.entries_of(kind)
        if entries is not None and left:
            left.pop(0)
            kind = entries
    return True


def test_every_task_study_and_module_has_its_place_in_the_pages(site: Path) -> None:
    evaluation, studies = ((REPOSITORY / "docs" / f"{name}.md").read_text() for name in ("evaluation", "studies"))
    assert [task for task in (*TASKS, AGREEMENT) if f"| `{task}` |" not in evaluation] == []
    assert [name for name in catalogue("study") if f"| `{name}` |" not in studies] == []
    reference = "".join(page.read_text(encoding="utf-8") for page in (site / "reference").glob("*.html"))
    packages = [file.parent.relative_to(REPOSITORY) for file in REPOSITORY.glob("distill/*/__init__.py")]
    modules = {".".join(each.parts) for each in packages} - {"distill.cli"}  # whose help is a page of its own
    assert len(modules) > 10 and sorted(name for name in modules if f'id="{name}' not in reference) == []


SAID_ELSEWHERE = ("distill: command not found", "Killed")
"""By the shell."""


def test_messages_in_the_headings_of_troubleshooting_are_in_the_code() -> None:
    code = "".join(
        file.read_text() for folder in ("distill", "teachers") for file in REPOSITORY.glob(f"{folder}/**/*.py")
    )
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # texts that go on in the next line
    headings = [line for line in TROUBLESHOOTING.read_text(encoding="utf-8").splitlines() if line.startswith("### ")]
    quoted = [text for line in headings for text in INLINE.findall(line) if text not in SAID_ELSEWHERE]
    assert len(quoted) > 30
    # Between the parts that differ; what stands between quotes or braces in the code differs too.
    parts = [part.strip(" '?:)") for text in quoted for part in re.split(r"…|'|: |; | \(", text)]
    assert [part for part in parts if part not in code] == []


@pytest.mark.parametrize("page", QUOTING, ids=names(QUOTING))
def test_settings_named_in_a_sentence_exist(page: Path) -> None:
    for text in INLINE.findall(prose(page)):
        key = text.split("=")[0]
        if SETTING.fullmatch(key) and key.split(".")[0] in SECTIONS:
            assert setting_exists(key), text
            value = text.partition("=")[2]
            assert not re.fullmatch(r"[a-z0-9_.]{2,}|\[[a-z_, ]+\]", value) or takes(key, value), text


def takes(key: str, value: str) -> bool:
    """Whether a setting takes the value, whatever the others are."""
    try:
        recipe_from_words([f"{key}={value}"])
    except InvalidCombination:
        return True
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("page", QUOTING, ids=names(QUOTING))
def test_yaml_in_a_page_is_of_recipes_or_studies_that_load(page: Path, tmp_path: Path) -> None:
    for number, text in enumerate(blocks(page, "yaml")):
        file = tmp_path / f"page{number}.yaml"
        file.write_text(text, encoding="utf-8")
        if "scales" in yaml.safe_load(text):
            read_page(str(file))
            continue
        try:
            recipe_from_file(file)
        except InvalidCombination:
            # A part of a page, whose other settings stand elsewhere.
            assert "extends" not in text


@pytest.mark.parametrize("page", QUOTING, ids=names(QUOTING))
def test_files_of_the_repository_that_a_page_names_are_there(page: Path) -> None:
    for text in INLINE.findall(prose(page)):
        if re.fullmatch(r"(recipes|benchmarks|distill|tests)/[\w/.]+", text):
            assert (REPOSITORY / text).exists(), text
    for name in re.findall(r"--config_file (\S+)", page.read_text(encoding="utf-8")):
        assert page_path((REPOSITORY / name.strip("`")).as_posix(), kind="launch").is_file()


def test_python_in_the_pages_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """From top to bottom, beside a run of the recipe `smoke` of the size that the pages speak of."""
    trained(tmp_path / "runs" / "smoke-seed0")
    monkeypatch.chdir(tmp_path)
    found = [(page, text) for page in QUOTING if page != PUBLISHING for text in blocks(page, "python")]
    assert found
    for page, text in found:
        exec(compile(text, str(page), "exec"), {})
    assert "all" in capsys.readouterr().out


def test_published_weights_are_loaded_by_the_code_of_the_card() -> None:
    """Which tests/test_card.py runs in every format."""
    words = {"picture": "photo.jpg", "side": 48, "length": 40, "interpolation": "BICUBIC"}
    imports, settled = loading.OF_A_FOLDER
    words |= {"imports": imports, "settled": settled.format(place="published/ibotpp/open_clip")}
    tokenize = loading.TOKENIZE["open_clip"].format(place="", **words)
    expected = [
        loading.TIMM.format(place="published/ibotpp/timm", outputs=loading.OF_TIMM["transformer"], **words),
        loading.OPEN_CLIP.format(place="published/ibotpp/open_clip", **words),
        loading.TRANSFORMERS.format(place="published/tips/transformers", **words),
        loading.TRANSFORMERS_VISION.format(place="published/ibotpp/transformers", **words),
        (loading.ONNX + loading.ONNX_TEXT).format(place="published/ibotpp/onnx", tokenize=tokenize, **words),
    ]
    assert blocks(PUBLISHING, "python") == [f"{code.rstrip()}\n" for code in expected]
