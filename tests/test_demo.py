"""The parts of `distill demo`: what visitors send is checked, mistakes become sentences, and no text becomes markup.

The page itself is looked at in a browser, in test_demo_page.
"""

import socket
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_show import png
from tiny_runs import trained

from distill import cli
from distill.demo import maps
from distill.demo.command import look_with
from distill.demo.guard import check_host, hosts_of, is_here, is_loopback
from distill.demo.limits import Limits, class_names, query, read_upload
from distill.demo.maps import Looker
from distill.demo.markup import header, notice, section
from distill.demo.serve import check_extra
from distill.show.content import Content, Panel, Row, Scale
from distill.show.models import Asked, load_model
from distill.show.pictures import Picture, scene_pictures

LIMITS = Limits(max_megabytes=0.01)
MARKUP = '<img src=x onerror="alert(1)">&amp;`${1+1}{{value}}'
KNOWN_TAGS = {*("section", "h1", "h2", "p", "div", "figure", "img", "figcaption", "span", "i", "ul", "li", "strong")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "tiny", "optim.steps=1", "optim.warmup=0")


@pytest.fixture(scope="module")
def looker(run: Path) -> Looker:
    """Teacher and student of one run."""
    return looker_of(Asked(place=str(run), side="teacher"), Asked(place=str(run)))


@pytest.fixture(scope="module")
def scene(looker: Looker) -> Picture:
    return scene_pictures(looker.looking.scenes, limit=1)[0]


@pytest.fixture(scope="module")
def photo() -> Picture:
    return Picture(name="the picture", pixels=torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0)))


def looker_of(*places: Asked, geometry: str | None = None) -> Looker:
    models = [load_model(each) for each in places]
    size = 64 if any(":" in each.place for each in places) else None
    return look_with(places, models, geometry=geometry, image_size=size, limits=Limits())


