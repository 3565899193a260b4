"""Imports go one way: who may know whom, read from the source."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
FOLDERS = ("distill", "teachers")

FORBIDDEN = {
    "distill.config": ("distill.", "teachers", "torch", "timm", "open_clip", "datasets", "transformers", "numpy"),
    "distill.catalogue": (
        "distill.",
        "teachers",
        "torch",
        "timm",
        "open_clip",
        "datasets",
        "transformers",
        "numpy",
        "scipy",
    ),
    "distill.contracts": ("distill.", "teachers"),
    "distill.data": ("distill.encoders", "distill.objective", "distill.train", "distill.eval", "teachers"),
    "distill.encoders": ("distill.data", "distill.objective", "distill.train", "distill.eval", "teachers"),
    "distill.cache": ("distill.objective", "distill.eval", "distill.study", "teachers"),
    "distill.objective": ("distill.data", "distill.train", "distill.eval", "teachers"),
    "distill.train": ("teachers",),
    "distill.eval": ("teachers",),
    "distill.study": ("teachers",),
    "distill.captioning": ("distill.encoders", "distill.objective", "distill.eval", "distill.study", "teachers"),
    "distill.publish": ("distill.study", "teachers"),
    "distill.show": ("distill.study", "distill.demo", "teachers"),
    "distill.demo": ("distill.study", "teachers"),
    "distill.trained": ("distill.compose", "distill.eval", "distill.data", "teachers"),
    "distill.compose": ("distill.eval", "distill.data"),
    "teachers": ("distill.data", "distill.objective", "distill.train", "distill.eval"),
}
"""What a package must not import, whatever the depth; its own modules are always allowed."""

TOPS = (
    "distill.study",
    "distill.captioning",
    "distill.inspection",
    "distill.publish",
    "distill.show",
    "distill.demo",
    "distill.cli",
    "distill.__main__",
)
"""What stands above the library: only the command line and what stands there itself may import it."""

BELOW_COMPOSE = ("distill.config", "distill.contracts", "distill.data", "distill.encoders", "distill.objective")
ALONE = (
    *("distill.trained", "distill.train.checkpoint", "distill.train.learner"),
    *(f"distill.cache.{name}" for name in ("storage", "basis", "index", "shards", "reader")),
)
"""What compose needs of the trainer and of the cache; it must not need compose in turn."""


def name_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, ast.Module]:
    paths = [path for folder in FOLDERS for path in sorted((REPOSITORY / folder).rglob("*.py"))]
    return {name_of(path): ast.parse(path.read_text()) for path in paths}


def imports(tree: ast.AST, *, of: str) -> Iterator[str]:
    """Every module that is imported somewhere in a tree, in functions too; names of packages are resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{of} imports relatively"
            yield node.module
            members = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (member for member in members if member in modules())


def within(module: str, package: str) -> bool:
    """Whether a module is the package or inside of it; `distill.` is everything inside of distill."""
    return module == package or module.startswith(package if package.endswith(".") else f"{package}.")


def test_all_modules_are_looked_at():
    found = modules()
    assert len(found) > 60
    for package in [*FORBIDDEN, *BELOW_COMPOSE, *ALONE, *TOPS]:
        assert any(within(module, package) for module in found), package
    assert {"distill.compose", "torch"} <= set(imports(found["distill.train.loop"], of="distill.train.loop"))


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_does_not_import_what_is_above_it(package: str):
    wrong = [
        f"{module} imports {imported}"
        for module, tree in modules().items()
        if within(module, package)
        for imported in imports(tree, of=module)
        if any(within(imported, forbidden) for forbidden in FORBIDDEN[package]) and not within(imported, package)
    ]
    assert not wrong


def test_compose_alone_imports_teachers():
    knowing = {
        module
        for module, tree in modules().items()
        if not within(module, "teachers") and any(within(found, "teachers") for found in imports(tree, of=module))
    }
    assert knowing and all(within(module, "distill.compose") for module in knowing)


@pytest.mark.parametrize("package", [*BELOW_COMPOSE, *ALONE, "teachers"])
def test_what_compose_is_made_of_does_not_import_compose(package: str):
    wrong = [
        module
        for module, tree in modules().items()
        if within(module, package) and any(within(found, "distill.compose") for found in imports(tree, of=module))
    ]
    assert not wrong


@pytest.mark.parametrize("top", TOPS)
def test_the_library_knows_nothing_of_what_stands_on_it(top: str):
    wrong = [
        f"{module} imports {imported}"
        for module, tree in modules().items()
        if not within(module, top) and not any(within(module, other) for other in TOPS)
        for imported in imports(tree, of=module)
        if within(imported, top)
    ]
    assert not wrong


def test_no_module_imports_itself_in_a_circle():
    graph = {
        module: {found for node in tree.body for found in imports(node, of=module) if found in modules()} - {module}
        for module, tree in modules().items()
    }
    # A package's __init__ runs before its modules, but what it imports from itself is no circle of ours.
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for imported in sorted(graph[module]):
                if not within(module, imported):
                    visit(imported, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def is_what_torch_raises(node: ast.AST) -> bool:
    """Whether it imports nothing but the error of `torch.load` where it refuses to unpickle."""
    return isinstance(node, ast.ImportFrom) and [alias.name for alias in node.names] == ["UnpicklingError"]


def test_nothing_in_the_library_unpickles_or_evaluates_text():
    dangerous = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve"}
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom) and not is_what_torch_raises(node):
                assert not dangerous & set(imports(node, of=module)), module
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "torch.save"), f"{module}:{node.lineno} calls {called}"
                if called == "torch.load":
                    words = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                    assert words.get("weights_only") == "True", f"{module}:{node.lineno} may unpickle"
                if called == "getattr":
                    assert len(node.args) == 2, f"{module}:{node.lineno} has a getattr default"
