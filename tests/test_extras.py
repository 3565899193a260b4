"""Optional packages: where one is missing, the message names it and the extra that brings it."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill.demo.serve import GRADIO
from distill.extras import EXTRAS, check_installed, optional_module

REPOSITORY = Path(__file__).resolve().parents[1]
WITHOUT_A_GUARD = ("test", "docs", "track")
"""Extras whose packages nothing in distill imports: of these trackers accelerate knows."""

NAMED = {"PIL": "pillow", "yaml": "pyyaml", "open_clip": "open_clip_torch"}
"""Packages by what they are called where they are imported."""
BROUGHT = ("starlette",)
"""What Gradio is made of, and hands over."""


def test_every_package_comes_with_its_extra_and_every_extra_is_known():
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    brought = {
        re.match(r"[\w-]+", package)[0]: extra
        for extra, packages in declared.items()
        if extra not in WITHOUT_A_GUARD
        for package in packages
    }
    assert brought == EXTRAS


def test_the_page_has_one_bound_wherever_it_is_declared():
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    bounds = {each for packages in declared.values() for each in packages if each.startswith("gradio")}
    assert bounds == {f"gradio>={GRADIO[0]}.{GRADIO[1]},<{GRADIO[0] + 1}"}


def test_every_package_that_is_imported_is_declared():
    """What another package happens to bring may be gone with its next version."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    declared = {re.match(r"[\w-]+", each)[0].lower().replace("-", "_") for each in project["dependencies"]}
    declared |= {*EXTRAS, *BROUGHT, "distill", "teachers", "recipes"}
    sources = [path for folder in ("distill", "teachers") for path in (REPOSITORY / folder).rglob("*.py")]
    sources = [path for path in sources if "scripts" not in path.parts]  # these run in whoever's process
    found = {name for path in sources for name in imported(ast.parse(path.read_text()))}
    unknown = {NAMED.get(name, name) for name in found - sys.stdlib_module_names} - declared
    assert not unknown and {"torch", "huggingface_hub", "pyarrow"} <= found


def imported(tree: ast.Module) -> Iterator[str]:
    """Top-level packages."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]


def test_every_package_is_looked_for_somewhere_and_none_behind_its_back():
    sources = [path for folder in ("distill", "teachers") for path in (REPOSITORY / folder).rglob("*.py")]
    texts = {path: path.read_text() for path in sources if path.name != "extras.py"}
    assert len(texts) > 100
    for package in EXTRAS:
        assert any(f'"{package}"' in text and "distill.extras" in text for text in texts.values()), package
    assert not [path for path, text in texts.items() if re.search(r"except (ImportError|ModuleNotFoundError)", text)]


@pytest.mark.parametrize("package", EXTRAS)
def test_a_missing_package_is_named_with_its_extra(package: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, package, None)
    said = rf"^a thing needs the package {package} \(extra: {EXTRAS[package]}\)$"
    for look in (optional_module, check_installed):
        with pytest.raises(ValueError, match=said):
            look(package, needed_by="a thing")


def test_a_package_that_fails_to_import_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "gradio.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gradio", raising=False)
    check_installed("gradio", needed_by="a thing")
    with pytest.raises(ValueError, match=r"\(extra: demo\), which cannot be imported: No module named 'not_there"):
        optional_module("gradio", needed_by="a thing")


def test_a_package_that_is_there_is_imported():
    assert optional_module("transformers", needed_by="a thing") is sys.modules["transformers"]
