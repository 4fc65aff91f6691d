"""Download an archive from the first working mirror; resumed, checked and kept.

Pooch holds the finished files and checks them; :func:`_stream` is the downloader that it is given. It writes beside the
finished file, to ``<name>.part``, and ``<name>.part.json`` says what that is a part of.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pooch
import requests
import urllib3
from tqdm import tqdm

from lapml.data.fetch import shown
from lapml.errors import LapmlError, words
from lapml.files import json_object

WAITS = (1, 4, 10)  # seconds before each further try of a mirror
TIMEOUT = (20, 60)  # seconds to connect, and without a byte
EVERY = 30  # seconds between two notes of progress where there is no terminal
PIECE = 2**16  # bytes read at a time
STEP = 2**20  # bytes that a try has to gain for the next one to count as the first
LENGTHS = {"md5": 32, "sha256": 64}  # hex digits of a checksum


class _Refused(Exception):
    """This mirror does not give the file."""


class _Broken(_Refused):
    """Another try may succeed."""


class _Offline(_Broken):
    """No answer at all."""


def download(urls: list[str], checksum: str | None, folder: Path, advice: str, by_hand: str) -> tuple[Path, str]:
    """The file behind the first of ``urls`` (mirrors of one file) that gives it, and that URL.

    The file is kept in ``folder``, under a name of its own for each URL, and not fetched again while its
    checksum fits. An interrupted download is continued by the next one if server and file have not changed.
    Connections that fail or are cut, and answers 429 and 5xx, are tried again after a short wait.

    Args:
        checksum: ``"md5:…"`` or ``"sha256:…"`` of the file; a URL that ends in ``#md5=…`` or ``#sha256=…`` has its own.
        advice: what to set instead, for messages.
        by_hand: how to get the file without this program, for messages.

    Raises:
        LapmlError: a URL is invalid, the disk is too small, or no mirror gives the file (with the reasons).
    """
    files = {url: (folder / _name(url), _checksum(url, advice) or checksum) for url in urls}
    folder.mkdir(parents=True, exist_ok=True)
    pooch.get_logger().setLevel("WARNING")
    reasons, offline = [], False
    for url in sorted(urls, key=lambda url: not files[url][0].exists()):  # one that is there needs no network
        file, known = files[url]
        get = partial(_stream, part=_part(file))
        try:
            pooch.retrieve(url.partition("#")[0], known, file.name, folder, downloader=get)
        except (_Refused, ValueError) as error:  # pooch's ValueError: the checksum
            if not isinstance(error, _Refused) or not _size(_part(file)):
                _forget(_part(file))
            reasons.append(f"{shown(url)} ({words(error)})")
            offline |= isinstance(error, _Offline)
            continue
        for other, _ in files.values():
            _forget(_part(other))
        return file, url
    network = "no network? behind a proxy set HTTPS_PROXY; " if offline else ""
    raise LapmlError(f"cannot be downloaded: {', '.join(reasons)}; {network}try again, or {by_hand} and {advice} to it")


def _name(url: str) -> str:
    """A file name of its own for each URL, as pooch's."""
    url = url.partition("#")[0]
    plain = re.sub(r"[^\w.+-]", "_", url.partition("?")[0].rpartition("/")[2], flags=re.ASCII)
    return f"{hashlib.md5(url.encode(), usedforsecurity=False).hexdigest()}-{plain[-100:]}"


def _checksum(url: str, advice: str) -> str | None:
    """The checksum at the end of a URL."""
    if not re.match(r"https?://[^/]", url, re.IGNORECASE):
        raise LapmlError(
            f"source: found {shown(url)!r}, expected synthetic, official, a folder, an archive, or http(s) URLs of one; {advice}"
        )
    _, hash_sign, fragment = url.partition("#")
    if not hash_sign:
        return None
    kind, _, digits = fragment.partition("=")
    if not re.fullmatch(f"[0-9a-fA-F]{{{LENGTHS.get(kind, 0)}}}", digits) or not digits:
        raise LapmlError(
            f"source: found #{fragment} at the end of a URL, expected #md5= and 32 or #sha256= and 64 hex digits; "
            f"correct it, or {advice}"
        )
    return f"{kind}:{digits}"


# --- one mirror ---


def _stream(url: str, output: str, _: Any, part: Path) -> None:
    """Put what is behind ``url`` into the file ``output``; a downloader for pooch.

    Raises:
        _Refused: the mirror does not give it.
        LapmlError: the disk is too small.
    """
    tries, most = 0, _size(part)
    while True:
        try:
            while not _get(url, part):
                pass
            break
        except _Broken:
            if _size(part) >= most + STEP:  # progress, if slow
                tries, most = 0, _size(part)
            if tries == len(WAITS):
                raise
            time.sleep(WAITS[tries])
            tries += 1
    # Pooch removes its output when it is interrupted. A second name for the same bytes keeps them for the next time.
    try:
        os.unlink(output)
        os.link(part, output)
    except OSError:  # a file system without such names
        os.replace(part, output)


