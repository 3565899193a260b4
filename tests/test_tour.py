"""The notebook of the tour, carried out with little training; and what is kept of it in the repository."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOK = REPOSITORY / "docs" / "tour.ipynb"
LARGEST = 300_000
"""Bytes, with the pictures: git keeps every version of it."""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """The cells of code after four steps of training."""
    pytest.importorskip("nbclient")
    folder = tmp_path_factory.mktemp("tour")
    file = folder / "ran.ipynb"
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "DISTILL_TOUR_STEPS": "4",
        "DISTILL_TOUR_PICTURES": "8",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(REPOSITORY / "docs" / "_making" / "tour.py"), "--to", str(file)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return cells_of_code(file)


def cells_of_code(notebook: Path) -> list[dict]:
    return [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def said(cells: list[dict]) -> str:
    texts = [output["text"] for cell in cells for output in cell["outputs"] if output["output_type"] == "stream"]
    return "".join("".join(text) for text in texts)


def num_pictures(cells: list[dict]) -> int:
    return sum("image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"])


@pytest.mark.timeout(600)
def test_the_tour_runs_from_a_recipe_to_weights_that_timm_and_open_clip_load(ran: list[dict]) -> None:
    text = said(ran)
    assert "finished: tour/run" in text
    assert "zero_shot_segmentation" in text and "zero_shot_value/miou" in text
    assert "timm/model.safetensors" in text and "open_clip/open_clip_model.safetensors" in text
    # The cell itself asserts that no token differs by more than 1e-5; measured: 0 to 2e-7.
    assert "largest difference of a token" in text
    assert num_pictures(ran) == 2


@pytest.mark.timeout(600)
def test_what_the_repository_keeps_of_the_tour_is_of_the_same_code_and_says_the_same_kinds_of_things(
    ran: list[dict],
) -> None:
    kept = cells_of_code(NOTEBOOK)
    assert [cell["source"] for cell in kept] == [cell["source"] for cell in ran]
    for ours, theirs in zip(kept, ran, strict=True):
        assert [each["output_type"] for each in ours["outputs"]] == [each["output_type"] for each in theirs["outputs"]]
    assert num_pictures(kept) == 2


def test_the_kept_notebook_is_small_and_names_no_machine() -> None:
    content = NOTEBOOK.read_text(encoding="utf-8")
    assert len(content.encode()) < LARGEST
    assert not any(place in content for place in ("/home/", "/root/", "/tmp/", str(REPOSITORY), "site-packages"))
    assert "trained   zero-shot segmentation mIoU" in said(cells_of_code(NOTEBOOK))
