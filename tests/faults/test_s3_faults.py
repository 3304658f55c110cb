"""Whatever happens between us and object storage: the right bytes or a clear failure.

Never wrong bytes, and never something that a reader would take for an artifact and is none.
"""

import os
import random
import re
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from stores import pruned

from components.common import storage
from components.common.errors import DataError, RaceError, TransferError
from components.common.storage import Settings
from components.common.storage.store import open_store

# (method, path, fault, how often, what comes of it): "" is success, else a pattern of the error.
Case = tuple[str, str, Callable[[Any], None], int, str]
ALWAYS = 1000
SMALL, PART, CREATE, COMPLETE, MANIFEST = (
    r"small\.txt",
    r"partNumber=",
    r"\?uploads",
    r"uploadId=[^&]*$",
    r"manifest\.json",
)
LARGE = r"large\.bin"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of two parts (more than 8 MiB, as boto3 too would cut it) and a small one."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "large.bin").write_bytes(os.urandom((9 << 20) + 3))
    (folder / "small.txt").write_text("the right bytes")
    return folder


@pytest.fixture
def uri(bucket: str) -> str:
    return f"s3://{bucket}/runs/model"


@pytest.fixture(scope="module")
def published(s3_endpoint: str, source: Path) -> str:
    """The address of an artifact that is there already, to be fetched and left as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", "other-key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "other-secret")
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="published")
        uri = "s3://published/model"
        storage.publish(source, uri, settings=Settings(part=5 << 20))
    return uri


@pytest.fixture
def through(proxy: Any, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The proxy, with the way through it switched on."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    return proxy


@pytest.fixture
def direct(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Switches the way through the proxy off: what do other readers see?"""
    return lambda: monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)


def impatient(settings: Settings, case: Case) -> Settings:
    """A short limit, for a case in which nothing comes; where something does it could be slow."""
    if "stall" not in case[2].__code__.co_names and "be_silent" not in case[2].__code__.co_names:
        return settings
    return replace(settings, patience=replace(settings.patience, read=0.4))


def same(one: Path, other: Path) -> bool:
    names = sorted(p.name for p in one.iterdir())
    return names == sorted(p.name for p in other.iterdir()) and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )


def one_line(error: RaceError, *patterns: str) -> None:
    line = str(error)
    assert "\n" not in line
    for pattern in patterns:
        assert re.search(pattern, line), line
    for secret in ("test-secret", "test-key", "hunter2"):
        assert secret not in line


