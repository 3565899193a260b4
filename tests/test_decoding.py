"""Pictures decoded several at a time and a batch ahead: the same results, the same errors, nothing read twice."""

import threading
from pathlib import Path

import pytest
import torch
from tiny_data import picture_bytes

from distill.eval.pictures import decoding
from distill.eval.pictures.datasets import ClassFolder, read_square
from distill.eval.pictures.decoding import decoded, num_threads, read_ahead


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(9):
        file = tmp_path / "val" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture_bytes(number))
    return tmp_path


@pytest.mark.parametrize("threads", [1, 4])
def test_pictures_keep_their_order_and_their_pixels_however_many_threads_decode(threads, folder, monkeypatch):
    monkeypatch.setattr(decoding, "num_threads", lambda: threads)
    data = ClassFolder(folder, "val", image_size=16)
    alone = torch.stack([read_square(file, 16) for file, _ in data.files])
    assert torch.equal(data.batch(0, 99)[0], alone)
    data.files[3][0].write_bytes(b"no picture")
    data.files[7][0].unlink()
    with pytest.raises(ValueError, match=rf"{data.files[3][0].name}.* remove or repair it"):
        data.batch(0, 9)


def test_several_pictures_are_decoded_at_once(monkeypatch):
    monkeypatch.setattr(decoding, "num_threads", lambda: 2)
    together = threading.Barrier(2, timeout=20)

    def read(place: int) -> torch.Tensor:
        together.wait()
        return torch.full((3, 2, 2), float(place))

    assert decoded(read, [5, 6])[:, 0, 0, 0].tolist() == [5, 6]
    assert 1 <= num_threads() <= decoding.MAX_THREADS


def test_the_next_batch_is_read_while_one_is_used_and_none_is_read_twice():
    calls, begun = [], threading.Event()

    def read(start: int, stop: int) -> list[int]:
        calls.append((start, stop))
        if start == 4:
            begun.set()
        if start == 8:
            raise ValueError("picture 8 is broken")
        return list(range(start, stop))

    with read_ahead(read, 10) as ahead:
        assert ahead(0, 4) == [0, 1, 2, 3]
        assert begun.wait(20), "nobody has asked for it yet"
        assert ahead(4, 8) == [4, 5, 6, 7]
        with pytest.raises(ValueError, match="picture 8 is broken"):
            ahead(8, 10)
    assert calls == [(0, 4), (4, 8), (8, 10)]
    with read_ahead(read, 7) as ahead:
        assert ahead(0, 3) + ahead(3, 6) + ahead(6, 7) == [*range(7)]
