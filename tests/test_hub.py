"""Uploading a published folder, against a small stand-in for the hub that runs in this process."""

import base64
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from test_licences import TEXTS

from distill import cli
from distill.publish.hub import prepare, push, written_files
from distill.publish.proof.record import FormatProof, Proof, write

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub, to its httpx

TOKEN = "hf_secret_of_the_test"
REPO = "someone/small-vit"
WEIGHTS = bytes(range(256)) * 40


@dataclass
class Hub:
    """What the stand-in was told. `repos` are private or not, by name."""

    address: str = ""
    repos: dict[str, bool] = field(default_factory=dict)
    committed: dict[str, bytes] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    refuses: int | None = None
    """Status for everything."""
    loses_files: bool = False
    """Large ones, with 403 as an address that has expired."""
    says_of_card: str = ""
    """What is wrong with its metadata."""


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: object) -> None:
            """Say nothing."""

        def answer(self, status: int, page: Any = None, **headers: str) -> None:
            content = json.dumps(page or {}).encode()
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(content)

        def read(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        def is_refused(self) -> bool:
            hub.asked.append(f"{self.command} {self.path}")
            is_known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if hub.refuses is None and (is_known or "/storage/" in self.path):
                return False
            self.answer(hub.refuses or 401, {"error": "Invalid username or password."})
            return True

        def do_GET(self) -> None:
            if self.is_refused():
                return
            if "/resolve/" in self.path:
                self.resolve(self.path.partition("/resolve/")[2].partition("/")[2])
                return
            name = self.path.removeprefix("/api/models/").partition("?")[0]
            if name not in hub.repos:
                self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
                return
            siblings = [{"rfilename": file} for file in hub.committed]
            self.answer(200, {"id": name, "private": hub.repos[name], "sha": "1" * 40, "siblings": siblings})

        def do_HEAD(self) -> None:
            if not self.is_refused():
                self.resolve(self.path.partition("/resolve/")[2].partition("/")[2])

        def resolve(self, name: str) -> None:
            """A file as it lies there."""
            content = hub.committed[name]
            self.send_response(200)
            self.send_header("ETag", hashlib.sha1(content).hexdigest())
            self.send_header("X-Repo-Commit", "1" * 40)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def do_PUT(self) -> None:
            content = self.read()
            if hub.loses_files:
                self.answer(403)
            elif not self.is_refused():
                hub.stored[hashlib.sha256(content).hexdigest()] = content
                self.answer(200)

        def do_POST(self) -> None:
            content = self.read()
            if self.is_refused():
                return
            if self.path.startswith("/api/repos/create"):
                self.create(json.loads(content))
            elif self.path.startswith("/api/validate-yaml"):
                errors = [{"message": hub.says_of_card}] if hub.says_of_card else []
                self.answer(400 if errors else 200, {"errors": errors, "warnings": []})
            elif "/preupload/" in self.path:
                files = json.loads(content)["files"]
                modes = [
                    {"path": file["path"], "uploadMode": "lfs" if file["size"] > 5000 else "regular"} for file in files
                ]
                self.answer(200, {"files": [mode | {"shouldIgnore": False} for mode in modes]})
            elif self.path.endswith("/info/lfs/objects/batch"):
                self.batch(json.loads(content))
            else:
                self.commit(content)

        def create(self, asked: dict[str, Any]) -> None:
            name = f"{asked['organization']}/{asked['name']}"
            if name in hub.repos:
                self.answer(409, {"error": "You already created this model repo", "url": f"{hub.address}/{name}"})
                return
            hub.repos[name] = asked["visibility"] == "private"
            self.answer(200, {"url": f"{hub.address}/{name}"})

        def batch(self, asked: dict[str, Any]) -> None:
            objects = [
                each | {"actions": {"upload": {"href": f"{hub.address}/storage/{each['oid']}"}}}
                for each in asked["objects"]
            ]
            self.answer(200, {"transfer": "basic", "objects": objects})

        def commit(self, content: bytes) -> None:
            for line in map(json.loads, content.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    hub.committed[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.committed[value["path"]] = hub.stored[value["oid"]]
                elif line["key"] == "deletedFile":
                    hub.deleted.append(value["path"])
                    del hub.committed[value["path"]]
            self.answer(200, {"commitUrl": f"{hub.address}/{REPO}/commit/1", "commitOid": "1" * 40})

    return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """Running, with a token that it takes on this machine, and xet, which it does not speak, switched off."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    found = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(found))
    found.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", found.address)
    template = "{repo_id}/resolve/{revision}/{filename}"  # made of the address when the library was imported
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{found.address}/{template}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


def published(folder: Path, *, licence: str = "mit", place: str = "", **proven: tuple[str, ...]) -> Path:
    """A folder such as a publication writes, with two formats."""
    vision = {"timm_model_name": place or "vit_tiny_patch16_224"}
    contents = {
        "README.md": f"---\nlicense: {licence}\n---\n\n# small\n".encode(),
        "recipe.yaml": b"name: small\n",
        "timm/config.json": b"{}",
        "timm/model.safetensors": WEIGHTS,
        "open_clip/open_clip_config.json": json.dumps({"model_cfg": {"vision_cfg": vision}}).encode(),
        "open_clip/config.json": b'{"architecture": "vit"}',
    }
    formats = {}
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for name in ("timm", "open_clip"):
        files = tuple(file for file in contents if file.startswith(f"{name}/"))
        size = sum(len(contents[file]) for file in files)
        found = {"bytes": size, "sha256": tuple(hashlib.sha256(contents[file]).hexdigest() for file in files)}
        formats[name] = FormatProof(files=files, library=name, version="1", differences={"cls": 0.0}, **found)
    about = {"dtype": "fp32", "num_pictures": 1, "pictures": "one", "image_size": 64, "num_texts": 0}
    proof = Proof(formats=formats, tolerance=1e-5, pixel_tolerance=0.01, **proven, **about)
    write(proof, folder)
    return folder


def words(folder: Path, *others: str) -> list[str]:
    return ["publish", str(folder), "--push", REPO, *others]


def test_nothing_is_sent_and_nothing_asked_unless_it_is_said(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture):
    folder = published(tmp_path / "out")
    assert cli.main(words(folder)) == 0
    said = capsys.readouterr().out
    assert REPO in said and "only you" in said and "10.2 kB  timm/model.safetensors" in said and "7 files" in said
    assert "nothing was sent" in said and "--upload" in said
    assert not hub.asked and not hub.repos


def test_an_upload_brings_every_file_as_it_is(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture):
    folder = published(tmp_path / "out")
    assert cli.main(words(folder, "--upload")) == 0
    assert hub.repos == {REPO: True}
    assert hub.committed == {name: (folder / name).read_bytes() for name in written_files(folder)}
    assert len(hub.committed) == 7 and f"uploaded: {hub.address}/{REPO}" in capsys.readouterr().out


def test_a_public_repository_is_asked_for_in_so_many_words(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert cli.main(words(published(tmp_path / "out"), "--upload", "--public")) == 0
    assert hub.repos == {REPO: False} and "seen by everybody" in capsys.readouterr().out


def test_the_token_is_nowhere_to_be_read(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture):
    folder = published(tmp_path / "out")
    for status in (None, 401, 403, 500):
        hub.refuses = status
        cli.main(words(folder, "--upload", "--update"))
    said = capsys.readouterr()
    assert TOKEN not in said.out + said.err
    assert not any(TOKEN.encode() in content for content in hub.committed.values())


@pytest.mark.parametrize(
    ("status", "told"),
    [(401, "refused the token of this machine (401)"), (403, "needs the right to write there"), (500, "answered 500")],
)
def test_a_refusal_is_one_sentence(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture, status: int, told: str):
    hub.refuses = status
    assert cli.main(words(published(tmp_path / "out"), "--upload")) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1 and not hub.committed


def test_a_token_that_the_hub_does_not_know_is_refused(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    assert cli.main(words(published(tmp_path / "out"), "--upload")) == 2
    said = capsys.readouterr().err
    assert "(401)" in said and "somebody_else" not in said


def test_without_a_token_the_hub_is_not_asked(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.delenv("HF_TOKEN")
    assert cli.main(words(published(tmp_path / "out"), "--upload")) == 2
    assert "no token of the hub on this machine: `hf auth login`" in capsys.readouterr().err
    assert not hub.asked


def test_a_repository_that_is_there_is_written_into_when_it_is_said(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture
):
    folder = published(tmp_path / "out")
    hub.repos[REPO] = True
    assert cli.main(words(folder, "--upload")) == 2
    assert f"{REPO} is there already (409)" in capsys.readouterr().err and not hub.committed
    assert cli.main(words(folder, "--upload", "--update")) == 0
    assert len(hub.committed) == 7
    assert cli.main(words(folder, "--upload", "--update", "--public")) == 2
    assert "is there and private, and --public was said" in capsys.readouterr().err


def test_private_weights_never_go_to_a_public_repository(hub: Hub, tmp_path: Path):
    hub.repos[REPO] = False
    with pytest.raises(ValueError, match="is there and public"):
        push(published(tmp_path / "out"), REPO, really=True, update=True, say=lambda line: None)
    assert not hub.committed


def test_update_creates_what_is_not_there(hub: Hub, tmp_path: Path):
    assert push(published(tmp_path / "out"), REPO, really=True, update=True, say=lambda line: None)
    assert hub.repos == {REPO: True} and len(hub.committed) == 7


def test_a_network_that_is_down_is_one_sentence(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    nobody = "http://127.0.0.1:9"  # the port of `discard`, on which nobody listens
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    assert cli.main(words(published(tmp_path / "out"), "--upload")) == 2
    said = capsys.readouterr().err
    assert f"{nobody} cannot be reached" in said and said.count("\n") == 1


def test_a_file_that_does_not_arrive_is_one_sentence(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture):
    hub.loses_files = True
    assert cli.main(words(published(tmp_path / "out"), "--upload")) == 2
    said = capsys.readouterr().err
    assert "timm/model.safetensors" in said and "--update" in said and not hub.committed


def test_offline_mode_is_named(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE=1 forbids"):
        push(published(tmp_path / "out"), REPO, really=True, say=lambda line: None)
    assert not hub.asked


def test_what_the_hub_says_of_the_card_is_told(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture):
    hub.says_of_card = "license is no licence"
    assert cli.main(words(published(tmp_path / "out"), "--upload")) == 2
    assert "license is no licence" in capsys.readouterr().err and not hub.committed


def test_folders_that_are_no_publication_are_refused(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="it is no folder that"):
        written_files(tmp_path / "empty")
    folder = published(tmp_path / "damaged")
    (folder / "proof.json").write_text('{"formats": []}')
    with pytest.raises(ValueError, match=r"proof\.json is no proof of a publication"):
        written_files(folder)


def test_a_folder_from_before_there_were_sums_is_to_be_published_again(hub: Hub, tmp_path: Path):
    folder = published(tmp_path / "out")
    proof = json.loads((folder / "proof.json").read_text())
    for found in proof["formats"].values():
        del found["sha256"]
    (folder / "proof.json").write_text(json.dumps(proof))
    with pytest.raises(ValueError, match=r"is of an earlier version, .*; publish the run again"):
        written_files(folder)


@pytest.mark.parametrize("strange", [".env", "timm/.git/config", "optimizer.safetensors", "open_clip/notes.txt"])
def test_a_file_that_the_publication_did_not_write_stops_the_upload(hub: Hub, tmp_path: Path, strange: str):
    folder = published(tmp_path / "out")
    (folder / strange).parent.mkdir(parents=True, exist_ok=True)
    (folder / strange).write_text("TOKEN=secret")
    with pytest.raises(ValueError, match="was not written by the publication"):
        push(folder, REPO, really=True, say=lambda line: None)
    assert not hub.asked


def test_missing_changed_and_linked_files_stop_the_upload(tmp_path: Path):
    folder = published(tmp_path / "missing")
    (folder / "timm/model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"not whole: timm/model\.safetensors is missing"):
        written_files(folder)
    (folder / "timm/model.safetensors").symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match="is a link"):
        written_files(folder)
    for name, changed in (("cut", WEIGHTS[:-1]), ("changed", bytes(len(WEIGHTS)))):
        folder = published(tmp_path / name)
        (folder / "timm/model.safetensors").write_bytes(changed)
        with pytest.raises(ValueError, match=r"timm/model\.safetensors has changed since it was compared"):
            written_files(folder)


@pytest.mark.parametrize("name", ["vit", "a/b/c", "some one/vit", "/etc/passwd", "../vit", ""])
def test_names_that_the_hub_has_not_are_refused_before_anything_else(tmp_path: Path, name: str):
    with pytest.raises(ValueError, match="no name of the hub"):
        prepare(published(tmp_path / "out"), name, private=True)


def test_a_licence_that_wants_its_text_along_gets_it(tmp_path: Path):
    folder = published(tmp_path / "out", licence="other\nlicense_name: dinov3-license")
    with pytest.raises(ValueError, match=r"DINOv3 License asks for a copy of its text.*--licence-text"):
        prepare(folder, REPO, private=True)
    (folder / "LICENSE").write_text("DINOv3 License. Built with DINOv3")
    with pytest.raises(ValueError, match=r"holds none \(“modification of the DINO Materials” does not stand"):
        prepare(folder, REPO, private=True)
    (folder / "LICENSE").write_text(TEXTS["dinov3-license"])
    assert "LICENSE" in prepare(folder, REPO, private=True).files


@pytest.mark.parametrize("wanted", ["nvidia-open-model-license", "NVIDIA Open Model License"])
def test_a_teachers_licence_wants_its_text_along_under_another_licence_too(tmp_path: Path, wanted: str):
    """Earlier proofs name it by its title."""
    folder = published(tmp_path / "out", licence="mit", texts_wanted=(wanted,))
    for another in (None, "", "Licensed by NVIDIA Corporation under the NVIDIA Open Model License", TEXTS["mit"]):
        if another is not None:
            (folder / "LICENSE").write_text(another)
        with pytest.raises(ValueError, match=r"NVIDIA Open Model License asks for a copy of its text"):
            prepare(folder, REPO, private=True)
    (folder / "LICENSE").write_text(TEXTS["mit"] + TEXTS["nvidia-open-model-license"])
    assert "LICENSE" in prepare(folder, REPO, private=True).files


def test_a_licence_of_ones_own_goes_with_its_text(tmp_path: Path):
    folder = published(tmp_path / "out", licence="other\nlicense_name: lab-terms")
    for empty in (False, True):
        if empty:
            (folder / "LICENSE").write_text("\n")
        with pytest.raises(ValueError, match=r"the licence lab-terms asks for a copy of its text.*--licence-text"):
            prepare(folder, REPO, private=True)
    (folder / "LICENSE").write_text("You may.")
    assert "LICENSE" in prepare(folder, REPO, private=True).files


def test_texts_that_software_licences_want_kept_are_warned_of_and_not_insisted_upon(tmp_path: Path):
    folder = published(tmp_path / "out", source_licences=("apache-2.0", "cc-by-4.0"))
    [said] = prepare(folder, REPO, private=True).warnings
    assert said.startswith("the Apache License 2.0 wants its text and notices kept")
    (folder / "LICENSE").write_text("Licensed under the Apache License, Version 2.0")
    assert len(prepare(folder, REPO, private=True).warnings) == 1
    (folder / "LICENSE").write_text(TEXTS["apache-2.0"])
    assert not prepare(folder, REPO, private=True).warnings


@pytest.mark.parametrize("without_sums", [False, True])
def test_an_update_deletes_what_the_publication_before_wrote(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture, without_sums: bool
):
    before, now = published(tmp_path / "before"), published(tmp_path / "now")
    assert push(before, REPO, really=True, say=lambda line: None)
    hub.committed |= {"notes.md": b"by hand", ".gitattributes": b"of the hub"}
    if without_sums:
        page = json.loads(hub.committed["proof.json"])
        for found in page["formats"].values():
            del found["sha256"]
        hub.committed["proof.json"] = json.dumps(page).encode()
    page = json.loads((now / "proof.json").read_text())
    del page["formats"]["open_clip"]
    (now / "proof.json").write_text(json.dumps(page))
    shutil.rmtree(now / "open_clip")
    assert cli.main(words(now, "--update")) == 0
    assert "is deleted then, other files stay and are named" in capsys.readouterr().out and not hub.deleted
    assert cli.main(words(now, "--upload", "--update")) == 0
    said = capsys.readouterr().out
    assert sorted(hub.deleted) == ["open_clip/config.json", "open_clip/open_clip_config.json"]
    assert {*hub.committed} == {*written_files(now), "notes.md", ".gitattributes"}
    assert "warning: stays, and no publication wrote it: notes.md" in said and ".gitattributes" not in said


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ("library_name: [distill", r"the metadata above .*README\.md are no YAML: "),
        ("license: [mit, apache-2.0]", r"README\.md: license is \['mit', 'apache-2\.0'\], and not the name of one"),
    ],
)
def test_a_card_that_was_edited_by_hand_is_refused_in_one_sentence(tmp_path: Path, metadata: str, told: str):
    folder = published(tmp_path / "out")
    (folder / "README.md").write_text(f"---\n{metadata}\n---\n\n# small\n")
    with pytest.raises(ValueError, match=told):
        prepare(folder, REPO, private=True)
    (folder / "README.md").write_text("---\nlicense: MIT\n---\n\n# small\n")
    assert not prepare(folder, REPO, private=True).warnings


def test_weights_without_a_licence_go_with_a_warning(tmp_path: Path):
    found = prepare(published(tmp_path / "out", licence="unknown"), REPO, private=True)
    assert "warning: the card states no licence" in str(found)


def test_a_place_on_this_machine_becomes_the_repository(hub: Hub, tmp_path: Path):
    folder = published(tmp_path / "out", place=f"local-dir:{tmp_path}/out/open_clip")
    assert push(folder, REPO, really=True, say=lambda line: None)
    page = json.loads(hub.committed["open_clip/open_clip_config.json"])
    assert page["model_cfg"]["vision_cfg"]["timm_model_name"] == f"hf-hub:{REPO}"
    assert hub.committed["config.json"] == (folder / "open_clip/config.json").read_bytes()
    assert not any(str(tmp_path).encode() in content for content in hub.committed.values())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "say where to: --to FOLDER"),
        (("--upload",), "--upload is heard with --push only"),
        (("--to", "new", "--public"), "--public is heard with --push only"),
        (("--push", REPO, "--licence", "mit"), "--licence is heard with --to only"),
        (("--push", REPO, "--dtype", "fp32"), "--dtype is heard with --to only"),
        (("--push", REPO, "--side", "teacher"), "--side is heard with --to only"),
        (("--push", REPO, "--licence-text", "words"), "--licence-text is heard with --to only"),
    ],
)
def test_options_that_would_not_be_heard_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture, words: tuple[str, ...], told: str
):
    assert cli.main(["publish", str(tmp_path), *words]) == 2
    assert told in capsys.readouterr().err and not (Path.cwd() / "new").exists()
