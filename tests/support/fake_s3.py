"""A real HTTP server on this machine that speaks as much of S3 as s3fs asks for: one bucket, kept in memory."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pytest

BUCKET = "studies"
PAGE = 5
"""Keys in one answer to a listing, so that listings have several pages."""


@dataclass
class FakeS3:
    """The server's state as tests see and steer it.

    Attributes:
        objects: Contents by key.
        written: What was written, key and content, in order.
        refused: A PUT of a key that contains one of these is answered with 403.
        url: Its endpoint.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    written: list[tuple[str, bytes]] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    url: str = ""


@contextmanager
def fake_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    """Runs the server, with this process's AWS variables pointing at it and at no other credentials."""
    state = FakeS3()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"state": state}))
    state.url = f"http://127.0.0.1:{server.server_port}"
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ENDPOINT_URL": state.url,
        "AWS_ACCESS_KEY_ID": "known",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
    }.items():
        monkeypatch.setenv(name, value)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: FakeS3
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_PUT(self) -> None:
        key, content = self._key(), self._content()
        if any(part in key for part in self.state.refused):
            self._error(403, "AccessDenied")
        elif self._may(key):
            self.state.objects[key] = content
            self.state.written.append((key, content))
            self._answer(200, b"", {"ETag": f'"{hashlib.md5(content).hexdigest()}"'})

    def do_GET(self) -> None:
        key, query = self._key(), self._query()
        if not self._may(key):
            return
        if not key and "list-type" in query:
            self._list(query)
        elif key in self.state.objects:
            self._answer(200, self.state.objects[key], self._facts(key))
        else:
            self._error(404, "NoSuchKey")

    def do_HEAD(self) -> None:
        key = self._key()
        if not self._may(key):
            return
        if key and key not in self.state.objects:
            self._error(404, "NoSuchKey")
        else:
            self._answer(200, self.state.objects.get(key, b""), self._facts(key) if key else {})

    def do_POST(self) -> None:
        named = ElementTree.fromstring(self._content())
        for element in named.iter():
            if element.tag.endswith("Key"):
                self.state.objects.pop(element.text or "", None)
        self._answer(200, b"<DeleteResult/>")

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token", "")
        keys, folders = [], []
        for key in sorted(self.state.objects):
            if key.startswith(prefix):
                head, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
                (folders if cut else keys).append(prefix + head + cut if cut else key)
        left = [key for key in keys if key > after]
        page, more = left[:PAGE], len(left) > PAGE
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.state.objects[key])}</Size>"
            f"<LastModified>2026-01-01T00:00:00Z</LastModified><ETag>x</ETag></Contents>"
            for key in page
        )
        entries += "".join(
            f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>" for folder in dict.fromkeys(folders)
        )
        entries += f"<IsTruncated>{str(more).lower()}</IsTruncated>"
        entries += f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        self._answer(200, f"<ListBucketResult>{entries}</ListBucketResult>".encode())

    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/").partition("/")[2]

    def _query(self) -> dict[str, str]:
        parsed = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        return {name: values[0] for name, values in parsed.items()}

    def _facts(self, key: str) -> dict[str, str]:
        return {"ETag": '"x"', "Last-Modified": formatdate(0, usegmt=True)} if key in self.state.objects else {}

    def _may(self, key: str) -> bool:
        bucket = unquote(urlsplit(self.path).path).lstrip("/").partition("/")[0]
        if "Credential=known/" not in self.headers.get("Authorization", ""):
            self._error(403, "InvalidAccessKeyId")
        elif bucket != BUCKET:
            self._error(404, "NoSuchBucket")
        else:
            return True
        return False

    def _content(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return body
        content = b""
        while body:
            size, _, body = body.partition(b"\r\n")
            length = int(size.partition(b";")[0], 16)
            if not length:
                return content
            content, body = content + body[:length], body[length + 2 :]
        return content

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
