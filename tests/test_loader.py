"""Batches: the same for any number of ranks, threads and restarts."""

import functools
import json
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import datasets
import pytest
import torch
from tiny_data import (
    COLUMNS,
    TAR_COLUMNS,
    letters,
    picture_bytes,
    rows,
    spelled,
    write_folder,
    write_parquet,
    write_tars,
)

from distill.config import ClsLoss, Columns, Contrastive, Data, Dataset, Masking, Objective, Optim, Recipe, Run, Views
from distill.contracts import Batch
from distill.data.loader import BatchStream, merge_states
from distill.data.sources import open_source
from distill.data.streams import lane_count

STEPS = 5
WRITERS = {"parquet": write_parquet, "imagefolder": write_folder, "webdataset": write_tars}
STREAMED = [f"{kind}, streamed" for kind in WRITERS]
SOURCES = ["scenes", *WRITERS, *STREAMED]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Callable[[str], Data]:
    """Settings of the data for a name in SOURCES: 26 pictures, one of them broken, so that epochs cross batches."""
    root = tmp_path_factory.mktemp("data")
    samples = rows(26)
    samples[9]["image"]["bytes"] = picture_bytes(9, size=(40, 40))[:500]
    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
    for kind, write in WRITERS.items():
        (root / kind).mkdir()
        write(root / kind, samples)

    def settings(name: str) -> Data:
        common = Data(
            batch_size=8, image_size=16, views=Views(global_scale=(0.4, 1.0), flip=0.5, num_local=2, local_size=8)
        )
        if name == "scenes":
            return common
        kind, _, streamed = name.partition(", ")
        dataset = Dataset(
            format=kind,
            path=str(root / kind),
            columns=Columns(**(TAR_COLUMNS if kind == "webdataset" else COLUMNS)),
            streaming=bool(streamed),
            shuffle_buffer=10,
            max_broken_share=0.5,
        )
        return replace(common, source="dataset", dataset=dataset)

    yield settings
    patch.undo()


@pytest.fixture(scope="module")
def uninterrupted(data) -> Callable[[str], list[Batch]]:
    """The batches of the recipe for a name in SOURCES, from one rank and one go."""
    return functools.cache(lambda name: list(stream(recipe(data(name)))))


def recipe(data: Data, **changes) -> Recipe:
    page = Recipe(
        data=data,
        masking=Masking(image_share=0.5),
        objective=Objective(cls=ClsLoss(weight=1.0)),
        optim=Optim(steps=STEPS),
    )
    return replace(page, **changes)


MADE = [field.name for field in fields(Batch) if field.name not in ("stored", "teacher_draws")]
"""What a batch holds by itself; nothing is looked up here, and no teacher is dropped (test_ensemble)."""

OPENED: list[BatchStream] = []


@pytest.fixture(autouse=True)
def no_thread_outlives_its_test():
    yield
    while OPENED:
        OPENED.pop().close()


def stream(page: Recipe, *, rank: int = 0, world: int = 1, tokenize=letters, **start) -> BatchStream:
    source = open_source(page.data)
    OPENED.append(
        BatchStream(
            page,
            source=source,
            grid=(4, 4),
            tokenize=tokenize,
            rank=rank,
            world=world,
            device="cpu",
            teacher_views=(40,),
            **start,
        )
    )
    return OPENED[-1]


def same(first: Batch, second: Batch) -> bool:
    return all(
        getattr(first, name) == getattr(second, name)
        if name == "ids"
        else all(map(torch.equal, _tensors(getattr(first, name)), _tensors(getattr(second, name))))
        for name in MADE
    )


def _tensors(value: torch.Tensor | dict[int, torch.Tensor]) -> list[torch.Tensor]:
    return list(value.values()) if isinstance(value, dict) else [value]


def joined(parts: list[Batch]) -> Batch:
    """The global batch of the ranks' shares."""
    return Batch(
        ids=[name for part in parts for name in part.ids],
        pixels=torch.cat([part.pixels for part in parts]),
        hidden=torch.cat([part.hidden for part in parts]),
        captions=torch.cat([part.captions for part in parts], dim=1),
        local_crops=torch.cat([part.local_crops for part in parts], dim=1),
        teacher_pixels={40: torch.cat([part.teacher_pixels[40] for part in parts])},
    )


def through_json(state: dict) -> dict:
    return json.loads(json.dumps(state))