PUBLISH: dict[str, Case] = {
    "503 burst on parts": ("PUT", PART, lambda x: x.error(503, "SlowDown"), 3, ""),
    "503 burst on a file": ("PUT", SMALL, lambda x: x.error(503, "ServiceUnavailable"), 3, ""),
    "503 burst on all": (".*", "", lambda x: x.error(503, "SlowDown"), 3, ""),
    "503 without end": (
        "PUT",
        PART,
        lambda x: x.error(503, "SlowDown"),
        ALWAYS,
        r"503 SlowDown.*4 at",
    ),
    "500 on create": ("POST", CREATE, lambda x: x.error(500, "InternalError"), 2, ""),
    "500 on complete": ("POST", COMPLETE, lambda x: x.error(500, "InternalError"), 2, ""),
    "500 on HEAD": ("HEAD", "", lambda x: x.error(500, ""), 2, ""),
    "throttled": ("PUT", PART, lambda x: x.error(429, "TooManyRequests"), 2, ""),
    "too slow": ("PUT", PART, lambda x: x.error(400, "RequestTimeout"), 2, ""),
    "bad digest": ("PUT", PART, lambda x: x.error(400, "BadDigest"), 2, ""),
    "reset on a part": ("PUT", PART, lambda x: x.reset(), 3, ""),
    "reset on a file": ("PUT", SMALL, lambda x: x.reset(), 3, ""),
    "reset without end": ("PUT", SMALL, lambda x: x.reset(), ALWAYS, r"connection was cut \(4 at"),
    "silence on a part": ("PUT", PART, lambda x: x.be_silent(), 1, ""),
    "silence on the manifest": ("PUT", MANIFEST, lambda x: x.be_silent(), 1, ""),
    "silence without end": (
        "PUT",
        SMALL,
        lambda x: x.be_silent(),
        ALWAYS,
        r"no answer in time \(4",
    ),
    "lost answer to create": ("POST", CREATE, lambda x: x.lose_answer(), 1, ""),
    "lost answer to a part": ("PUT", PART, lambda x: x.lose_answer(), 2, ""),
    "lost answer to complete": ("POST", COMPLETE, lambda x: x.lose_answer(), 1, ""),
    "lost answer to a file": ("PUT", SMALL, lambda x: x.lose_answer(), 1, ""),
    "lost answer to the commit": ("PUT", MANIFEST, lambda x: x.lose_answer(), 1, ""),
    "lost answers to the commit": ("PUT", MANIFEST, lambda x: x.lose_answer(), 3, ""),
    "lost answer to reading back": ("GET", MANIFEST, lambda x: x.lose_answer(), 3, ""),
    "false success on a file": ("PUT", SMALL, lambda x: x.pretend(), 1, ""),
    "false success on files": (
        "PUT",
        SMALL,
        lambda x: x.pretend(),
        ALWAYS,
        "not there .4 attempts",
    ),
    "false success on a part": ("PUT", PART, lambda x: x.pretend(), 1, ""),
    "false success on parts": (
        "PUT",
        PART,
        lambda x: x.pretend(),
        ALWAYS,
        r"large\.bin: .*attempts",
    ),
    "false success of the commit": ("PUT", MANIFEST, lambda x: x.pretend(), 1, ""),
    "no commit ever": ("PUT", MANIFEST, lambda x: x.pretend(), ALWAYS, "manifest.*is not there"),
    "late error on complete": ("POST", COMPLETE, lambda x: x.fail_late(), 2, ""),
    "late errors on complete": ("POST", COMPLETE, lambda x: x.fail_late(), ALWAYS, "4 attempts"),
    "late error on create": ("POST", CREATE, lambda x: x.fail_late(), 2, ""),
    "garbage on complete": ("POST", COMPLETE, lambda x: x.garble(), 1, ""),
    "garbage on create": ("POST", CREATE, lambda x: x.garble(), 1, ""),
    "garbage on commit": ("PUT", MANIFEST, lambda x: x.garble(), 1, ""),
    "flipped byte in a part": ("PUT", PART, lambda x: x.flip_sent(1 << 20), 1, ""),
    "flipped bytes in parts": ("PUT", PART, lambda x: x.flip_sent(9), ALWAYS, "not what was sent"),
    "flipped byte in a file": ("PUT", SMALL, lambda x: x.flip_sent(3), 1, ""),
    "flipped bytes in files": ("PUT", SMALL, lambda x: x.flip_sent(3), ALWAYS, "not what was sent"),
    "flipped manifest read back": ("GET", MANIFEST, lambda x: x.flip(300), 2, ""),
    "conflict of two commits": (
        *("PUT", MANIFEST, lambda x: x.error(409, "ConditionalRequestConflict"), 2, ""),
    ),
    "no conditional writes": ("PUT", MANIFEST, lambda x: x.error(501, "NotImplemented"), 1, ""),
    "upload forgotten": ("PUT", PART, lambda x: x.error(404, "NoSuchUpload"), 1, ""),
}


@pytest.mark.parametrize("case", PUBLISH.values(), ids=PUBLISH)
def test_publishing(
    case: Case,
    through: Any,
    direct: Callable[[], None],
    uri: str,
    source: Path,
    settings: Settings,
    tmp_path: Path,
) -> None:
    method, path, fault, times, outcome = case
    settings = impatient(settings, case)
    rule = through.break_(method, path, fault, times)
    if outcome:
        with pytest.raises(RaceError) as failed:
            storage.publish(source, uri, settings=settings)
        one_line(failed.value, outcome, re.escape(uri))
    else:
        storage.publish(source, uri, settings=settings)
    assert rule.hits == times or (rule.hits > 0 and times == ALWAYS)
    direct()
    bucket = uri.split("/")[2]
    client = boto3.client("s3", region_name="us-east-1")
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
    if outcome:
        assert storage.find(uri, settings=settings) is None
        storage.publish(source, uri, settings=settings)  # and the next try is not hindered
    storage.fetch(uri, tmp_path / "output", settings=settings)
    assert same(tmp_path / "output", source)


