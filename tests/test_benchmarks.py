"""The benchmark of the training step: its instruments against things of known cost, and a tiny run of all of it."""

import json
from pathlib import Path

import pytest
import torch
from tiny_runs import own_accelerator

from benchmarks import step_time, teacher_cache, zero_shot_cost
from benchmarks.kernels import PatchLoss, PatchSizes
from benchmarks.measure import PHASES
from benchmarks.meter import Spent, count_flops, interleaved, peak_bytes, ratio
from distill.config import load_recipe
from distill.train.loop import build_accelerator

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The record of one tiny benchmark, read back from its file."""
    folder = tmp_path_factory.mktemp("results")
    threads = torch.get_num_threads()
    with own_accelerator():
        step_time.main(["--tiny", "--repeats", "1", "--name", "tiny", "--to", str(folder)])
    torch.set_num_threads(threads)
    assert (folder / "tiny.md").read_text().startswith("# tiny")
    return json.loads((folder / "tiny.json").read_text())


def numbers(record: dict, *words: str) -> dict:
    """The numbers of the one table whose title has these words."""
    (table,) = [table for table in record["tables"] if all(word in table["title"] for word in words)]
    return table["numbers"]


def test_peak_memory_counts_temporaries_to_the_byte():
    def work() -> torch.Tensor:
        first = torch.zeros(1000, dtype=torch.float32)
        second = first + 1  # 8,000 bytes are alive here
        del first
        return second.double()  # 4,000 and 8,000

    assert peak_bytes(work, CPU) == 12_000


def test_flops_of_accumulating_products_are_counted_also_inside_the_patch_loss():
    left, right, total = torch.ones(3, 5), torch.ones(5, 7), torch.zeros(3, 7)
    assert count_flops(lambda: total.addmm_(left, right)) == 2 * 3 * 5 * 7
    with own_accelerator():
        loss = PatchLoss(PatchSizes(2, 4, 8, 8, 4, 16), build_accelerator(load_recipe("smoke", ["run.device=cpu"])))
        chunked = count_flops(lambda: loss.chunked("all"))
        written_out = count_flops(lambda: loss.written_out("all"))
    assert chunked == written_out > 0


def test_rounds_are_interleaved_and_ratios_are_taken_within_a_round():
    order = []
    interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=3, device=CPU)
    assert order == ["a", "b"] * 3
    slowing_down = [Spent(wall=0.0, cpu=seconds) for seconds in (1.0, 2.0, 4.0)]
    twice = [Spent(wall=0.0, cpu=2 * one.cpu) for one in slowing_down]
    found = ratio(twice, slowing_down, CPU)
    assert (found.median, found.low, found.high) == (2.0, 2.0, 2.0)


def test_every_recipe_is_measured_and_every_phase_is_seen(tiny):
    speed, phases = numbers(tiny, "small world", "speed"), numbers(tiny, "small world", "where the time goes")
    assert set(speed) == set(phases) == {"ibot", "ibotpp", "vanilla"}
    for name, parts in phases.items():
        assert set(parts) == {"data", *PHASES}
        assert all(seconds > 0 for phase, seconds in parts.items() if phase not in ("rest", "follow")), (name, parts)


def test_steps_cost_more_than_the_towers_in_them(tiny):
    overhead = numbers(tiny, "small world", "overhead")
    for name, found in overhead.items():
        flops = found["flops"]
        assert flops["towers"] < flops["with_heads"] < flops["step"] * 1.01, name
        assert found["step_over_towers"]["median"] > 1.0, name


def test_head_only_ema_holds_one_encoder_less(tiny):
    found = numbers(tiny, "Head-only EMA")
    assert 0 < found["head_over_full"]["parameters_saved"] < 0.5
    assert found["ViT-S, head-only EMA"]["held_bytes"] < found["ViT-S"]["held_bytes"]


def test_the_chunked_patch_loss_and_the_written_out_one_agree(tiny):
    found = numbers(tiny, "supervise")
    for supervise in ("masked", "all"):
        losses = [found[f"{supervise}, {way}"]["loss"] for way in ("chunked", "written out")]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_the_record_states_its_conditions_and_names_no_folder_of_this_machine(tiny):
    assert {"hardware", "python", "torch", "timm", "open_clip_torch", "accelerate", "commit", "threads"} <= set(
        tiny["conditions"]
    )
    assert set(tiny["recipes"]) == {"ibot", "ibotpp", "vanilla", "ViT-S", "ViT-S, head-only EMA", "ViT-S, accumulate 4"}
    recipes = json.dumps([tiny["recipes"], tiny["changes"]])
    assert str(Path.home()) not in recipes and "/tmp" not in recipes


def test_the_gpu_section_works_with_its_compilation_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(step_time, "VIT_BASE", [*step_time.VIT_BASE, "compile=false"])
    with own_accelerator():
        bench = step_time.Bench(step_time.parse(["--tiny", "--repeats", "1"]), tmp_path)
        bench.gpu()
        bench.close()
    assert bench.cases["ViT-B"].recipe.student.image.model == "timm:vit_base_patch14_reg1_tipsv2"
    shares = bench.tables[-1].numbers
    assert set(shares) == set(bench.cases)
    assert all(0 < found["share_of_peak"] < 1 for found in shares.values())


def test_the_benchmark_of_the_cache_measures_every_storage_and_says_what_it_costs(tmp_path):
    threads = torch.get_num_threads()
    with own_accelerator():
        teacher_cache.main(["--tiny", "--repeats", "1", "--name", "cache", "--to", str(tmp_path)])
    torch.set_num_threads(threads)
    text = (tmp_path / "cache.json").read_text()
    record = json.loads(text)
    speed, cost = numbers(record, "live and from a cache"), numbers(record, "Writing")
    assert set(speed) == {"live", *cost} and set(cost) == {"fp32", "fp16", "int8"}
    assert all(found["times_live"]["median"] > 0 for found in speed.values())
    assert cost["fp32"]["bytes_per_view"] > cost["fp16"]["bytes_per_view"] > cost["int8"]["bytes_per_view"]
    assert "SCRATCH" in text and "/tmp" not in json.dumps(record["changes"])


def test_the_benchmark_of_zero_shot_segmentation_compares_it_with_the_bare_pass(tmp_path):
    threads = torch.get_num_threads()
    zero_shot_cost.main(["--tiny", "--repeats", "1", "--name", "zero_shot", "--to", str(tmp_path)])
    torch.set_num_threads(threads)
    record = json.loads((tmp_path / "zero_shot.json").read_text())
    cost, parts = numbers(record, "12 classes"), numbers(record, "Where the time goes")
    for mode in ("whole", "slide"):
        assert cost[mode]["over_bare"]["median"] > 1.0
        assert set(parts[mode]) == {"reading", "resizing", "features", "classes", "counting"}
    page = (tmp_path / "zero_shot.md").read_text()
    assert "random weights" in page and "Recipes" not in page


@pytest.mark.gpu
def test_the_gpu_section_runs_compiled_on_a_gpu():
    with own_accelerator():
        record = step_time.main(["--gpu", "--tiny", "--repeats", "1"])
    assert any("utilisation" in table.title for table in record.tables)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_asking_for_a_gpu_where_there_is_none_ends_with_a_sentence(capsys):
    with pytest.raises(SystemExit):
        step_time.parse(["--gpu"])
    assert "needs a CUDA device" in capsys.readouterr().err
