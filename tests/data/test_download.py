"""Downloads from a server on this machine that cuts, changes, refuses and forgets."""

import hashlib
import http.server
import json
import re
import shutil
import socket
import threading
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import requests
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from lapml.data.fetch import download as module
from lapml.data.fetch.download import download
from lapml.errors import LapmlError

CONTENT = bytes(range(256)) * 40  # 10,240 bytes
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()
MEND, BY_HAND = "set data.birds.source", "download it by hand"


@dataclass
class Page:
    """What is behind one path, and what the server does with it; ``plan`` has one entry a request, while it lasts."""

    content: bytes = CONTENT
    etag: str | None = '"one"'
    modified: str | None = None
    ranges: bool = True
    length: bool = True  # whether the answer tells it
    plan: list[dict] = field(default_factory=list)
    log: list[SimpleNamespace] = field(default_factory=list)  # range, if_range, status and bytes sent of each request


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        page = self.server.pages.get(self.path)
        if page is None:
            return self.send_error(404)
        step = page.plan.pop(0) if page.plan else {}
        wanted, condition = self.headers["Range"], self.headers["If-Range"]
        first, status = 0, step.get("status", 200)
        body = page.content
        if status == 200 and wanted and page.ranges and condition in (None, page.etag, page.modified):
            first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) + step.get("shift", 0)
            status = 206 if first < len(page.content) else 416
        if status not in (200, 206):
            body = b"an explanation"
        sent = body[first : first + step.get("cut", len(body))] if status != 416 else b""
        page.log.append(SimpleNamespace(range=wanted, if_range=condition, status=status, sent=len(sent)))
        self.send_response(status)
        headers = {
            "ETag": page.etag,
            "Last-Modified": page.modified,
            "Content-Length": str(len(body) - first) if page.length and status != 416 else None,
            "Content-Range": {
                206: f"bytes {first}-{len(body) - 1}/{len(body)}",
                416: f"bytes */{len(page.content)}",
            }.get(status),
            **step.get("headers", {}),
        }
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        assert self.headers["Accept-Encoding"] == "identity"
        self.wfile.write(sent)


@pytest.fixture(scope="module")
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def page(server):
    server.pages = {"/cub.tgz": Page()}
    return server.pages["/cub.tgz"]


@pytest.fixture
def url(server, page):
    return f"{server.url}/cub.tgz"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "downloads"


@pytest.fixture
def nobody():
    """A URL that nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    return f"http://127.0.0.1:{port}/cub.tgz"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No waits, small pieces, and no proxy of whoever runs the tests."""
    monkeypatch.setattr(module, "WAITS", (0, 0, 0))
    monkeypatch.setattr(module, "PIECE", 1000)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def get(folder, *urls, checksum=MD5):
    return download(list(urls), checksum, folder, MEND, BY_HAND)


def held(folder):
    """What lies in the folder: contents by the end of their names."""
    return {file.name.partition("-")[2] or file.name: file.read_bytes() for file in folder.iterdir()}


