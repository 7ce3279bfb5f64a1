"""What the hub answers, from a small server that answers as it does: each refusal has its own sentence."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http
from transformers import CLIPSegForImageSegmentation

from mace_studio.errors import ModelError
from mace_studio.sd import hub, judges, segmenters
from mace_studio.sd import model as sd_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Answers with what the test wants, or serves a folder as the repository nobody/model.

    `at`: in the address of what is refused.
    """

    folder, refusal, at, seen = None, None, "", []

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        Hub.seen.append((self.path, self.headers.get("Authorization")))
        if Hub.refusal and Hub.at in self.path:
            status, headers = Hub.refusal
            return self.answer(status, b"{}", headers.items())
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/old/name"):
            moved = path.replace("old/name", "nobody/model")
            return self.answer(307, headers=[("Location", moved)])
        files = sorted(p.relative_to(Hub.folder).as_posix() for p in Hub.folder.rglob("*") if p.is_file())
        if path.startswith("/api/models/nobody/model/tree"):
            body = [
                {"type": "file", "path": f, "size": (Hub.folder / f).stat().st_size, "oid": "0" * 40} for f in files
            ]
            return self.answer(200, json.dumps(body).encode(), [("Content-Type", "application/json")])
        if path.startswith("/api/models/nobody/model"):
            body = {"id": "nobody/model", "modelId": "nobody/model", "sha": COMMIT, "tags": [], "downloads": 0}
            body["siblings"] = [{"rfilename": f} for f in files]
            return self.answer(200, json.dumps(body).encode(), [("Content-Type", "application/json")])
        name = path.replace("/resolve/main/", f"/resolve/{COMMIT}/").partition(f"/resolve/{COMMIT}/")[2]
        if name in files:
            content = (Hub.folder / name).read_bytes()
            return self.answer(200, content, [("ETag", f'"{name.replace("/", "-")}"'), ("X-Repo-Commit", COMMIT)])
        return self.answer(404, headers=[("X-Error-Code", "EntryNotFound")])


@pytest.fixture
def server(monkeypatch, tmp_path):
    served = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{served.server_port}"
    Hub.folder, Hub.refusal, Hub.at, Hub.seen = None, None, "", []
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    for module in ("huggingface_hub.hf_api", "huggingface_hub._snapshot_download", "huggingface_hub.file_download"):
        loaded = __import__(module, fromlist=["x"])
        for name, value in (("ENDPOINT", address), ("HF_HUB_CACHE", str(tmp_path / "cache"))):
            if hasattr(loaded, name):
                monkeypatch.setattr(loaded, name, value)
        if hasattr(loaded, "api"):
            monkeypatch.setattr(loaded.api, "endpoint", address)
    import huggingface_hub.hf_api as hf_api  # noqa: PLC0415

    monkeypatch.setattr(hub, "model_info", hf_api.HfApi(endpoint=address).model_info)
    yield Hub
    served.shutdown()
    served.server_close()
    thread.join()


REFUSALS = pytest.mark.parametrize(
    ("status", "headers", "says"),
    [
        (403, {"X-Error-Code": "GatedRepo"}, "is gated: its owners ask .*HF_TOKEN"),
        (401, {"X-Error-Code": "GatedRepo"}, "is gated: its owners ask .*HF_TOKEN"),
        (401, {}, "no such model on the hub, or it is private.*HF_TOKEN"),
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "does not accept the token"),
        (404, {"X-Error-Code": "RepoNotFound"}, "no such model on the hub, or it is private"),
        (404, {}, "no such model on the hub, or it is private"),
        (410, {}, "was removed from the hub"),
        (403, {"X-Error-Message": "Access to this resource is disabled."}, "is disabled on the hub"),
        (403, {}, "does not let this token read"),
        (429, {}, "too many requests"),
        (451, {}, "for legal reasons"),
        (500, {}, r"has trouble at the moment \(status 500\)"),
        (503, {}, r"has trouble at the moment \(status 503\)"),
        (418, {}, r"did not send nobody/model \(status 418\)"),
    ],
)


@REFUSALS
def test_each_refusal_has_its_own_sentence(server, status, headers, says):
    server.refusal = status, headers
    with pytest.raises(ModelError, match=says) as error:
        sd_model.load("nobody/model", "cpu")
    assert "nobody/model" in str(error.value) and len(str(error.value)) < 400


@REFUSALS
@pytest.mark.parametrize("at", ["/model_index.json", "/unet/diffusion_pytorch_model.safetensors"])
def test_a_file_that_is_refused_has_the_same_sentence(server, folders, monkeypatch, at, status, headers, says):
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)  # before it tries again
    server.folder, server.refusal, server.at = folders["sd1"], (status, headers), at
    with pytest.raises(ModelError, match=says) as error:
        sd_model.load("nobody/model", "cpu")
    assert "nobody/model" in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("status", "headers", "says"),
    [
        (403, {"X-Error-Code": "GatedRepo"}, "is gated: its owners ask"),
        (404, {"X-Error-Code": "RepoNotFound"}, "no such model on the hub"),
        (410, {}, "was removed from the hub"),
        (429, {}, "too many requests"),
        (503, {}, "has trouble at the moment"),
    ],
)
def test_models_beside_the_main_one_have_the_sentences_too(server, monkeypatch, status, headers, says):
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    server.refusal = status, headers
    with pytest.raises(ModelError, match=f"The judge nobody/clip could not be loaded. .*{says}"):
        judges.ZeroShotClip("nobody/clip")
    with pytest.raises(ModelError, match=f"which makes the masks, could not be loaded. .*{says}"):
        segmenters._part(CLIPSegForImageSegmentation, next(iter(segmenters.MODELS)), None, dtype=None)