@pytest.mark.parametrize("name", SOURCES)
def test_any_number_of_ranks_reads_the_same_global_batches(name, data, uninterrupted):
    page = recipe(data(name))
    alone = uninterrupted(name)
    assert len(alone) == STEPS
    for world in (2, 4):
        ranks = [list(stream(page, rank=rank, world=world)) for rank in range(world)]
        for step, expected in enumerate(alone):
            assert same(joined([batches[step] for batches in ranks]), expected), (world, step)


@pytest.mark.parametrize("name", SOURCES)
def test_resuming_continues_as_if_nothing_had_happened(name, data, uninterrupted):
    page = recipe(data(name))
    expected = uninterrupted(name)
    for stop in (1, 3, STEPS):
        first = stream(page)
        for _ in range(stop):
            next(first)
        state = through_json(first.state_dict())
        first.close()
        resumed = stream(page, start_step=stop, state=state)
        rest = list(resumed)
        assert len(rest) == STEPS - stop
        assert all(same(batch, wanted) for batch, wanted in zip(rest, expected[stop:], strict=True)), stop
        assert resumed.broken.num_read == 0 if name == "scenes" else resumed.broken.num_read >= 8 * STEPS


@pytest.mark.parametrize("name", STREAMED)
def test_a_stream_that_is_resumed_after_every_batch_loses_and_repeats_nothing(name, data, uninterrupted):
    page = recipe(data(name))
    expected = uninterrupted(name)
    state = None
    for step in range(STEPS):
        resumed = stream(page, start_step=step, state=state)
        assert same(next(resumed), expected[step]), step
        state = through_json(resumed.state_dict())
        resumed.close()


@pytest.mark.parametrize("name", STREAMED)
def test_a_stream_resumes_on_another_number_of_ranks(name, data, uninterrupted):
    page = recipe(data(name))
    expected = uninterrupted(name)
    ranks = [stream(page, rank=rank, world=4) for rank in range(4)]
    for rank in ranks:
        for _ in range(3):
            next(rank)
        rank.close()
    state = through_json(merge_states([rank.state_dict() for rank in ranks]))
    resumed = [list(stream(page, rank=rank, world=2, start_step=3, state=state)) for rank in range(2)]
    for step, wanted in enumerate(expected[3:]):
        assert same(joined([batches[step] for batches in resumed]), wanted)


@pytest.mark.parametrize("name", STREAMED)
def test_a_stream_without_a_state_is_read_again_up_to_the_step(name, data, uninterrupted):
    page = recipe(data(name))
    assert same(next(stream(page, start_step=4)), uninterrupted(name)[4])


@pytest.mark.parametrize("name", SOURCES)
def test_threads_prefetching_and_accumulation_change_nothing(name, data, uninterrupted):
    page = recipe(data(name))
    expected = uninterrupted(name)
    other = replace(page, run=Run(workers=5, prefetch=1), optim=replace(page.optim, accumulate=4))
    assert all(same(batch, wanted) for batch, wanted in zip(stream(other), expected, strict=True))


@pytest.mark.parametrize("name", SOURCES)
def test_another_seed_gives_other_batches(name, data, uninterrupted):
    first, second = uninterrupted(name)[0], next(stream(recipe(data(name), seed=1)))
    for name in MADE:
        one, other = getattr(first, name), getattr(second, name)
        if name == "ids":
            assert one != other
        else:
            assert not any(map(torch.equal, _tensors(one), _tensors(other))), name


@pytest.mark.parametrize("name", SOURCES)
def test_a_batch_is_what_the_contract_says(name, uninterrupted):
    for batch in uninterrupted(name):
        assert batch.pixels.shape == (8, 3, 16, 16) and batch.pixels.dtype == torch.float32
        assert 0.0 <= float(batch.pixels.min()) < float(batch.pixels.max()) <= 1.0
        assert batch.hidden.sum(dim=1).sort().values.tolist() == [0] * 4 + [12] * 4
        assert batch.captions.shape == (2, 8, 24)
        assert batch.local_crops.shape == (2, 8, 3, 8, 8)
        assert len(batch.ids) == 8


@pytest.mark.parametrize("name", [*WRITERS, *STREAMED])
def test_every_cls_token_reads_captions_of_its_own_picture(name, uninterrupted):
    kinds = set()
    for batch in uninterrupted(name):
        for picture, first, second in zip(batch.ids, *batch.captions, strict=True):
            number = int("".join(letter for letter in Path(picture).stem if letter.isdigit()))
            assert spelled(first) == f"alt {number}"
            kind, told, *_ = spelled(second).split()
            assert int(told) == number
            kinds.add(kind)
    assert kinds == {"short", "detailed"}