class Read(HTMLParser):
    """Tags, and text as a reader sees it."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.classes: list[str] = []
        self.text = ""
        self.alts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.tags.append(tag)
        self.classes.append(found.get("class") or "")
        self.alts += [found["alt"] or ""] if "alt" in found else []
        assert set(found) <= {"class", "src", "alt", "style", "role"}
        assert (found.get("src") or "data:image/png;base64,").startswith("data:image/png;base64,")

    def handle_data(self, data: str) -> None:
        self.text += data


def stored(folder: Path, content: bytes, name: str = "upload.png") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


BAD = {
    "text": (b"no picture at all", "the picture cannot be opened as a picture"),
    "markup": (b"<svg onload=alert(1)></svg>", "the picture cannot be opened as a picture"),
    "fifty megapixels": (png(10_000, 5_000), "10000x5000 pixels, more than 40 megapixels"),
    "bomb": (png(60_000, 60_000), "the picture has more than 80,000,000 pixels"),
    "cut": (png(8, 8)[:45], "the picture cannot be"),
    "empty": (b"", "the picture cannot be opened"),
    "too large": (bytes(20_000), "the picture has 0.0 megabytes, more than 0.01"),
    "thread": (png(60, 3000), "the picture has 60x3000 pixels; one side may be at most 8 times the other"),
    "too strange": (b"P6 1 1 255 abc", "of the format PPM; expected one of JPEG, PNG"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_upload_is_one_sentence(kind: str, tmp_path: Path):
    content, said = BAD[kind]
    with pytest.raises(ValueError, match=said) as caught:
        read_upload(stored(tmp_path, content), LIMITS, [], image_size=None)
    told = str(caught.value)
    assert "\n" not in told and "upload.png" not in told
    assert "Error" not in told and "max_" not in told  # names that a visitor cannot know


def test_nothing_is_decoded_before_size_and_format_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    for content, _ in (BAD["fifty megapixels"], BAD["bomb"], BAD["too strange"]):
        with pytest.raises(ValueError):
            read_upload(stored(tmp_path, content), LIMITS, [], image_size=None)


def test_a_good_upload_is_read_whatever_it_is_called(looker: Looker, tmp_path: Path):
    Image.fromarray(np.full((600, 3000, 3), 77, dtype=np.uint8)).save(tmp_path / "a.webp")
    upload = (tmp_path / "a.webp").rename(tmp_path / "a.png")
    picture = read_upload(upload, Limits(), looker.models, image_size=None)
    assert picture.pixels.shape == (3, 204, 1020) and picture.truth is None


def test_an_upload_with_more_patches_than_a_model_can_take_is_refused(looker: Looker, tmp_path: Path):
    Image.new("RGB", (80, 10)).save(tmp_path / "wide.png")
    with pytest.raises(ValueError, match=r"the picture: .* patches"):
        read_upload(tmp_path / "wide.png", Limits(), looker.models, image_size=2000)


def test_class_names_stand_between_commas_and_line_breaks():
    assert class_names(" cat,dog ,\n a  red \tcircle,, \n", Limits()) == ("cat", "dog", "a red circle")


WRONG_NAMES = {
    "none": (" ,\n,", "write class names with commas"),
    "too many": (",".join(map(str, range(500))), "these are 500 class names; at most 200"),
    "too long": ("cat," + "d" * 101, "class name 2 has 101 letters; at most 100"),
    "twice": ("cat, dog,cat ", "class name 3 stands there twice, also as number 1"),
    "a book": ("cat " * 100_000, "400,000 letters together"),
}


@pytest.mark.parametrize("kind", WRONG_NAMES)
def test_wrong_class_names_are_one_sentence(kind: str):
    text, said = WRONG_NAMES[kind]
    with pytest.raises(ValueError, match=said):
        class_names(text, Limits())


@pytest.mark.parametrize(("text", "said"), [("  ", "write a text"), ("x" * 101, "101 letters")])
def test_a_query_has_some_letters_and_not_too_many(text: str, said: str):
    with pytest.raises(ValueError, match=said):
        query(text, Limits())


def test_no_text_of_content_becomes_markup():
    panel = Panel(rgb=np.full((4, 6, 3), 128, dtype=np.uint8), below=MARKUP)
    ends = Scale(low=0.0, high=1.0, unit=MARKUP)
    rows = (Row(title="picture", panels=(panel,)), Row(title=MARKUP, panels=(panel,), scale=ends))
    content = Content(heading="not shown", note=MARKUP, rows=rows, legend=((MARKUP, (0.1, 0.2, 0.3)),))
    read = Read(section(MARKUP, content, [MARKUP]))
    assert set(read.tags) <= KNOWN_TAGS and read.tags.count("img") == 2
    assert read.text.count(MARKUP) == 8 and read.alts[1] == f"{MARKUP}: {MARKUP}"
    for html in (header([MARKUP]), notice(MARKUP), section("a", MARKUP)):
        said = Read(html)
        assert set(said.tags) <= KNOWN_TAGS - {"img"} and MARKUP in said.text


def test_a_scene_stands_beside_its_truth_and_a_photo_beside_itself(looker: Looker, scene: Picture, photo: Picture):
    names = ", ".join(scene.truth.class_names)
    known = Read(maps.segmentation(looker, scene, names))
    assert [kind for kind in known.classes if kind in ("plain", "truth", "said")] == ["truth", "said", "said"]
    assert known.text.count("% right") == 2
    unknown = Read(maps.segmentation(looker, photo, "cat, dog"))
    assert [kind for kind in unknown.classes if kind in ("plain", "truth", "said")] == ["plain", "said", "said"]
    assert "do not read numbers" in maps.depth(looker, photo)
    assert "do not read numbers" not in maps.normals(looker, scene)


def test_every_map_of_teacher_and_student_is_there(looker: Looker, photo: Picture):
    assert looker.basis == "shared" and looker.bases == ("turned", "shared", "own")
    ring, similar = maps.similarity(looker, photo, (0.1, 0.9))
    assert ring.shape == (*looker.looking.frame.size_of(photo), 3)
    found = [
        *(maps.pca(looker, photo, basis) for basis in looker.bases),
        *(similar, maps.heat(looker, photo, "a red circle"), maps.depth(looker, photo), maps.normals(looker, photo)),
    ]
    for html in found:
        read = Read(html)
        assert read.tags.count("img") == 3 and "smoke teacher" in read.text


def test_mistakes_of_a_visitor_are_said_in_the_section(looker: Looker, photo: Picture):
    for html in (maps.segmentation(looker, photo, "cat, cat"), maps.heat(looker, photo, " ")):
        read = Read(html)
        assert "img" not in read.tags and "why" in read.classes
    many = Read(maps.segmentation(looker, photo, WRONG_NAMES["too many"][0]))
    assert "These are 500 class names; at most 200 are taken at a time." in many.text


def test_an_encoder_without_a_text_tower_says_so_and_others_go_on(run: Path, photo: Picture):
    blind = Asked(place="timm:test_vit", weights="random", title="blind")
    alone, beside = looker_of(blind), looker_of(blind, Asked(place=str(run)))
    for look in (maps.segmentation, maps.heat):
        said = Read(look(alone, photo, "cat"))
        assert "Without a text tower blind" in said.text and "img" not in said.tags
        both = Read(look(beside, photo, "cat"))
        assert "Without a text tower blind" in both.text and both.tags.count("img") == 2
    assert not alone.readers and beside.basis == "turned" and "shared" not in beside.bases
    assert "--geometry FOLDER" in maps.depth(alone, photo) and Read(maps.depth(beside, photo)).tags.count("img") == 3


def test_probes_are_fitted_on_the_named_folder_as_far_as_it_goes(run: Path, photo: Picture, tmp_path: Path):
    generator = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(generator.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / f"{number}_rgb.jpg")
        depth = generator.integers(800, 3000, (40, 40), dtype=np.uint16)
        Image.fromarray(depth).save(tmp_path / f"{number}_depth_mm.png")
    looker = looker_of(Asked(place=str(run)), geometry=str(tmp_path))
    read = Read(maps.depth(looker, photo))
    assert read.tags.count("img") == 2 and "do not read numbers" not in read.text
    assert "holds no" in maps.normals(looker, photo)


def test_what_is_here_is_told_from_what_is_elsewhere():
    for host in (None, "", "localhost", b"127.0.0.1", "127.0.0.9", "::1", "0.0.0.0", "192.0.2.7"):
        assert is_here(host, "192.0.2.7"), host
    for host in ("192.0.2.8", "example.org", b"8.8.8.8", "localhost.example.org", "2001:db8::1"):
        assert not is_here(host, "127.0.0.1"), host
    assert check_host("localhost") == "127.0.0.1" and is_loopback("127.0.0.1") and not is_loopback("0.0.0.0")
    assert "*" not in hosts_of("192.0.2.7") and hosts_of("0.0.0.0") == ["*"]


def test_the_process_reaches_itself_and_nobody_else():
    script = """