def interrupted(monkeypatch, after: int):
    """Ctrl-C when so many pieces have come."""
    pieces = iter(range(after - 1))

    def add(self, count):
        if next(pieces, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(module.tqdm, "update", add)


# --- what goes well ---


@pytest.mark.parametrize("checksum", [MD5, "sha256:" + hashlib.sha256(CONTENT).hexdigest().upper(), None])
def test_file_is_kept_and_not_fetched_again(page, url, folder, checksum):
    file, used = get(folder, url, checksum=checksum)
    assert (
        file.read_bytes() == CONTENT and used == url and file.name == f"{hashlib.md5(url.encode()).hexdigest()}-cub.tgz"
    )
    assert get(folder, url, checksum=checksum) == (file, url)
    assert [request.sent for request in page.log] == [len(CONTENT)] and list(held(folder)) == ["cub.tgz"]


def test_kept_file_is_fetched_again_when_it_is_another_one(page, url, folder):
    file, _ = get(folder, url)
    file.write_bytes(CONTENT[:-1])
    assert get(folder, url)[0].read_bytes() == CONTENT and len(page.log) == 2


def test_urls_with_the_same_end_do_not_collide(server, page, url, folder):
    server.pages |= {"/b/cub.tgz": Page(content=b"b"), "/cub.tgz?version=2": Page(content=b"2")}
    others = (f"{server.url}/b/cub.tgz", f"{url}?version=2")
    files = [get(folder, each, checksum=None)[0] for each in (url, *others)]
    assert [file.read_bytes() for file in files] == [CONTENT, b"b", b"2"] and len(set(files)) == 3


@pytest.mark.parametrize(
    "end", [f"#md5={hashlib.md5(CONTENT).hexdigest()}", f"#sha256={hashlib.sha256(CONTENT).hexdigest()}"]
)
def test_checksum_at_the_end_of_the_url(page, url, folder, end):
    assert get(folder, url + end, checksum=None)[1] == url + end
    assert get(folder, url, checksum=None)[0].read_bytes() == CONTENT and len(page.log) == 1  # the same file
    other = "0" if end[-1] != "0" else "1"
    with pytest.raises(LapmlError, match="hash .* does not match"):
        get(folder, url + end[:-1] + other, checksum=None)


def test_redirect(server, page, url, folder):
    server.pages["/old"] = Page(plan=[{"status": 302, "headers": {"Location": "/cub.tgz"}}])
    assert get(folder, f"{server.url}/old")[0].read_bytes() == CONTENT


def test_bytes_are_kept_as_they_are_sent(page, url, folder):
    """Some servers call a .tgz a tar in gzip encoding, which a browser would take off."""
    import gzip

    page.content = gzip.compress(CONTENT)
    page.plan = [{"headers": {"Content-Encoding": "gzip"}}]
    assert get(folder, url, checksum=None)[0].read_bytes() == page.content


def test_length_may_be_unknown(page, url, folder):
    page.length = False
    assert get(folder, url)[0].read_bytes() == CONTENT


# --- what is cut, and goes on ---


@pytest.mark.parametrize(("etag", "modified"), [('"one"', None), (None, "Mon, 01 Jan 2024 00:00:00 GMT"), (None, None)])
def test_cut_download_goes_on(page, url, folder, etag, modified):
    page.etag, page.modified = etag, modified
    page.plan = [{"cut": 4321}, {"cut": 2000}]
    assert get(folder, url)[0].read_bytes() == CONTENT
    assert [request.sent for request in page.log] == [4321, 2000, len(CONTENT) - 6321]
    assert [request.range for request in page.log] == [None, "bytes=4321-", "bytes=6321-"]
    assert {request.if_range for request in page.log[1:]} == {etag or modified}


def test_weak_etag_does_not_vouch_for_bytes(page, url, folder):
    page.etag, page.modified, page.plan = 'W/"one"', "Mon, 01 Jan 2024 00:00:00 GMT", [{"cut": 10}]
    assert get(folder, url)[0].read_bytes() == CONTENT
    assert page.log[1].if_range == page.modified


def test_cut_that_the_library_does_not_notice(page, url, folder, monkeypatch):
    whole, cut = urllib3.response.HTTPResponse.stream, iter([1])

    def stream(self, *args, **options):
        pieces = whole(self, *args, **options)
        return [next(pieces)] if next(cut, None) else pieces

    monkeypatch.setattr(urllib3.response.HTTPResponse, "stream", stream)
    assert get(folder, url)[0].read_bytes() == CONTENT
    assert [request.range for request in page.log] == [None, "bytes=1000-"]


def test_server_without_ranges_starts_over(page, url, folder):
    page.ranges, page.plan = False, [{"cut": 4321}]
    assert get(folder, url)[0].read_bytes() == CONTENT
    assert [(request.range, request.sent) for request in page.log] == [(None, 4321), ("bytes=4321-", len(CONTENT))]


@pytest.mark.parametrize("honours", [True, False])  # If-Range
def test_file_that_changed_in_between_starts_over(page, url, folder, honours, monkeypatch):
    interrupted(monkeypatch, after=3)
    page.content = b"old" * 5000
    with pytest.raises(KeyboardInterrupt):
        get(folder, url, checksum=None)
    monkeypatch.undo()
    page.content, page.etag = CONTENT, '"two"'
    if not honours:  # the part of the new file that it sends is not put behind the old one
        monkeypatch.setattr(Handler, "do_GET", lambda self, real=Handler.do_GET: (drop(self), real(self)))
    assert get(folder, url)[0].read_bytes() == CONTENT
    assert [request.status for request in page.log[-2:]] == ([200, 200] if honours else [206, 200])


def drop(request):
    del request.headers["If-Range"]


@pytest.mark.parametrize("change", ["size", "url", "etag", "broken", "gone", "larger", "a list"])
def test_part_of_something_else_is_not_continued(page, url, folder, change, monkeypatch):
    interrupted(monkeypatch, after=3)
    with pytest.raises(KeyboardInterrupt):
        get(folder, url)
    monkeypatch.undo()
    part, note = (next(folder.glob(end)) for end in ("*.part", "*.part.json"))
    part.write_bytes(b"x" * 3000)
    known = json.loads(note.read_text())
    assert known == {"url": url, "etag": '"one"', "modified": "", "size": len(CONTENT)}
    texts = {"broken": "{", "a list": "[]"}
    other = {"size": {"size": 9999}, "url": {"url": url + "x"}, "etag": {"etag": '"two"'}, "larger": {"size": 2999}}
    note.write_text(texts.get(change) or json.dumps(known | other.get(change, {})))
    if change == "gone":
        note.unlink()
    assert get(folder, url)[0].read_bytes() == CONTENT
    assert list(held(folder)) == ["cub.tgz"]


def test_server_that_answers_with_another_range(page, url, folder):
    page.plan = [{"cut": 4321}, {"shift": 7}]
    assert get(folder, url)[0].read_bytes() == CONTENT
    assert [request.status for request in page.log] == [200, 206, 200]


def test_interrupted_download_goes_on(page, url, folder, monkeypatch):
    interrupted(monkeypatch, after=4)
    with pytest.raises(KeyboardInterrupt):
        get(folder, url)
    assert held(folder)["cub.tgz.part"] == CONTENT[:4000] and set(held(folder)) == {"cub.tgz.part", "cub.tgz.part.json"}
    monkeypatch.undo()
    assert get(folder, url)[0].read_bytes() == CONTENT
    assert page.log[-1].range == "bytes=4000-" and page.log[-1].sent == len(CONTENT) - 4000
    assert list(held(folder)) == ["cub.tgz"]


@pytest.mark.parametrize("links", [True, False])
def test_interrupted_while_it_is_checked(page, url, folder, monkeypatch, links):
    import pooch.core

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pooch.core, "hash_matches", stop)
    if not links:
        monkeypatch.setattr(module.os, "link", lambda *_: (_ for _ in ()).throw(PermissionError("no links here")))
    with pytest.raises(KeyboardInterrupt):
        get(folder, url)
    assert held(folder).get("cub.tgz.part") == (CONTENT if links else None)
    monkeypatch.undo()
    assert get(folder, url)[0].read_bytes() == CONTENT
    assert [request.status for request in page.log] == [200, 416 if links else 200]  # whole already
    assert list(held(folder)) == ["cub.tgz"]