def test_a_manifest_that_is_stored_wrongly_is_found(
    through: Any, direct: Callable[[], None], uri: str, source: Path, settings: Settings
) -> None:
    through.break_("PUT", MANIFEST, lambda x: x.flip_sent(300), 1)
    with pytest.raises(DataError, match="not what was sent"):
        storage.publish(source / "small.txt", uri, settings=settings)
    storage.publish(source / "small.txt", uri, overwrite=True, settings=settings)
    direct()
    storage.verify(uri, settings=settings)
    storage.publish(source / "large.bin", uri, overwrite=True, settings=settings)
    through.break_("PUT", MANIFEST, lambda x: x.flip_sent(300), 1)
    storage.publish(source / "small.txt", uri, overwrite=True, settings=settings)
    storage.verify(uri, settings=settings)


FETCH: dict[str, Case] = {
    "503 burst": ("GET", LARGE, lambda x: x.error(503, "SlowDown"), 3, ""),
    "503 burst on the manifest": ("GET", MANIFEST, lambda x: x.error(503, "SlowDown"), 3, ""),
    "503 without end": (
        "GET",
        LARGE,
        lambda x: x.error(503, "SlowDown"),
        ALWAYS,
        "503 Slow.*4 attempts",
    ),
    "reset": ("GET", "", lambda x: x.reset(), 3, ""),
    "reset without end": ("GET", SMALL, lambda x: x.reset(), ALWAYS, r"cut \(4 attempts"),
    "reset after some bytes": ("GET", LARGE, lambda x: x.reset_after(3 << 20), 3, ""),
    "resets after some bytes": ("GET", LARGE, lambda x: x.reset_after(1000), ALWAYS, "4 attempts"),
    "cut": ("GET", LARGE, lambda x: x.cut((2 << 20) + 5), 3, ""),
    "cut at once": ("GET", LARGE, lambda x: x.cut(0), 3, ""),
    "cut manifest": ("GET", MANIFEST, lambda x: x.cut(50), 3, ""),
    "cut without end": ("GET", LARGE, lambda x: x.cut(1000), ALWAYS, r"cut \(4 attempts"),
    "shortened range": ("GET", LARGE, lambda x: x.shorten(1000), 3, ""),
    "shortened ranges": ("GET", LARGE, lambda x: x.shorten(1000), ALWAYS, r"cut \(4 att"),
    "shortened file": ("GET", SMALL, lambda x: x.shorten(4), 3, ""),
    "shortened files": ("GET", SMALL, lambda x: x.shorten(4), ALWAYS, "has 4 bytes instead of 15"),
    "shortened manifest": ("GET", MANIFEST, lambda x: x.shorten(50), 1, ""),
    "shortened manifests": ("GET", MANIFEST, lambda x: x.shorten(50), ALWAYS, "not a valid manif"),
    "chunks": ("GET", "", lambda x: x.chunk(), 5, ""),
    "cut chunks": ("GET", "", lambda x: x.chunk(100), 3, ""),
    "more announced": ("GET", LARGE, lambda x: x.promise_more(10), 2, ""),
    "stall": ("GET", LARGE, lambda x: x.stall(1 << 20), 2, ""),
    "stall at once": ("GET", LARGE, lambda x: x.be_silent(), 1, ""),
    "stall without end": (
        "GET",
        SMALL,
        lambda x: x.stall(4),
        ALWAYS,
        r"no answer in time \(4 attempts",
    ),
    "flipped byte": ("GET", LARGE, lambda x: x.flip((1 << 20) + 7), 1, ""),
    "flipped bytes in each range": ("GET", LARGE, lambda x: x.flip(-1), 2, ""),
    "flipped bytes without end": (
        "GET",
        LARGE,
        lambda x: x.flip(-1),
        ALWAYS,
        "is damaged.*2 attempts",
    ),
    "flipped byte in a small file": ("GET", SMALL, lambda x: x.flip(2), 1, ""),
    "flipped manifest": ("GET", MANIFEST, lambda x: x.flip(300), 1, ""),
    "flipped manifests": ("GET", MANIFEST, lambda x: x.flip(300), ALWAYS, "not a valid manifest"),
    "range of the wrong place": ("GET", LARGE, lambda x: x.misplace(), 3, ""),
    "ranges of the wrong place": (
        "GET",
        LARGE,
        lambda x: x.misplace(),
        ALWAYS,
        "has bytes 0 to .*4 at",
    ),
    "range ignored": ("GET", LARGE, lambda x: x.ignore_range(), 2, ""),
    "ranges ignored": ("GET", LARGE, lambda x: x.ignore_range(), ALWAYS, "has bytes 0 to .*4 at"),
    "web page": ("GET", SMALL, lambda x: x.garble(), 2, ""),
    "web page for a manifest": ("GET", MANIFEST, lambda x: x.garble(), 1, ""),
    "web pages": ("GET", "", lambda x: x.garble(), ALWAYS, "not a valid manifest"),
}