def _get(url: str, part: Path) -> bool:
    """One try, from the end of ``part``; False if that was of another file, and was removed."""
    known = _note(part, url)
    have = _size(part) if known else 0
    headers = {"Accept-Encoding": "identity"}  # the archive's own bytes, so that they can be counted
    if have:
        headers["Range"] = f"bytes={have}-"
        if known["etag"] or known["modified"]:
            headers["If-Range"] = known["etag"] or known["modified"]
    with _plain_reasons(), requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        first, total = _range(answer)
        if answer.status_code == 416 and have and total == have == (known["size"] or have):
            return True  # it was whole already
        fits = have and answer.status_code == 206 and first == have and _same(known, answer, total)
        if have and answer.status_code in (206, 416) and not fits:
            _forget(part)
            return False
        if answer.status_code == 200:
            length, have = answer.headers.get("Content-Length", ""), 0
            total = int(length) if length.isdecimal() else None
            _begin(part, url, answer, total)
        elif fits:
            total = total or known["size"]
        else:
            again = answer.status_code == 429 or answer.status_code >= 500
            raise (_Broken if again else _Refused)(f"{answer.status_code} {answer.reason}".strip())
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - have > free:
            raise LapmlError(
                f"{shown(url)}: needs {(total - have) / 1e9:.2f} GB more in {part.parent}, found {free / 1e9:.2f} GB free; "
                "free some space"
            )
        name, quiet = urlsplit(url).path.rpartition("/")[2] or "download", 0 if sys.stderr.isatty() else EVERY
        bar = tqdm(None, name, total, initial=have, unit="B", unit_scale=True, mininterval=quiet or 0.1, delay=quiet)
        with open(part, "ab") as file, bar:
            for piece in answer.raw.stream(PIECE, decode_content=False):
                file.write(piece)
                bar.update(len(piece))
    if total is not None and _size(part) != total:
        raise _Broken(f"cut off after {_size(part)} of {total} bytes")
    if not _size(part):
        raise _Refused("the file is empty")
    return True


@contextmanager
def _plain_reasons() -> Iterator[None]:
    """In place of the exceptions of requests, and of urllib3 below it, ours."""
    try:
        yield
    except requests.exceptions.SSLError as error:
        raise _Refused(f"{words(_cause(error))}; a proxy with its own certificate? set REQUESTS_CA_BUNDLE") from None
    except requests.ConnectionError as error:
        raise _Offline(words(_cause(error))) from None
    except (requests.Timeout, urllib3.exceptions.HTTPError) as error:
        raise _Broken(words(_cause(error))) from None
    except (requests.RequestException, UnicodeError) as error:
        raise _Refused(words(error)) from None


def _cause(error: Exception) -> Any:
    """What urllib3 says, without the story around it."""
    first = error.args[0] if error.args else error
    return getattr(first, "reason", first)


def _range(answer: requests.Response) -> tuple[int | None, int | None]:
    """First byte and size of the whole, as far as Content-Range says."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", answer.headers.get("Content-Range", "").strip())
    return tuple(int(text) if text and text != "*" else None for text in found.groups()) if found else (None, None)


# --- the part ---


def _part(file: Path) -> Path:
    return file.with_name(f"{file.name}.part")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_name(f"{part.name}.json").unlink(missing_ok=True)


def _begin(part: Path, url: str, answer: requests.Response, size: int | None) -> None:
    """Write an empty part, and the record of its file."""
    _forget(part)
    etag = answer.headers.get("ETag", "")
    note = {
        "url": shown(url),
        "etag": "" if etag.startswith("W/") else etag,  # weak ETags do not identify the bytes
        "modified": answer.headers.get("Last-Modified", ""),
        "size": size,
    }
    part.with_name(f"{part.name}.json").write_text(json.dumps(note) + "\n", encoding="utf-8")


def _note(part: Path, url: str) -> dict[str, Any] | None:
    """The record of a part's file; None if unknown or not of ``url``."""
    note = json_object(part.with_name(f"{part.name}.json"))
    right = note.get("url") == shown(url) and all(isinstance(note.get(key), str) for key in ("etag", "modified"))
    return note if right and "size" in note else None


def _same(known: dict[str, Any], answer: requests.Response, total: int | None) -> bool:
    """Whether a part of an answer is of the file that the part on the disk is of."""
    pairs = ((known["etag"], answer.headers.get("ETag")), (known["modified"], answer.headers.get("Last-Modified")))
    return all(not old or not new or old == new for old, new in (*pairs, (known["size"], total)))