@pytest.mark.parametrize("name", list(WRITERS))
def test_an_epoch_shows_every_picture_once(name, data):
    page = recipe(replace(data(name), batch_size=13))
    shown = [picture for _, batch in zip(range(2), stream(page), strict=False) for picture in batch.ids]
    whole = {picture for picture in shown if "009" not in picture}
    # One of the 26 is broken and replaced by another, which is seen twice.
    assert len(shown) == 26 and len(whole) == 25


def test_what_no_loss_reads_is_not_made(data):
    page = recipe(data("parquet"))
    mute = replace(page, objective=Objective(contrastive=Contrastive(weight=0.0)))
    batch = next(stream(mute, tokenize=None))
    assert batch.captions is None and batch.local_crops is None
    one_cls = replace(page, student=replace(page.student, image=replace(page.student.image, num_cls=1)))
    assert next(stream(one_cls)).captions.shape[0] == 1


def test_switching_crops_or_text_off_leaves_the_other_choices_alone(data):
    page = recipe(data("parquet"))
    plain = replace(page, objective=Objective(contrastive=Contrastive(weight=0.0)))
    first, second = next(stream(page)), next(stream(plain))
    assert first.ids == second.ids and torch.equal(first.hidden, second.hidden)
    assert torch.equal(first.pixels, second.pixels)


@pytest.mark.parametrize("name", ["scenes", "parquet"])
def test_a_failure_in_the_background_reaches_whoever_waits(name, data):
    def tokenize(texts: list[str]) -> torch.Tensor:
        raise RuntimeError("no tokens today")

    batches = stream(recipe(data(name)), tokenize=tokenize)
    with pytest.raises(RuntimeError, match="no tokens today"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)


@pytest.mark.parametrize("name", ["scenes", "parquet", "webdataset, streamed"])
def test_closing_ends_every_thread(name, data):
    before = threading.active_count()
    batches = stream(recipe(data(name), run=Run(prefetch=1, workers=3)))
    next(batches)
    batches.close()
    batches.close()
    assert threading.active_count() == before
    stream(recipe(data(name))).close()
    assert threading.active_count() == before
    assert len(list(stream(recipe(data(name))))) == STEPS
    assert threading.active_count() == before


def test_waiting_for_data_is_measured(data):
    page = recipe(data("parquet"))
    release = threading.Event()

    def slow(texts: list[str]) -> torch.Tensor:
        release.wait(0.2)
        return letters(texts)

    batches = stream(page, tokenize=slow)
    next(batches)
    assert batches.wait_seconds >= 0.19
    release.set()
    batches.close()


def test_a_batch_that_does_not_split_into_ranks_is_refused(data):
    with pytest.raises(ValueError, match=r"data\.batch_size=8 does not split into 3 ranks"):
        stream(recipe(data("scenes")), world=3)


def test_a_state_of_another_step_or_another_set_of_shards_is_refused(data):
    page = recipe(data("parquet, streamed"))
    batches = stream(page)
    next(batches)
    batches.close()
    state = batches.state_dict()
    with pytest.raises(ValueError, match="of format 1 and step 1, expected format 1 and step 2"):
        stream(page, start_step=2, state=state)
    with pytest.raises(ValueError, match="saved in 2 lanes and now has 4"):
        stream(page, start_step=1, state=state | {"stream": state["stream"] | {"num_lanes": 2}})
    with pytest.raises(ValueError, match="different steps"):
        merge_states([state, state | {"step": 2}])


def test_streams_are_cut_into_as_many_lanes_as_shards_and_batch_allow():
    assert lane_count(1, batch_size=128) == 1
    assert lane_count(4, batch_size=128) == 4
    assert lane_count(7, batch_size=128) == 4
    assert lane_count(10_000, batch_size=4096) == 64
    assert lane_count(10_000, batch_size=6) == 6


def test_broken_samples_are_counted_once_over_all_ranks_and_restarts(data):
    page = recipe(data("parquet"))
    alone = stream(page)
    list(alone)
    ranks = [stream(page, rank=rank, world=2) for rank in range(2)]
    for rank in ranks:
        for _ in range(3):
            next(rank)
        rank.close()
    merged = through_json(merge_states([rank.state_dict() for rank in ranks]))
    rest = [stream(page, rank=rank, world=2, start_step=3, state=merged) for rank in range(2)]
    for rank in rest:
        list(rank)
    total = merge_states([rank.state_dict() for rank in rest])["broken"]
    assert total == alone.broken.summary()
    assert total["num_broken"] >= 1 and total["named"] == ["009.png: " + total["named"][0].split(": ", 1)[1]]