@pytest.mark.parametrize("case", FETCH.values(), ids=FETCH)
def test_fetching(
    case: Case, through: Any, published: str, source: Path, settings: Settings, tmp_path: Path
) -> None:
    uri = published
    method, path, fault, times, outcome = case
    settings = impatient(settings, case)
    rule = through.break_(method, path, fault, times)
    if outcome:
        with pytest.raises(RaceError) as failed:
            storage.fetch(uri, tmp_path / "output", settings=settings)
        one_line(failed.value, outcome, re.escape(uri))
        assert not list(tmp_path.iterdir())
        with pytest.raises(RaceError):
            storage.verify(uri, settings=settings)
    else:
        storage.fetch(uri, tmp_path / "output", settings=settings)
        assert same(tmp_path / "output", source)
        rule.hits = 0
        storage.verify(uri, settings=settings)
    assert rule.hits


def test_a_cut_range_goes_on_where_it_was_cut(
    through: Any, uri: str, source: Path, settings: Settings, tmp_path: Path
) -> None:
    settings = replace(settings, part=16 << 20)
    storage.publish(source / "large.bin", uri, settings=settings)
    seen: list[str] = []

    def cut(exchange: Any) -> None:
        seen.append(exchange.handler.headers.get("Range"))
        exchange.cut(4 << 20)

    through.break_("GET", LARGE, cut, 2)
    through.break_("GET", LARGE, lambda x: (seen.append(x.handler.headers["Range"]), x.well()))
    storage.fetch(uri, tmp_path / "output", settings=settings)
    end = (9 << 20) + 2
    assert seen == [None, f"bytes={4 << 20}-{end}", f"bytes={8 << 20}-{end}"]


REFUSALS = {
    "access denied": (403, "AccessDenied", r"access denied.*Check what these credentials may do"),
    "expired": (400, "ExpiredToken", r"session token has expired.*Get new credentials"),
    "unknown key": (403, "InvalidAccessKeyId", r"does not know this access key.*AWS_ACCESS_KEY_ID"),
    "wrong secret": (403, "SignatureDoesNotMatch", r"secret key.*AWS_SECRET_ACCESS_KEY"),
    "no bucket": (404, "NoSuchBucket", r"bucket does not exist.*Create it"),
    "wrong region": (400, "AuthorizationHeaderMalformed", r"another region.*AWS_REGION"),
    "wrong clock": (403, "RequestTimeTooSkewed", r"clock.*Set the clock"),
    "full": (507, "XMinioStorageFull", r"storage is full.*Free some space"),
}


@pytest.mark.parametrize(
    ("refusal", "when"),
    [
        *((refusal, "at once") for refusal in REFUSALS),
        *(
            (refusal, when)
            for refusal in ("access denied", "expired", "no bucket")
            for when in ("for files", "for parts", "for the manifest")
        ),
    ],
)
def test_what_does_not_pass_fails_at_once(
    refusal: str,
    when: str,
    through: Any,
    direct: Callable[[], None],
    uri: str,
    source: Path,
    settings: Settings,
) -> None:
    status, code, message = REFUSALS[refusal]
    method, path = {
        "at once": (".*", ""),
        "for files": ("PUT", SMALL),
        "for parts": ("PUT", PART),
        "for the manifest": ("PUT", MANIFEST),
    }[when]
    # Services put what they were given into their messages.
    told = "test-key test-secret X-Amz-Signature=hunter2"
    through.break_(method, path, lambda x: x.error(status, code, told))
    with pytest.raises(TransferError) as failed:
        storage.publish(source, uri, settings=settings)
    one_line(failed.value, message, code, r"\(1 attempt\)", re.escape(uri))
    direct()
    assert storage.find(uri, settings=settings) is None


def test_expired_credentials_are_told_when_they_expire_while_fetching(
    through: Any, uri: str, source: Path, settings: Settings, tmp_path: Path
) -> None:
    storage.publish(source, uri, settings=settings)
    through.break_("GET", LARGE, lambda x: x.error(400, "ExpiredToken"))
    with pytest.raises(TransferError, match=r"large\.bin: the AWS session token has expired"):
        storage.fetch(uri, tmp_path / "output", settings=settings)
    assert not list(tmp_path.iterdir())