def test_part_that_is_longer_than_the_file_is_now(page, url, folder, monkeypatch):
    page.etag, page.length = None, False  # nothing tells one file from the other
    interrupted(monkeypatch, after=9)
    with pytest.raises(KeyboardInterrupt):
        get(folder, url)
    monkeypatch.undo()
    page.content = CONTENT[:5000]
    assert get(folder, url, checksum=None)[0].read_bytes() == CONTENT[:5000]
    assert [request.status for request in page.log[1:]] == [416, 200]


def test_many_cuts_are_fine_while_it_gets_on(page, url, folder, monkeypatch):
    page.plan = [{"cut": 1000} for _ in range(9)]
    with pytest.raises(LapmlError, match=r"cub.tgz \(Connection broken: .*1000 bytes read, 6240 more expected"):
        get(folder, url)
    monkeypatch.setattr(module, "STEP", 1000)
    assert get(folder, url)[0].read_bytes() == CONTENT


@given(st.lists(st.integers(0, len(CONTENT)), max_size=3), st.booleans(), st.sampled_from(['"one"', 'W/"x"', None]))
def test_any_cuts(server, tmp_path_factory, cuts, ranges, etag):
    server.pages = {"/cub.tgz": Page(ranges=ranges, etag=etag, plan=[{"cut": cut} for cut in cuts])}
    file, _ = get(tmp_path_factory.mktemp("any"), f"{server.url}/cub.tgz")
    assert file.read_bytes() == CONTENT
    if ranges:  # nothing was sent twice
        assert sum(request.sent for request in server.pages["/cub.tgz"].log) == len(CONTENT)