import socket
from distill.demo.guard import stay_here
stay_here("127.0.0.1")
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(("localhost", server.getsockname()[1])).close()
for attempt in (
    lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
    lambda: socket.getaddrinfo("example.org", 80),
    lambda: socket.gethostbyname("example.org"),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)),
):
    try:
        attempt()
    except PermissionError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.count("the demo talks to no other machine") == 4, done.stderr


MISTAKES = {
    "no model": ([], "no model is named"),
    "no such run": (["nowhere"], "no such run or checkpoint folder"),
    "setting": (["RUN", "query=x"], "demo has no setting 'query'"),
    "host": (["RUN", "--host", "example.org"], "--host example.org: expected an IPv4 address"),
    "host elsewhere": (["RUN", "--host", "203.0.113.5"], "203.0.113.5 cannot be listened at"),
    "port": (["RUN", "--port", "99999"], "port 99999 of 127.0.0.1 cannot be listened at"),
    "megabytes": (["RUN", "--max-megabytes", "0"], "max_megabytes=0: expected"),
    "megapixels": (["RUN", "--max-megapixels", "500"], "max_megapixels=500: expected"),
    "size": (["RUN", "--image-size", "9000"], "image_size=9000: expected 1 to 8192"),
    "pictures": (["RUN", "--images", "nowhere"], "images nowhere: no such file or folder"),
    "geometry": (["RUN", "--geometry", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_at_the_command_line_is_one_sentence_and_serves_nothing(
    kind: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr("distill.demo.command.check_extra", lambda: None)
    monkeypatch.setattr("distill.demo.command.serve", lambda *_, **__: pytest.fail("served"))
    words, said = MISTAKES[kind]
    assert cli.main(["demo", *(str(run) if word == "RUN" else word for word in words)]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1


def test_a_taken_port_is_said_before_models_are_loaded(capsys: pytest.CaptureFixture):
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert cli.main(["demo", "timm:nowhere", "--port", str(server.getsockname()[1])]) == 2
    assert "cannot be listened at" in capsys.readouterr().err


@pytest.mark.parametrize("version", ["5.49.1", "6.30.2", "7.0.0"])
def test_a_gradio_that_the_page_was_not_made_for_is_named(
    version: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    pytest.importorskip("gradio")
    monkeypatch.setattr("distill.demo.serve.version", lambda _: version)
    assert cli.main(["demo", "timm:nowhere"]) == 2
    assert f"the demo needs gradio 6.31 or a later 6, and {version} is installed" in capsys.readouterr().err


@pytest.mark.parametrize("version", ["6.31.0", "6.40.1"])
def test_a_later_gradio_of_the_same_major_version_will_do(version: str, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("gradio")
    monkeypatch.setattr("distill.demo.serve.version", lambda _: version)
    check_extra()


def test_without_gradio_the_extra_is_named(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert cli.main(["demo", str(run)]) == 2
    assert "needs the package gradio (extra: demo)" in capsys.readouterr().err