def test_a_vanished_bucket(
    bucket: str, uri: str, source: Path, settings: Settings, tmp_path: Path
) -> None:
    storage.publish(source / "small.txt", uri, settings=settings)
    whole = boto3.resource("s3", region_name="us-east-1").Bucket(bucket)
    whole.objects.all().delete()
    whole.delete()
    for call in (
        lambda: storage.fetch(uri, tmp_path / "output", settings=settings),
        lambda: storage.publish(source, uri, settings=settings),
        lambda: storage.newest(uri, settings=settings),
        lambda: pruned(uri, settings, keep=1),
    ):
        with pytest.raises(TransferError) as failed:
            call()
        one_line(failed.value, r"bucket does not exist \(404 NoSuchBucket\) \(1 attempt\)", bucket)


def test_an_endpoint_that_nobody_answers_at(
    uri: str, source: Path, settings: Settings, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hunter2@127.0.0.1:9")
    with pytest.raises(TransferError) as failed:
        storage.publish(source, uri, settings=settings)
    one_line(failed.value, r"127\.0\.0\.1:9 cannot be reached \(4 attempts\)", "AWS_ENDPOINT_URL")


def test_no_credentials(
    uri: str, source: Path, settings: Settings, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(TransferError) as failed:
        storage.publish(source, uri, settings=settings)
    one_line(failed.value, "no AWS credentials found", "Set AWS_ACCESS_KEY_ID")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ENDPOINT_URL", "no address:hunter2"),
        ("AWS_CA_BUNDLE", "/nowhere/ca.pem"),
        ("AWS_S3_ADDRESSING_STYLE", "sideways"),
        ("AWS_PROFILE", "nobody"),
        ("AWS_REGION", "not a region!"),
    ],
)
def test_a_variable_that_cannot_be_right(
    name: str,
    value: str,
    uri: str,
    source: Path,
    settings: Settings,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(RaceError) as failed:
        storage.publish(source, uri, settings=settings)
    one_line(failed.value, "AWS")


def test_tls_needs_a_certificate_that_is_trusted(
    bucket: str,
    proxy: Any,
    uri: str,
    source: Path,
    settings: Settings,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cert, key = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    proxy.server.socket = context.wrap_socket(proxy.server.socket, server_side=True)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address.replace("http:", "https:"))
    with pytest.raises(TransferError) as failed:
        storage.publish(source / "small.txt", uri, settings=settings)
    one_line(failed.value, r"no trusted TLS connection to 127.0.0.1:\d+ \(1 at.*AWS_CA_BUNDLE")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(cert))
    storage.publish(source, uri, settings=settings)
    assert storage.verify(uri, settings=settings)


