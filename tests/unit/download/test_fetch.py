"""What fetch promises of one file: it arrives whole and true, or one clear error says why not."""

import email.utils
import hashlib
import os
import random
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.common.errors import ConfigError, DataError, TransferError
from components.common.retry import Patience
from components.download.fetch import Fetched, check_url, fetch, file_name

BODY = random.Random(1).randbytes(300_000)
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def arrives(tmp_path: Path, patience: Patience) -> Any:
    def check(url: str, body: bytes = BODY) -> None:
        path = tmp_path / "file"
        assert fetch(url, path, patience) == Fetched(len(body), hashlib.sha256(body).hexdigest())
        assert path.read_bytes() == body

    return check


@pytest.fixture
def fails(tmp_path: Path, patience: Patience) -> Any:
    def check(url: str, *parts: str, patience: Patience = patience) -> str:
        with pytest.raises(TransferError) as failure:
            fetch(url, tmp_path / "file", patience)
        line = str(failure.value)
        for part in parts:
            assert part in line
        return line

    return check


def test_a_file_arrives_with_its_size_and_digest(server: Any, arrives: Any) -> None:
    arrives(server.put("file", BODY))
    assert server.requests[0]["Accept-Encoding"] == "identity"


def test_an_empty_file_arrives(server: Any, arrives: Any) -> None:
    arrives(server.put("file"), b"")


def test_a_chunked_answer_arrives(server: Any, arrives: Any) -> None:
    arrives(server.put("file", BODY, chunked=True))


def test_a_cut_chunked_answer_is_noticed_and_resumed(
    server: Any, arrives: Any, no_waiting: list[float]
) -> None:
    arrives(server.put("file", BODY, chunked=True, steps=[{"cut": 100_000}]))
    assert len(server.requests) == 2


def test_a_cut_transfer_goes_on_where_it_was_cut(
    server: Any, arrives: Any, no_waiting: list[float]
) -> None:
    arrives(server.put("file", BODY, steps=[{"cut": 100_000}, {"cut": 50_000}]))
    ranges = [request.get("Range") for request in server.requests]
    assert ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert [request.get("If-Range") for request in server.requests] == [None, '"1"', '"1"']


def test_a_last_modified_date_is_enough_to_go_on(
    server: Any, arrives: Any, no_waiting: list[float], old_date: str
) -> None:
    url = server.put(
        "file", BODY, etag=None, headers={"Last-Modified": old_date}, steps=[{"cut": 100_000}]
    )
    arrives(url)
    assert server.requests[1]["If-Range"] == old_date


@pytest.mark.parametrize("etag", ['W/"1"', None])
def test_without_a_strong_validator_a_cut_transfer_starts_over(
    server: Any, arrives: Any, no_waiting: list[float], etag: str | None
) -> None:
    arrives(server.put("file", BODY, etag=etag, steps=[{"cut": 100_000}]))
    assert "Range" not in server.requests[1]


def test_a_date_of_this_very_second_is_not_relied_on(
    server: Any, arrives: Any, no_waiting: list[float]
) -> None:
    now = email.utils.formatdate(usegmt=True)
    headers = {"Last-Modified": now, "Date": now}
    arrives(server.put("file", BODY, etag=None, headers=headers, steps=[{"cut": 100_000}]))
    assert "Range" not in server.requests[1]


def test_a_server_that_ignores_ranges_makes_it_start_over(
    server: Any, arrives: Any, no_waiting: list[float]
) -> None:
    arrives(server.put("file", BODY, ranges=False, steps=[{"cut": 100_000}]))
    assert server.requests[1]["Range"] == "bytes=100000-"


def test_a_file_that_changed_meanwhile_is_fetched_anew(
    server: Any, arrives: Any, no_waiting: list[float]
) -> None:
    changed = {"body": BODY[::-1], "etag": '"2"'}
    arrives(server.put("file", BODY, steps=[{"cut": 100_000}, changed]), BODY[::-1])


def test_a_part_of_another_version_is_not_mixed_in(
    server: Any, arrives: Any, no_waiting: list[float]
) -> None:
    changed = {"body": BODY[::-1], "etag": '"2"', "blind": True}
    arrives(server.put("file", BODY, steps=[{"cut": 100_000}, changed]), BODY[::-1])
    assert "Range" not in server.requests[2]


def test_another_part_than_was_asked_for_is_not_mixed_in(
    server: Any, arrives: Any, no_waiting: list[float]
) -> None:
    wrong = {"content_range": f"bytes 5-{len(BODY) - 1}/{len(BODY)}"}
    arrives(server.put("file", BODY, steps=[{"cut": 100_000}, wrong]))
    assert "Range" not in server.requests[2]


def test_a_file_that_became_shorter_than_what_is_here_is_fetched_anew(
    server: Any, arrives: Any, no_waiting: list[float]
) -> None:
    arrives(server.put("file", BODY, steps=[{"cut": 100_000}, {"body": b"short"}]), b"short")