@pytest.mark.parametrize("token", ["hf_ü", "hf mine", "hf_\x00"])
def test_a_token_that_is_none_is_said(server, monkeypatch, token):
    monkeypatch.setattr(hub, "get_token", lambda: token)
    with pytest.raises(ModelError, match=r"The token .* holds characters that no token has"):
        sd_model.load("nobody/model", "cpu")
    assert not server.seen


def test_a_model_is_fetched_whole_and_nothing_else(server, folders, models, monkeypatch, tmp_path):
    server.folder = folders["sd1"]
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    loaded = sd_model.load("https://huggingface.co/nobody/model", "cpu", "float32")
    assert loaded.fingerprint == models["sd1"].fingerprint
    assert any(authorization == "Bearer hf_mine" for _, authorization in server.seen)
    fetched = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert "model_index.json" in fetched and not any(name.endswith((".bin", ".ckpt")) for name in fetched)
    server.refusal = 503, {}
    with pytest.raises(ModelError, match="has trouble"):
        sd_model.load("nobody/other", "cpu")


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
@pytest.mark.parametrize("alone", [True, False])
def test_a_part_is_fetched_from_its_own_repository_or_from_that_of_a_model(server, folders, models, part, alone):
    server.folder = folders["sd1"] / part if alone else folders["sd1"]
    loaded = sd_model.load(str(folders["sd1"]), "cpu", "float32", **{part: "nobody/model"})
    assert loaded.fingerprint == models["sd1"].fingerprint
    assert not any("unet" in path or "model_index" in path for path, _ in server.seen)


def test_a_repository_without_the_part_that_is_asked_for_says_so(server, folders):
    server.folder = folders["sd1"] / "tokenizer"
    with pytest.raises(ModelError, match="VAE that was named cannot be loaded: nobody/model holds no VAE"):
        sd_model.load(str(folders["sd1"]), "cpu", "float32", vae="nobody/model")


def test_a_repository_without_an_index_says_so(server, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "v1.safetensors").write_bytes(b"x")
    server.folder = tmp_path / "empty"
    with pytest.raises(ModelError, match=r"has no model_index.json on the hub, .*download that and give its path"):
        sd_model.load("nobody/model", "cpu")


def test_a_model_that_moved_is_loaded_and_said(server, folders, models, caplog):
    server.folder = folders["sd1"]
    assert sd_model.load("old/name", "cpu", "float32").fingerprint == models["sd1"].fingerprint
    assert "old/name has moved on the hub; it is nobody/model now" in caplog.text


def test_without_a_network_the_cache_is_enough(server, folders, models, monkeypatch):
    server.folder = folders["sd1"]
    sd_model.load("nobody/model", "cpu", "float32")

    def unreachable(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(hub, "model_info", unreachable)
    assert sd_model.load("nobody/model", "cpu", "float32").fingerprint == models["sd1"].fingerprint
    with pytest.raises(ModelError, match="no folder “nobody/else”, and it could not be fetched"):
        sd_model.load("nobody/else", "cpu", "float32")


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_a_variable_that_forbids_the_hub_is_named(server, monkeypatch, tmp_path, name):
    for other in hub.OFFLINE:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=f"{name} forbids to ask the hub") as error:
        sd_model.load("nobody/model", "cpu")
    assert "network" not in str(error.value)


def test_a_proxy_without_its_package_is_said(monkeypatch):
    def needs(*_, **__):
        raise ImportError("Using SOCKS proxy, but the 'socksio' package is not installed.")

    monkeypatch.setattr(hub, "model_info", needs)
    with pytest.raises(ModelError, match="'socksio' package is not installed"):
        sd_model.load("nobody/model", "cpu")


@pytest.mark.parametrize("source", ["/not/here", "a/b/c", "no such folder", "owner/", "-", "x" * 200, "a--b/c", "ü/ö"])
def test_what_is_no_hub_id_is_not_asked_for(monkeypatch, source):
    monkeypatch.setattr(hub, "model_info", None)
    with pytest.raises(ModelError, match="There is no folder"):
        sd_model.load(source, "cpu")


@pytest.mark.parametrize("text", ["<html>sign in</html>", "", "[" * 100_000])
def test_an_index_that_is_no_json_is_said(server, tmp_path, text):
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "model_index.json").write_text(text)
    server.folder = tmp_path / "repository"
    with pytest.raises(ModelError, match=r"What the hub sent as model_index.json of nobody/model is no JSON"):
        sd_model.load("nobody/model", "cpu")