def test_checksums_for_services_that_know_sha256(
    through: Any,
    uri: str,
    source: Path,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    sent: list[str | None] = []
    through.break_(
        "PUT", "", lambda x: (sent.append(x.handler.headers["x-amz-checksum-sha256"]), x.well())
    )
    storage.publish(source, uri, settings=settings)
    assert len(sent) == 5  # a sign of life, a file, two parts, the manifest
    assert all(sent)
    storage.fetch(uri, tmp_path / "output", settings=settings)
    assert same(tmp_path / "output", source)


def test_a_failed_upload_leaves_no_parts_behind(
    through: Any, bucket: str, uri: str, source: Path, settings: Settings
) -> None:
    through.break_("POST", CREATE, lambda x: x.lose_answer(), 1)
    through.break_("PUT", "partNumber=2", lambda x: x.error(403, "AccessDenied"))
    with pytest.raises(TransferError, match="access denied"):
        storage.publish(source, uri, settings=settings)
    client = boto3.client("s3", region_name="us-east-1")
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
    assert "Contents" not in client.list_objects_v2(Bucket=bucket)


def test_a_failure_stops_the_other_transfers(
    through: Any, bucket: str, source: Path, settings: Settings, tmp_path: Path
) -> None:
    for number in range(20):
        (tmp_path / "in" / str(number)).mkdir(parents=True)
        (tmp_path / "in" / str(number) / "file").write_text("x")
    through.break_("PUT", "", lambda x: x.error(403, "AccessDenied"))
    with pytest.raises(TransferError):
        storage.publish(tmp_path / "in", f"s3://{bucket}/many", settings=settings)
    assert sum(r.startswith("PUT") for r in through.requests) <= 2 * settings.workers


def test_a_failure_does_not_wait_for_the_patience_of_others(
    through: Any, uri: str, source: Path, settings: Settings
) -> None:
    patience = replace(settings.patience, attempts=50, first_wait=30, longest_wait=60)
    tried = threading.Event()
    through.break_("PUT", "partNumber=1", lambda x: (tried.set(), x.error(503, "SlowDown")))
    through.break_("PUT", "partNumber=2", lambda x: (tried.wait(30), x.error(403, "AccessDenied")))
    begun = time.monotonic()
    with pytest.raises(TransferError):
        storage.publish(source, uri, settings=replace(settings, patience=patience))
    assert time.monotonic() - begun < 15


def test_a_stop_is_heeded_between_attempts(
    through: Any, uri: str, source: Path, settings: Settings
) -> None:
    patience = replace(settings.patience, attempts=50, first_wait=30, longest_wait=60)
    stop = threading.Event()
    store = open_store(uri, replace(settings, patience=patience), stop)
    rule = through.break_("PUT", SMALL, lambda x: (stop.set(), x.error(503, "SlowDown")))
    with pytest.raises(TransferError, match="stopped"):
        store.upload([(source / "small.txt", "small.txt")], lambda _: None)
    assert rule.hits == 1


def test_the_publisher_survives_an_outage(
    through: Any, direct: Callable[[], None], bucket: str, settings: Settings, tmp_path: Path
) -> None:
    root = f"s3://{bucket}/checkpoints"
    outage = through.break_("PUT", "", lambda x: x.error(503, "SlowDown"))
    publisher = storage.Publisher(root, keep=1, settings=settings)
    for number in (1, 2, 3):
        if number == 2:
            assert isinstance(publisher.failure, TransferError)
            outage.times = 0
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "checkpoint.pt").write_text(f"checkpoint {number}")
        publisher.submit(folder, f"update-{number}")
        assert publisher.wait(30)
    publisher.close()
    direct()
    assert [a.name for a in storage.artifacts(root, settings=settings)] == ["update-3"]
    storage.fetch_newest(root, tmp_path / "output", settings=settings)
    assert (tmp_path / "output" / "checkpoint.pt").read_text() == "checkpoint 3"


CHAOS: list[Callable[[Any], None]] = [
    lambda x: x.error(503, "SlowDown"),
    lambda x: x.error(500, "InternalError"),
    lambda x: x.reset(),
    lambda x: x.lose_answer(),
    lambda x: x.cut(40),
    lambda x: x.reset_after(40),
    lambda x: x.shorten(40),
    lambda x: x.garble(),
    lambda x: x.flip(250),
    lambda x: x.flip_sent(250) if x.method == "PUT" else x.well(),
    lambda x: x.pretend() if x.method == "PUT" else x.well(),
]


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.slow] * (seed >= 8)) for seed in range(24)]
)
def test_any_mixture_of_faults(
    seed: int,
    through: Any,
    direct: Callable[[], None],
    uri: str,
    settings: Settings,
    tmp_path: Path,
) -> None:
    """Each request fails with some probability in a random way, from gentle to hopeless."""
    chance = random.Random(seed)
    probability = [0.05, 0.15, 0.3, 0.6][seed % 4]
    source = tmp_path / "source"
    source.mkdir()
    for number in range(3):
        (source / f"{number}.txt").write_bytes(chance.randbytes(1000))
    (source / "large.bin").write_bytes(chance.randbytes(5 << 20) + b"x")
    lock = threading.Lock()

    def fault(exchange: Any) -> None:
        with lock:
            chosen = chance.choice(CHAOS) if chance.random() < probability else None
        chosen(exchange) if chosen else exchange.well()

    through.break_(".*", "", fault, 100_000)
    published = False
    try:
        storage.publish(source, uri, settings=settings)
        published = True
    except RaceError as error:
        one_line(error)
    try:
        storage.fetch(uri, tmp_path / "through", settings=settings)
        assert same(tmp_path / "through", source)
    except RaceError as error:
        one_line(error)
        assert not (tmp_path / "through").exists()
    direct()
    try:
        storage.fetch(uri, tmp_path / "output", settings=settings)
        assert same(tmp_path / "output", source)
    except DataError:
        # Not there, or stored wrongly and known to be.
        assert not published
    storage.publish(source, uri, overwrite=True, settings=settings)
    storage.fetch(uri, tmp_path / "again", settings=settings)
    assert same(tmp_path / "again", source)
