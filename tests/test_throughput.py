"""The benchmark against lightly-train, which a stand-in plays: its window of steps, and a tiny run of all sides."""

import ast
import json
import shlex
import sys
from pathlib import Path

import pytest
import torch
from tiny_runs import own_accelerator

from benchmarks import distill_throughput
from benchmarks.meter import Spent
from benchmarks.sides import LIGHTLY_SIDE, Window

STAND_IN = """
from lightly_train._methods import method_helpers

def pretrain(*, trainer_args, **settings):
    assert settings["num_workers"] == 0 and settings["precision"] == "32-true" and settings["accelerator"] == "cpu"
    assert settings["method_args"]["teacher_args"] == {"pretrained": False}
    print("much that is no JSON")
    method = method_helpers.get_method_cls(settings["method"])()
    for _ in range(trainer_args["max_steps"]):
        sum(range(200_000))
        method.on_train_batch_end()
"""
METHODS = """
class Method:
    def on_train_batch_end(self): ...

def get_method_cls(name):
    assert name == "distillationv3"
    return Method
"""


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that has a package of lightly-train's name, with the few doors the benchmark goes through."""
    folder = tmp_path_factory.mktemp("stand_in")
    files = {
        "lightly_train/__init__.py": STAND_IN,
        "lightly_train/_methods/__init__.py": "",
        "lightly_train/_methods/method_helpers.py": METHODS,
        "lightly_train-0.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: lightly-train\nVersion: 0.0\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(folder))} exec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    return python


@pytest.fixture(scope="module")
def record(interpreter: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("results")
    threads = torch.get_num_threads()
    words = ["--tiny", "--repeats", "1", "--steps", "2", "--lightly-python", str(interpreter)]
    with own_accelerator():
        distill_throughput.main([*words, "--name", "tiny", "--to", str(folder)])
    torch.set_num_threads(threads)
    assert (folder / "tiny.md").read_text().startswith("# tiny")
    return json.loads((folder / "tiny.json").read_text())


def test_every_side_is_timed_and_compared_with_both_others(record: dict):
    (table,) = record["tables"]
    ours = {"distill, live", "distill, cached fp32", "distill, cached int8", "distill, 75 % dropped"}
    assert set(table["numbers"]) == {"bare torch loop", "lightly-train distillationv3", *ours}
    for side, found in table["numbers"].items():
        assert [len(steps) for steps in found["rounds"]] == [2], side
        assert found["images_per_cpu_second"] > 0 and found["over_bare"]["median"] > 0
        assert found["over_lightly"]["median"] > 0
    itself = table["numbers"]["lightly-train distillationv3"]["over_lightly"]
    assert itself == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert 0 < table["numbers"]["bare torch loop"]["teacher_over_step"]["median"] < 1


def test_the_record_states_both_environments_and_names_no_scratch_folder(record: dict):
    assert "lightly-train 0.0" in record["conditions"]["lightly-train's side"]
    assert {"hardware", "torch", "timm", "commit", "threads"} <= set(record["conditions"])
    assert record["recipes"]["distill, live"]["teacher"]["kind"] == "frozen"
    assert "--lightly-python PATH" in record["command"]
    assert "/tmp" not in json.dumps([record["recipes"], record["changes"]])


def test_a_window_counts_whole_steps_and_leaves_out_both_ends():
    ends = [(10.0 * number, float(number * number)) for number in range(8)]
    assert Window(steps=3, warm_up=2, ahead=3).cut(ends) == [
        Spent(wall=10.0, cpu=3.0),
        Spent(wall=10.0, cpu=5.0),
        Spent(wall=10.0, cpu=7.0),
    ]
    with pytest.raises(ValueError, match="9 steps were asked for and 8 were made"):
        Window(steps=4, warm_up=2, ahead=3).cut(ends)


@pytest.mark.parametrize("python", [sys.executable, "/nowhere/python"])
def test_an_interpreter_without_lightly_train_is_one_sentence(python: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        distill_throughput.parse(["--lightly-python", python])
    told = capsys.readouterr().err
    assert "--lightly-python: " in told and "Traceback" not in told


def test_lightlys_side_needs_nothing_of_ours():
    """Its interpreter lives in another environment."""
    nodes = list(ast.walk(ast.parse(LIGHTLY_SIDE.read_text())))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {"lightly_train", "torch"} <= imported
    assert not {name.split(".")[0] for name in imported} & {"distill", "teachers", "benchmarks"}