# --- what goes wrong, and the next mirror ---


def test_wrong_checksum_then_the_mirror(server, page, url, folder):
    server.pages["/bad/cub.tgz"] = bad = Page(content=b"a page that says: sign in")
    file, used = get(folder, f"{server.url}/bad/cub.tgz", url)
    assert file.read_bytes() == CONTENT and used == url and len(bad.log) == 1  # not tried again
    assert list(held(folder)) == ["cub.tgz"]
    with pytest.raises(LapmlError, match=r"MD5 hash .* expected md5:.* but got"):
        get(folder, f"{server.url}/bad/cub.tgz")
    assert list(held(folder)) == ["cub.tgz"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 204, 206, 304])
def test_refusal_then_the_mirror(server, page, url, folder, status):
    server.pages["/none"] = none = Page(plan=[{"status": status}])
    assert get(folder, f"{server.url}/none", url)[1] == url
    assert len(none.log) == 1


@pytest.mark.parametrize("status", [500, 503, 429])
def test_passing_failure(page, url, folder, status, monkeypatch):
    waits = []
    monkeypatch.setattr(module, "WAITS", (1, 4, 10))
    monkeypatch.setattr(module.time, "sleep", waits.append)
    page.plan = [{"status": status}] * 2
    assert get(folder, url)[0].read_bytes() == CONTENT
    assert [request.status for request in page.log] == [status, status, 200] and waits == [1, 4]


def test_part_of_a_mirror_that_failed_goes_when_another_gave_the_file(server, page, url, folder):
    server.pages["/half/cub.tgz"] = Page(plan=[{"cut": 500}, {"status": 404}])
    assert get(folder, f"{server.url}/half/cub.tgz", url)[1] == url
    assert list(held(folder)) == ["cub.tgz"]


def test_mirror_whose_file_is_there_needs_no_other(server, page, url, folder, nobody):
    file, _ = get(folder, url)
    assert get(folder, nobody, url) == (file, url) and len(page.log) == 1


def test_all_mirrors_fail(server, page, url, folder, nobody):
    server.pages["/weak"] = weak = Page(plan=[{"status": 503}] * 9)
    server.pages["/empty"] = Page(content=b"")
    server.pages["/wrong"] = Page(content=b"wrong")
    names = ("none", "weak", "empty", "wrong")
    with pytest.raises(LapmlError) as caught:
        get(folder, nobody, *(f"{server.url}/{name}" for name in names))
    said = str(caught.value)
    for each in ("none (404", "weak (503", "empty (the file is empty)", "wrong (MD5 hash", f"{nobody} ("):
        assert each in said
    assert "refused" in said and "no network? behind a proxy set HTTPS_PROXY" in said and "\n" not in said
    assert said.endswith("try again, or download it by hand and set data.birds.source to it")
    assert len(weak.log) == 4 and not list(folder.iterdir())


