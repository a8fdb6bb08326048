"""Recordings from a server that answers well, badly, slowly, or not at all."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from speechbrain.utils.fetching import FetchFrom, FetchSource

from gemoclap_sb.data import fetching
from gemoclap_sb.data.audio import AudioError
from gemoclap_sb.data.fetching import fetched, is_remote

CONTENT = b"sound" * 1000


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path.startswith("/missing"):
            return self.send_error(404)
        if self.path.startswith("/silent"):
            return self.server.released.wait(20)
        to_a_file = self.path.startswith("/redirect")
        self.send_response(302 if to_a_file else 200)
        if to_a_file:
            self.send_header("Location", "file:///etc/hostname")
        length = 2**60 if self.path.startswith("/endless") else len(CONTENT)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        said = CONTENT[:10] if self.path.startswith("/short") else CONTENT
        self.wfile.write(said + self.path.encode() * self.path.startswith("/b/"))


@pytest.fixture(scope="module")
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.released = threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.released.set()
        server.shutdown()


def test_a_file_for_a_while(server):
    with fetched(f"{server}/a/{'x' * 300}.wav?token=1") as path:
        assert path.read_bytes() == CONTENT
        assert path.suffix == ".wav"
    assert not path.exists()


def test_a_file_for_good_is_fetched_once_and_is_that_addresss_own(server, tmp_path, monkeypatch):
    with fetched(f"{server}/a/x.wav", tmp_path / "kept") as first:
        pass
    with fetched(f"{server}/b/x.wav", tmp_path / "kept") as other:
        assert other != first
    monkeypatch.setattr(fetching, "_download", None)
    with fetched(f"{server}/a/x.wav", tmp_path / "kept") as again:
        assert again == first and again.read_bytes() == CONTENT
    assert sorted((tmp_path / "kept").iterdir()) == sorted([first, other])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/missing.wav", "404"),
        ("/short.wav", "ended after 10 of 5,000 bytes"),
        ("/endless.wav", "too many"),
        ("/redirect", "not allowed"),
        ("/silent.wav", "timed out"),
        ("/with a space", "control characters"),
    ],
)
def test_what_cannot_be_had_is_one_line(server, tmp_path, monkeypatch, path, message):
    monkeypatch.setattr(fetching, "TIMEOUT_SECONDS", 0.3)
    with (
        pytest.raises(AudioError, match=f"^Audio '{server}{path}' .*{message}[^\n]*$"),
        fetched(server + path, tmp_path / "kept"),
    ):
        pass
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/a.wav", "http://", "https://[::1/a.wav"])
def test_addresses_where_nobody_is(address):
    with pytest.raises(AudioError, match="could not be downloaded"), fetched(address):
        pass


def test_a_source_of_speechbrains(tmp_path):
    (tmp_path / "a.wav").write_bytes(CONTENT)
    source = FetchSource(FetchFrom.LOCAL, str(tmp_path / "a.wav"))
    assert is_remote(source) and is_remote("HTTPS://a/b") and not is_remote("http_a.wav")
    with fetched(source) as path:
        assert path.read_bytes() == CONTENT
