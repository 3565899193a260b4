"""The page of `distill demo` in a real browser: what a visitor sees, does, and sends that is bad.

Screenshots are kept in the folder that DISTILL_SHOTS names, or with pytest's temporary files.
"""

import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64decode
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_show import png
from tiny_runs import trained

REPOSITORY = Path(__file__).resolve().parents[1]
SECTIONS = ("pca", "segmentation", "heat", "similarity", "depth", "normals")
MARKUP = '<b id="bold">cat</b>, <img src=x onerror="window.run=1">, ${window.run=1}, {{value}}, `&amp;`'
"""Five class names."""
NAMES = [name.strip() for name in MARKUP.split(",")]
OF_GRADIO = "Method not implemented."
"""What Gradio's own scripts print when a stream of events is closed."""
WAIT = 60_000


@dataclass
class Visit:
    """A page that is open, and what the browser said and asked for meanwhile."""

    page: Any
    shots: Path
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def shoot(self, name: str) -> None:
        self.page.screenshot(path=self.shots / f"{name}.png", full_page=True)

    def pictures(self, what: str) -> list[str]:
        return self.page.eval_on_selector_all(f"#{what} figure img", "all => all.map(each => each.src)")

    def wait_for_other(self, what: str, before: list[str]) -> None:
        """Until a section shows other pictures."""
        script = "([what, before]) => {const now = [...document.querySelectorAll(`#${what} figure img`)];"
        script += "return now.length && now.some((each, n) => each.src !== before[n]) && now.every(i => i.complete)}"
        self.page.wait_for_function(script, arg=[what, before], timeout=WAIT)

    def upload(self, file: Path) -> None:
        self.page.set_input_files("#upload input[type=file]", file)

    def wait_for_notice(self, text: str) -> None:
        self.page.wait_for_function(
            "text => (document.querySelector('#notice')?.innerText || '').includes(text)", arg=text, timeout=WAIT
        )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen, str, Path]]:
    """The process, its address, and its folder for temporary files: teacher and student of a run on scenes."""
    pytest.importorskip("gradio", reason="gradio is not installed (extra: demo)")
    folder = tmp_path_factory.mktemp("demo")
    run = trained(folder / "tiny", "optim.steps=6")
    (folder / "temporary").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(folder / "temporary")}
    command = [sys.executable, "-m", "distill", "demo", str(run), "side=teacher", str(run), "--max-megabytes", "3"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "fitting probes of depth and surface normals\n"
        address = process.stdout.readline().split()[0]
        assert address.startswith("http://127.0.0.1:")
        yield process, address, folder / "temporary"
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if found is None:
        pytest.skip("no Chromium or Chrome on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as engine:
        opened = engine.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(served: tuple, browser: Any, tmp_path: Path) -> Iterator[Visit]:
    """At first sight: the first scene in every map."""
    shots = Path(os.environ.get("DISTILL_SHOTS", tmp_path))
    shots.mkdir(parents=True, exist_ok=True)
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    visit = Visit(page=page, shots=shots)
    page.on("console", lambda message: visit.said.append(message.text) if message.text != OF_GRADIO else None)
    page.on("pageerror", lambda error: visit.said.append(str(error)))
    page.on("request", lambda asked: visit.asked.append(asked.url))
    page.goto(served[1])
    for what in SECTIONS:
        page.wait_for_selector(f"#{what} figure.said img", timeout=WAIT)
    yield visit
    page.close()


@pytest.fixture(scope="module")
def photo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real one where there is one."""
    with suppress(pytest.skip.Exception):
        found = sorted(request.getfixturevalue("shared_data").glob("coco_panoptic/images/val/*.jpg"))
        if found:
            return found[0]
    file = tmp_path_factory.mktemp("photo") / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)).save(file)
    return file


def test_a_photo_is_uploaded_named_and_clicked_and_nobody_else_is_asked(visit: Visit, photo: Path):
    page = visit.page
    visit.shoot("scene_1280")
    assert all(len(visit.pictures(what)) == 3 for what in SECTIONS)
    before = {what: visit.pictures(what) for what in SECTIONS}
    visit.upload(photo)
    for what in SECTIONS:
        visit.wait_for_other(what, before[what])

    overlay = visit.pictures("segmentation")
    page.fill("#classes textarea", MARKUP)
    page.click("#segment")
    visit.wait_for_other("segmentation", overlay)
    legend = page.locator("#segmentation .legend li").all_inner_texts()
    assert legend and set(legend) <= set(NAMES)

    similar = visit.pictures("similarity")
    page.click("#picture img", position={"x": 40, "y": 60})
    visit.wait_for_other("similarity", similar)
    colours = visit.pictures("pca")
    page.locator("#basis label").last.click()
    visit.wait_for_other("pca", colours)

    visit.shoot("photo_1280")
    page.set_viewport_size({"width": 420, "height": 900})
    visit.shoot("photo_420")
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    assert not page.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).length")
    assert not page.locator("#bold").count() and page.evaluate("window.run") is None
    host = page.url.removeprefix("http://")
    assert visit.said == []
    assert len(visit.asked) > 20
    away = [url for url in visit.asked if not url.startswith((f"http://{host}", f"blob:http://{host}", "data:"))]
    assert away == []


def test_bad_things_are_answered_and_the_page_goes_on(visit: Visit, tmp_path: Path):
    page = visit.page
    (tmp_path / "text.png").write_text("no picture at all")
    (tmp_path / "bomb.png").write_bytes(png(60_000, 60_000))
    Image.new("1", (10_000, 5_000)).save(tmp_path / "large.png")
    (tmp_path / "heavy.png").write_bytes(bytes(4_000_000))
    shown = visit.pictures("pca")
    for name, said in {
        "text.png": "The picture cannot be opened as a picture",
        "large.png": "The picture has 10000x5000 pixels, more than 40 megapixels",
        "bomb.png": "The picture has more than 80,000,000 pixels",
    }.items():
        visit.upload(tmp_path / name)
        visit.wait_for_notice(said)
    visit.shoot("refused_1280")
    visit.upload(tmp_path / "heavy.png")
    page.get_by_text("maximum").first.wait_for(timeout=WAIT)
    assert visit.pictures("pca") == shown

    page.fill("#classes textarea", ", ".join(f"<u>{number}</u>" for number in range(500)))
    page.click("#segment")
    page.get_by_text("These are 500 class names; at most 200 are taken at a time.").wait_for(timeout=WAIT)
    page.fill("#query textarea, #query input", "")
    page.click("#find")
    page.get_by_text("Write a text to look for").wait_for(timeout=WAIT)
    assert not page.locator("#maps u").count()

    page.locator("#examples button.thumbnail-item").nth(2).click()
    visit.wait_for_other("pca", shown)
    visit.wait_for_notice("")
    assert not page.locator("#notice .notice").count()


def test_of_examples_clicked_in_a_hurry_the_last_is_shown(visit: Visit):
    examples = visit.page.locator("#examples button.thumbnail-item")
    first = visit.pictures("pca")
    examples.nth(3).click()
    visit.wait_for_other("pca", first)
    third = visit.pictures("pca")
    examples.nth(0).click()
    visit.wait_for_other("pca", third)
    for number in (1, 2, 4, 5, 3):
        examples.nth(number).click()
        visit.page.wait_for_timeout(60)  # requests of one moment may overtake each other
    script = "was => [...document.querySelectorAll('#pca figure img')].every((each, n) => each.src === was[n])"
    visit.page.wait_for_function(script, arg=third, timeout=WAIT)


def decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(b64decode(uri.partition(",")[2]))))


def test_a_high_picture_stays_in_sight_and_is_clicked_where_it_lies(visit: Visit, tmp_path: Path):
    page, before = visit.page, visit.pictures("similarity")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (400, 60, 3), dtype=np.uint8)).save(tmp_path / "high.png")
    visit.upload(tmp_path / "high.png")
    visit.wait_for_other("similarity", before)
    assert page.locator("#similarity figure img").first.bounding_box()["height"] < 450
    box, before = page.locator("#picture img").bounding_box(), visit.pictures("similarity")
    assert box["height"] < 400
    page.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 0.25 * box["height"])
    visit.wait_for_other("similarity", before)
    plain, ringed = decoded(visit.pictures("pca")[0]), decoded(visit.pictures("similarity")[0])
    ring = np.argwhere((plain != ringed).any(-1)).mean(0) / plain.shape[:2]
    assert np.abs(ring - (0.25, 0.5)).max() < 0.02


def test_files_elsewhere_and_strange_hosts_are_refused(served: tuple):
    _, address, _ = served
    with urllib.request.urlopen(address, timeout=30) as answer:
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    for path, headers, code in (
        ("gradio_api/file=/etc/hostname", {}, 403),
        ("gradio_api/file=https://example.org/", {}, 403),
        ("", {"Host": "evil.example.org"}, 400),
    ):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(address + path, headers=headers), timeout=30)
        with caught.value as answer:
            assert answer.code == code, path


def test_it_ends_when_it_is_told_to_and_leaves_nothing_behind(served: tuple):
    process, _, temporary = served
    assert any(temporary.iterdir())
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0
    assert process.stdout.read() == "stopped\n"
    assert not any(temporary.iterdir())
