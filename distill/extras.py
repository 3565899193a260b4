"""Packages that come with an extra of distill: imported where they are used, and named where they are missing."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType

EXTRAS = {
    "transformers": "hf",
    "sentencepiece": "tips",
    "submitit": "slurm",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "onnx",
    "gradio": "demo",
}
"""The extra of pyproject.toml that each of them comes with. What `run.tracker` needs is accelerate's business."""


class MissingPackage(ValueError):
    """A package that an extra brings is not there."""


def optional_module(package: str, *, needed_by: str) -> ModuleType:
    """The package, imported. Raises MissingPackage that says who needs it and names its extra where it is missing.

    One that is there and fails to import is not missing: then the error says so too.
    """
    try:
        return importlib.import_module(package)
    except ImportError as problem:
        # A stand-in None in sys.modules and a package that is not there both bear its name.
        reason = "" if problem.name == package else f", which cannot be imported: {problem}"
        raise MissingPackage(f"{_needs(package, needed_by)}{reason}") from problem


def check_installed(package: str, *, needed_by: str) -> None:
    """As `optional_module`, before the time has come to import it. Raises MissingPackage where it is not."""
    if find_spec(package) is None:
        raise MissingPackage(_needs(package, needed_by))


@contextmanager
def quiet(transformers: ModuleType) -> Iterator[None]:
    """Without transformers' progress bars and reports of loading: whoever loads checks what matters of it."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _needs(package: str, needed_by: str) -> str:
    return f"{needed_by} needs the package {package} (extra: {EXTRAS[package]})"