def test_silence_ends_an_attempt_and_the_next_goes_on(
    server: Any, arrives: Any, no_waiting: list[float]
) -> None:
    arrives(server.put("file", BODY, steps=[{"stall": 100_000}]))
    assert server.requests[1]["Range"] == "bytes=100000-"


def test_silence_without_end_is_named(server: Any, fails: Any, no_waiting: list[float]) -> None:
    url = server.put("file", BODY, steps=[{"stall": 0}] * 3)
    fails(url, url, "nothing received for 0.5 s", "(3 attempts)")


def test_a_server_that_is_busy_is_asked_again(
    server: Any, arrives: Any, no_waiting: list[float]
) -> None:
    arrives(server.put("file", BODY, steps=[{"status": 503}, {"status": 500}]))
    assert 0.5 <= no_waiting[0] <= 1.0 <= no_waiting[1] <= 2.0


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_can_pass_is_tried_as_often_as_allowed(
    server: Any, fails: Any, no_waiting: list[float], status: int
) -> None:
    url = server.put("file", BODY, steps=[{"status": status}] * 3)
    fails(url, url, f"answered {status}", "(3 attempts)")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 451])
def test_what_cannot_pass_fails_at_once(
    server: Any, fails: Any, no_waiting: list[float], status: int
) -> None:
    url = server.put("file", BODY, steps=[{"status": status}])
    fails(url, url, f"answered {status}", "(1 attempt)")
    assert no_waiting == []


def test_the_time_that_a_server_asks_for_is_kept(
    server: Any, arrives: Any, no_waiting: list[float]
) -> None:
    date = email.utils.formatdate(email.utils.time.time() + 30, usegmt=True)
    steps = [
        {"status": 429, "headers": {"Retry-After": "7"}},
        {"status": 503, "headers": {"Retry-After": date}},
    ]
    arrives(server.put("file", BODY, steps=steps))
    assert no_waiting[0] == 7.0
    assert 25 < no_waiting[1] <= 30


def test_no_server_can_ask_for_a_wait_without_end(
    server: Any, arrives: Any, no_waiting: list[float]
) -> None:
    arrives(server.put("file", BODY, steps=[{"status": 503, "headers": {"Retry-After": "999999"}}]))
    assert no_waiting == [Patience.longest_wait]