def test_proxy_that_is_not_there(url, folder, nobody, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", nobody)
    with pytest.raises(LapmlError, match="proxy.*no network[?] behind a proxy set HTTPS_PROXY"):
        get(folder, "http://nowhere.invalid/cub.tgz")


def test_certificate_is_not_tried_again(url, folder, monkeypatch):
    calls = []

    def refuse(*_, **__):
        calls.append(1)
        raise requests.exceptions.SSLError("certificate verify failed")

    monkeypatch.setattr(requests, "get", refuse)
    with pytest.raises(LapmlError, match="certificate verify failed; .*REQUESTS_CA_BUNDLE"):
        get(folder, url)
    assert len(calls) == 1


def test_server_that_falls_silent(page, url, folder, monkeypatch):
    calls = iter([requests.ReadTimeout("Read timed out."), requests.ConnectTimeout("no answer")])
    real = requests.get

    def slow(*args, **options):
        assert options["timeout"] == module.TIMEOUT and all(options["timeout"])
        if error := next(calls, None):
            raise error
        return real(*args, **options)

    monkeypatch.setattr(requests, "get", slow)
    assert get(folder, url)[0].read_bytes() == CONTENT


@pytest.mark.parametrize("free", [len(CONTENT) - 1, len(CONTENT)])
def test_small_disk_is_seen_before(page, url, folder, monkeypatch, free):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    if free == len(CONTENT):
        assert get(folder, url)[0].read_bytes() == CONTENT
        return
    with pytest.raises(LapmlError, match="needs 0.00 GB more in .*downloads, found 0.00 GB free; free some space"):
        get(folder, url)
    assert "cub.tgz" not in held(folder) and not held(folder).get("cub.tgz.part")


def test_rest_has_to_fit_only(page, url, folder, monkeypatch):
    page.plan = [{"cut": 9000}]
    free = iter([len(CONTENT), len(CONTENT) - 9000])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free)))
    assert get(folder, url)[0].read_bytes() == CONTENT


@pytest.mark.parametrize(
    "bad", ["s3://bucket/cub.tgz", "file:///etc/passwd", "cub.tgz", "http://", "https:///cub.tgz", "drawn"]
)
def test_no_url(folder, url, bad):
    with pytest.raises(
        LapmlError, match=r"found .*, expected synthetic, official, .*http\(s\) URLs.*set data.birds.source"
    ):
        get(folder, url, bad)
    assert not folder.exists()


@pytest.mark.parametrize("host", ["[::1", "a b", "x" * 70 + ".invalid", "127.0.0.1:port"])
def test_url_that_no_one_can_ask(folder, host):
    with pytest.raises(LapmlError, match="cannot be downloaded: http://"):
        get(folder, f"http://{host}/cub.tgz")


@pytest.mark.parametrize(
    "end", ["#md5=", "#md5=12", "#sha256=" + "0" * 32, "#sha1=" + "0" * 40, "#", "#md5=" + "g" * 32, "#x"]
)
def test_bad_checksum_at_the_end_of_the_url(page, url, folder, end):
    with pytest.raises(LapmlError, match=f"found {end} at the end of a URL, expected #md5= and 32"):
        get(folder, url + end)
    assert not page.log


def test_password_is_not_shown(server, page, url, folder, monkeypatch):
    secret = url.replace("//", "//me:secret@")
    page.plan = [{"status": 403}]
    with pytest.raises(LapmlError) as caught:
        get(folder, secret)
    assert "secret" not in str(caught.value) and url in str(caught.value)
    interrupted(monkeypatch, after=2)
    with pytest.raises(KeyboardInterrupt):
        get(folder, secret)
    assert b"secret" not in held(folder)["cub.tgz.part.json"]


# --- progress ---


def test_notes_of_progress_where_there_is_no_terminal(page, url, folder, monkeypatch, capfd):
    page.plan = [{"cut": 4000}]
    get(folder, url)
    assert capfd.readouterr().err == ""  # done before the first half minute
    shutil.rmtree(folder)
    page.plan = [{"cut": 4000}]
    now = iter(range(10**6))
    monkeypatch.setattr("tqdm.std.time", lambda: 10 * next(now))
    get(folder, url)
    found = re.findall(r"cub\.tgz: +(\d+%).*?(\S+)/10\.2k", capfd.readouterr().err)
    # Every 3rd of 4 and of 7 pieces, and the end of either try.
    assert found == [("29%", "3.00k"), ("39%", "4.00k"), ("68%", "7.00k"), ("100%", "10.2k"), ("100%", "10.2k")]


def test_bar_on_a_terminal(page, url, folder, monkeypatch, capfd):
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True)
    get(folder, url)
    assert re.search(r"cub.tgz: 100%.*10\.2k/10\.2k.*B/s", capfd.readouterr().err)
