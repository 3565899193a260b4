"""Any encoder of `distill teachers` is measured from the command line as a trained one is."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_released import RELEASED

from distill import cli
from distill.compose import load_pretrained
from distill.config import Data
from distill.eval.command import load_encoder
from distill.eval.in_training import evaluate_in_training
from distill.eval.probes import geometry_probes
from distill.eval.probes.dpt import DPTHead

CASES = {
    "timm": ("class token", "knn", "accuracy"),
    "transformers": ("images", "linear_segmentation", "miou"),
    "open_clip": ("folder", "zero_shot_segmentation", "miou"),
    "tips": ("pair", "retrieval", "image_to_text_r1"),
    "distill": ("run", "depth", "rmse_metres"),
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("family", CASES)
def test_an_encoder_of_every_family_is_measured_on_scenes(family: str, tmp_path: Path, capsys):
    kind, task, headline = CASES[family]
    given = RELEASED[family][kind](tmp_path / "released")
    words = [f"weights={given.weights}"] if given.weights else []
    assert cli.main(["eval", given.model, task, "num_images=16", *words]) == 0
    file = Path(capsys.readouterr().out.strip().splitlines()[-1].removeprefix("written to "))
    page = json.loads(file.read_text())
    assert page["model"] == given.model and page["licence"] == given.licence
    assert page["image_size"] == given.image_size and page["num_images"] == 16
    assert next(iter(page["values"])) == headline


def test_an_encoder_of_another_library_is_aligned_block_by_block_and_what_it_cannot_hide_is_said(tmp_path: Path):
    given = RELEASED["open_clip"]["folder"](tmp_path / "released")
    assert cli.main(["eval", given.model, "alignment", "num_images=4"]) == 0
    page = json.loads(next(tmp_path.glob("runs/eval/*/alignment.json")).read_text())
    assert list(page["values"]) == ["right", "right_value", "right_layer1"]
    assert any("nothing can be hidden from this tower" in note for note in page["notes"])


@pytest.mark.parametrize("family", ["transformers", "open_clip"])
def test_a_dpt_head_reads_the_blocks_of_other_libraries(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(geometry_probes, "CHANNELS", 8)
    given = RELEASED[family][CASES[family][0]](tmp_path / "released")
    assert cli.main(["eval", given.model, "depth", "num_images=4", "probe=dpt", "probe_steps=1"]) == 0


def released_decoder(path: Path, *, width: int) -> Path:
    """A depth decoder in the layout of the released archives."""
    torch.manual_seed(0)
    head = DPTHead(width=width, num_outputs=4, channels=8, relu=True)
    names = {name: name if name.startswith("head.") else f"dpt.{name}" for name in head.state_dict()}
    np.savez(path, **{names[name]: value.numpy() for name, value in head.state_dict().items()})
    return path


def test_a_released_decoder_is_scored_from_the_command_line(tmp_path: Path, capsys):
    given = RELEASED["tips"]["pair"](tmp_path / "released")
    width = load_pretrained(given.model, None).image.width
    file = released_decoder(tmp_path / "depth.npz", width=width)
    words = ["depth", "num_images=4", "probe=dpt", f"decoder={file}"]
    assert cli.main(["eval", given.model, *words]) == 0
    page = json.loads(next(tmp_path.glob("runs/eval/*/depth.json")).read_text())
    assert page["settings"]["decoder"] == str(file) and page["settings"]["num_train_images"] == 0
    other = released_decoder(tmp_path / "other.npz", width=2 * width)
    capsys.readouterr()
    assert cli.main(["eval", given.model, *words[:-1], f"decoder={other}"]) == 2
    told = capsys.readouterr().err
    assert f"tokens that are {2 * width} wide" in told and told.count("\n") == 1
    assert cli.main(["eval", given.model, "depth", f"decoder={file}"]) == 2
    assert "set evaluate.probe=dpt" in capsys.readouterr().err


def test_a_run_through_this_door_gets_what_its_encoder_gets_on_the_default_scenes(tmp_path: Path):
    given = RELEASED["distill"]["run"](tmp_path / "run")
    assert cli.main(["eval", given.model, "retrieval", "num_images=16"]) == 0
    (file,) = tmp_path.glob("runs/eval/*/*")
    encoder, recipe = load_encoder(tmp_path / "run")
    default = replace(recipe, data=Data(image_size=recipe.data.image_size))
    scores = evaluate_in_training(encoder, default, 16, ("retrieval",))
    assert {f"retrieval/{name}": value for name, value in json.loads(file.read_text())["values"].items()} == scores


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["knn"], "weights"),
        (["retrieval", "weights=random"], "has no text tower, and retrieval needs one"),
        (["agreement", "weights=random"], "measured of runs"),
        (["knn", "weights=random", "image_size=50"], "image_size=50"),
        (["knn", "weights=random", "optim.lr=1"], "no setting of an evaluation"),
        (["knn", "weights=nowhere.safetensors"], "does not exist"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(words: list[str], said: str, capsys):
    assert cli.main(["eval", "timm:test_vit", *words]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1


def test_what_is_neither_a_folder_nor_a_family_is_refused(capsys):
    assert cli.main(["eval", "nowhere", "knn"]) == 2
    assert "no FAMILY:NAME" in capsys.readouterr().err