def test_progress_gives_new_attempts(
    server: Any, arrives: Any, no_waiting: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.download.fetch.PROGRESS", 10_000)
    arrives(server.put("file", BODY, steps=[{"cut": 20_000}] * 10))
    assert len(server.requests) == 11


def test_a_server_that_always_starts_over_makes_no_progress(
    server: Any, fails: Any, no_waiting: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.download.fetch.PROGRESS", 10_000)
    url = server.put("file", BODY, ranges=False, steps=[{"cut": 20_000}] * 10)
    fails(url, "cut", "(3 attempts)")


def test_a_content_length_that_promises_too_much_is_an_error(
    server: Any, fails: Any, no_waiting: list[float]
) -> None:
    url = server.put("file", BODY, length=len(BODY) + 5)
    fails(url, "(3 attempts)")


def test_an_answer_compressed_on_the_way_is_refused(server: Any, fails: Any) -> None:
    url = server.put("dict.txt", BODY, headers={"Content-Encoding": "gzip"})
    fails(url, "Content-Encoding gzip", "(1 attempt)")


def test_an_archive_whose_compression_is_called_an_encoding_arrives_as_it_is(
    server: Any, arrives: Any
) -> None:
    arrives(server.put("a.tar.gz", BODY, headers={"Content-Encoding": "x-gzip"}))


def test_a_redirect_is_followed(server: Any, arrives: Any) -> None:
    target = server.put("there", BODY)
    arrives(server.put("file", steps=[{"status": 302, "headers": {"Location": target}}]))


def test_a_redirect_to_this_machine_s_files_is_refused(server: Any, fails: Any) -> None:
    steps = [{"status": 302, "headers": {"Location": "file:///etc/passwd"}}]
    fails(server.put("file", steps=steps), "no valid URL", "(1 attempt)")


def test_redirects_in_a_circle_end(server: Any, fails: Any) -> None:
    steps = [{"status": 302, "headers": {"Location": "/file"}}] * 40
    fails(server.put("file", steps=steps), "redirected too many times", "(1 attempt)")


def test_a_refused_connection_is_tried_again(fails: Any, no_waiting: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    fails(f"http://127.0.0.1:{port}/file", "connection refused", "(3 attempts)")


def test_an_unknown_host_is_named(fails: Any, no_waiting: list[float]) -> None:
    fails("http://nowhere.invalid/file", "nowhere.invalid", "could not be resolved", "(3 attempts)")


@pytest.mark.parametrize("fault", ["status", "cut", "stall", "redirects", "refused"])
def test_no_error_shows_credentials(
    server: Any, fails: Any, no_waiting: list[float], caplog: Any, fault: str
) -> None:
    around = {"status": 302, "headers": {"Location": "/file?k=hunter2"}}
    step = {"status": {"status": 503}, "redirects": around}.get(fault, {fault: 0})
    url = server.put("file", BODY, steps=[step] * 200)
    if fault == "refused":
        with socket.create_server(("127.0.0.1", 0)) as free:
            url = f"http://127.0.0.1:{free.getsockname()[1]}/file"
    secret = url.replace("http://", "http://me:hunter2@") + "?X-Amz-Signature=hunter2"
    line = fails(secret, "http://***@127.0.0.1", "?***")
    assert "hunter2" not in line + caplog.text
    assert "me:" not in line + caplog.text


def test_user_and_password_of_the_url_are_sent(server: Any, arrives: Any) -> None:
    arrives(server.put("file", BODY).replace("http://", "http://me:hunter2@"))
    assert server.requests[0]["Authorization"] == "Basic bWU6aHVudGVyMg=="


@pytest.fixture
def tls(certificate: tuple[Path, Path], server: Any) -> Iterator[tuple[int, Path]]:
    """The port of a TLS server that redirects to http, and its certificate that nobody signed."""
    cert, key = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    listener = socket.create_server(("127.0.0.1", 0))
    plain_port = server.http.server_address[1]

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    with context.wrap_socket(connection, server_side=True) as wrapped:
                        wrapped.recv(4096)
                        wrapped.sendall(
                            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:%d/file\r\n"
                            b"Content-Length: 0\r\nConnection: close\r\n\r\n" % plain_port
                        )
                except OSError:
                    continue

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1], cert
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_a_certificate_that_is_not_trusted_fails_at_once(tls: tuple[int, Path], fails: Any) -> None:
    fails(
        f"https://127.0.0.1:{tls[0]}/file",
        "certificate is not trusted",
        "(1 attempt)",
        "REQUESTS_CA_BUNDLE",
    )


def test_a_redirect_from_https_to_http_is_refused(
    tls: tuple[int, Path], server: Any, fails: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put("file", BODY)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tls[1]))
    fails(f"https://127.0.0.1:{tls[0]}/file", "redirected from https to http", "(1 attempt)")


@pytest.mark.parametrize("form", ["{}", "file://{}", "file://localhost{}"])
def test_a_local_file_is_copied(arrives: Any, tmp_path: Path, form: str) -> None:
    source = tmp_path / "source file"
    source.write_bytes(BODY)
    path = str(source) if form == "{}" else str(source).replace(" ", "%20")
    arrives(form.format(path))


def test_a_local_file_that_is_not_there_is_named(tmp_path: Path, patience: Patience) -> None:
    with pytest.raises(DataError, match="absent: no such file"):
        fetch(str(tmp_path / "absent"), tmp_path / "file", patience)


def test_a_local_folder_is_refused(tmp_path: Path, patience: Patience) -> None:
    with pytest.raises(DataError, match="a folder where a file was expected"):
        fetch(str(tmp_path), tmp_path / "file", patience)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_no_network_error(server: Any, patience: Patience, tmp_path: Path) -> None:
    class Full(type(tmp_path)):  # type: ignore[misc]
        def open(self, *args: Any, **kwargs: Any) -> Any:
            return open("/dev/full", "wb")

    with pytest.raises(OSError, match="No space left"):
        fetch(server.put("file", BODY), Full(tmp_path / "file"), patience)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://host/file", "unknown scheme 'ftp'"),
        ("http:///file", "host or bucket is missing"),
        ("s3:///key", "host or bucket is missing"),
        ("https://host/", "no usable file name"),
        ("https://host", "no usable file name"),
        ("https://host/a/..", "no usable file name"),
        ("https://host/a%2fb", "no usable file name"),
        ("https://host/a%0ab", "no usable file name"),
        ("https://host/" + "a" * 201, "no usable file name"),
        ("s3://bucket", "no usable file name"),
        ("file://host/file", "a file on another host"),
        ("http://[::1/file", "not a valid URL"),
        ("http://host:port/file", "not a valid URL"),
        ("", "no usable file name"),
    ],
)
def test_an_address_that_cannot_work_is_refused_beforehand(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        check_url(url)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://host/a/RACE.tar.gz", "RACE.tar.gz"),
        ("https://host/a/my%20file?x=/y#z", "my file"),
        ("s3://bucket/folder/what?#.txt", "what?#.txt"),
        ("file:///a/b.txt", "b.txt"),
        ("a/b%20c", "b%20c"),
    ],
)
def test_a_file_keeps_the_name_at_the_end_of_its_address(url: str, name: str) -> None:
    check_url(url)
    assert file_name(url) == name
