"""A store in object storage that speaks S3: AWS, MinIO, SeaweedFS, Ceph and their like.

Only what all of them have is needed: PUT, GET with Range, HEAD, DELETE, listing and multi-part
uploads. boto3's own transfer manager is not used: it cannot tell a flipped byte in a multi-part
download, does not look at what an upload left behind, and hides how often it tried.
"""

import collections
import contextlib
import dataclasses
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

from components.common.errors import DataError, RaceError
from components.common.retry import AttemptError
from components.common.storage import stream
from components.common.storage.client import (
    chunks_of,
    connect,
    etag_of,
    sends_sha256,
)
from components.common.storage.failures import AnswerError, explained
from components.common.storage.pieces import (
    Halt,
    checksum_of,
    file_sink,
    list_sink,
    locked,
    md5_digest,
    require_arrived,
    require_range,
    require_same_size,
    results_of,
    sha256_of,
)
from components.common.storage.store import (
    Settings,
    Stop,
    Wanted,
    WrongContentError,
    persist,
)
from components.common.transfer import Checksum

Result = TypeVar("Result")

MAX_PARTS = 10_000  # S3's limit for one multi-part upload


class S3Store:
    """See `Store`."""

    def __init__(
        self, bucket: str, prefix: str, settings: Settings, stop: Stop, client: Any = None
    ) -> None:
        self.address = f"s3://{bucket}/{prefix}"
        self._bucket = bucket
        self._prefix = prefix
        self._settings = settings
        self._stop = stop
        self._client = client or connect(settings.patience, settings.workers + 1)

    def at(self, key: str) -> "S3Store":
        prefix = f"{self._prefix}/{key}"
        return S3Store(self._bucket, prefix, self._settings, self._stop, self._client)

    def read(self, key: str, limit: int) -> bytes | None:
        def call() -> bytes | None:
            try:
                answer = self._ask("get_object", key)
            except AnswerError as error:
                if error.status == 404 and error.code != "NoSuchBucket":
                    return None
                raise
            data = b""
            with contextlib.closing(answer["Body"]) as body:
                for chunk in chunks_of(body):
                    data += chunk
                    if len(data) > limit:
                        raise DataError(f"{self._where(key)} is larger than {limit} bytes")
            if len(data) != answer.get("ContentLength", len(data)):
                raise AttemptError("the connection was cut")
            return data

        return self._persist(key, call)

    def write(self, key: str, data: bytes, *, exclusive: bool, scratch: str = "") -> bool:
        def call() -> bool:
            condition = {"IfNoneMatch": "*"} if exclusive else {}
            try:
                self._ask(
                    "put_object", key, Body=data, **checksum_of(data, md5_digest(data)), **condition
                )
            except AnswerError as error:
                if exclusive and error.status == 412:
                    return False
                if exclusive and error.status == 501:
                    # No conditional writes here: the race becomes as narrow as two requests.
                    return not self._exists(key) and self.write(key, data, exclusive=False)
                raise
            return True

        return self._persist(key, call)

    def _exists(self, key: str) -> bool:
        try:
            self._ask("head_object", key)
        except AnswerError as error:
            if error.status == 404:
                return False
            raise
        return True

    def upload(
        self, files: Sequence[tuple[Path, str]], advance: Callable[[int], None]
    ) -> list[tuple[int, str]]:
        advance = locked(advance)
        sizes = [source.stat().st_size for source, _ in files]
        large = [i for i, size in enumerate(sizes) if size > self._settings.part]
        small = [i for i, size in enumerate(sizes) if size <= self._settings.part]
        digests = [""] * len(files)
        with self._pool() as (pool, halt):
            futures = [
                pool.submit(self._put_whole, *files[i], sizes[i], halt, advance) for i in small
            ]
            for i, digest in zip(small, results_of(futures), strict=True):
                digests[i] = digest
            for i in large:
                digests[i] = self._put_parts(*files[i], sizes[i], pool, halt, advance)
        return list(zip(sizes, digests, strict=True))

    def download(self, files: Sequence[Wanted], advance: Callable[[int], None]) -> list[str]:
        advance = locked(advance)
        part = self._settings.part
        with self._pool() as (pool, halt):
            futures = [
                pool.submit(self._get_whole, f, halt, advance) for f in files if f.size <= part
            ]
            results_of(futures)
            for wanted in files:
                if wanted.size <= part:
                    continue
                with wanted.target.open("wb") as file:
                    sink = file_sink(file.fileno())
                    futures = [
                        pool.submit(
                            self._get_range,
                            *(wanted.key, start, min(part, wanted.size - start), wanted.size),
                            *(sink, halt, advance),
                        )
                        for start in range(0, wanted.size, part)
                    ]
                    results_of(futures)
            return results_of([pool.submit(sha256_of, f.target, halt) for f in files])

    def chunks(self, key: str, size: int) -> Iterator[bytes]:
        part = self._settings.part
        for start in range(0, max(size, 1), part):
            pieces: list[bytes] = []
            length = min(part, size - start)
            self._get_range(key, start, length, size, list_sink(pieces), self._stop, lambda _: None)
            yield from pieces

    def folders(self) -> list[str]:
        prefix = self._prefix + "/"
        return [
            entry["Prefix"].removeprefix(prefix).rstrip("/")
            for page in self._pages("list_objects_v2", prefix, Delimiter="/")
            for entry in page.get("CommonPrefixes", [])
            if entry["Prefix"] != prefix + "/"
        ]

    def stamps(self, start: str = "", *, deep: bool = True) -> dict[str, float]:
        flat = {} if deep else {"Delimiter": "/"}
        return {key: e["LastModified"].timestamp() for key, e in self._listed(start, **flat)}

    def sizes(self, start: str = "") -> dict[str, int]:
        return {key: entry["Size"] for key, entry in self._listed(start)}

    def checksum(self, key: str) -> Checksum | None:
        def call() -> Checksum | None:
            about = self._ask("head_object", key, ChecksumMode="ENABLED")
            return stream.checksum_of(about, self._bucket)

        return self._persist(key, call)

    def _listed(self, start: str, **request: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        prefix = self._prefix + "/"
        for page in self._pages("list_objects_v2", prefix + start, **request):
            for entry in page.get("Contents", []):
                yield entry["Key"].removeprefix(prefix), entry

    def uploads(self) -> list[str]:
        prefix, found = self._prefix + "/", []
        # Not every service can list these, nor may every user.
        with contextlib.suppress(RaceError):
            for page in self._pages("list_multipart_uploads", prefix):
                found += [u["Key"].removeprefix(prefix) for u in page.get("Uploads", [])]
        return found

    def touch(self, key: str, data: bytes) -> None:
        self.write(key, data, exclusive=False)

    def remove(self, key: str) -> None:
        def call() -> None:
            try:
                self._ask("delete_object", key)
            except AnswerError as error:
                if error.code != "NoSuchKey":
                    raise

        self._persist(key, call)

    def remove_folder(self, key: str) -> None:
        found = [one for one, _ in self._listed(f"{key}/")]
        with self._pool() as (pool, _):
            # One by one: the request for many at once needs a checksum that not all services know.
            results_of([pool.submit(self.remove, one) for one in found])
        self._abort_all(f"{self._prefix}/{key}/")

    # One request, its attempts, and many of them at once.

    def _where(self, key: str) -> str:
        return f"{self.address}/{key}"

    def _ask(self, operation: str, key: str, **request: Any) -> Any:
        with explained():
            return getattr(self._client, operation)(
                Bucket=self._bucket, Key=f"{self._prefix}/{key}", **request
            )

    def _persist(
        self, key: str, call: Callable[[], Result], stop: Stop | None = None, most: int = 1000
    ) -> Result:
        patience = self._settings.patience
        patience = dataclasses.replace(patience, attempts=min(patience.attempts, most))
        return persist(call, where=self._where(key), patience=patience, stop=stop or self._stop)

    def _pages(self, operation: str, prefix: str, **request: Any) -> Iterator[dict[str, Any]]:
        while True:

            def call(request: dict[str, Any] = request) -> Any:
                with explained():
                    return getattr(self._client, operation)(
                        Bucket=self._bucket, Prefix=prefix, **request
                    )

            patience = self._settings.patience
            where = f"s3://{self._bucket}/{prefix}"
            page = persist(call, where=where, patience=patience, stop=self._stop)
            yield page
            names = ("ContinuationToken", "KeyMarker", "UploadIdMarker")
            markers = {name: page[f"Next{name}"] for name in names if page.get(f"Next{name}")}
            if not page.get("IsTruncated") or not markers:
                return
            request = request | markers

    @contextlib.contextmanager
    def _pool(self) -> Iterator[tuple[ThreadPoolExecutor, Stop]]:
        """Threads, and what stops all of them once one has failed."""
        halt = Halt(self._stop)
        pool = ThreadPoolExecutor(self._settings.workers, thread_name_prefix="storage")
        try:
            yield pool, halt
        except BaseException:
            halt.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    # Sending. Each request carries a checksum; afterwards the object is looked at.

    def _put_whole(
        self, source: Path, key: str, size: int, halt: Stop, advance: Callable[[int], None]
    ) -> str:
        body = source.read_bytes()
        require_same_size(source, size, len(body))
        md5 = md5_digest(body)
        checksum = checksum_of(body, md5)

        def call() -> None:
            answer = self._ask("put_object", key, Body=body, **checksum)
            require_arrived(answer, md5, self._bucket)
            if fault := self._fault(key, size, etag_of(answer)):
                raise AttemptError(fault)

        self._persist(key, call, halt)
        advance(size)
        return hashlib.sha256(body).hexdigest()

    def _put_parts(
        self,
        source: Path,
        key: str,
        size: int,
        pool: ThreadPoolExecutor,
        halt: Stop,
        advance: Callable[[int], None],
    ) -> str:
        part = max(self._settings.part, -(-size // MAX_PARTS))
        algorithm = {"ChecksumAlgorithm": "SHA256"} if sends_sha256() else {}
        sent = begun = 0

        def begin() -> str:
            nonlocal begun
            begun += 1
            answer = self._ask("create_multipart_upload", key, **algorithm)
            if "UploadId" not in answer:
                raise AttemptError("the answer names no upload")
            return str(answer["UploadId"])

        def call() -> str:
            nonlocal sent
            advance(-sent)
            sent = 0
            upload = self._persist(key, begin, halt)
            digest = hashlib.sha256()
            parts: list[dict[str, Any]] = []
            waiting: collections.deque[Future[dict[str, Any]]] = collections.deque()
            given_up = Halt(halt)
            try:
                # Read here in order, so that what is hashed is what is sent; sent by the pool.
                # The limit on those not sent yet bounds the memory.
                with source.open("rb") as file:
                    for number in range(1, -(-size // part) + 1):
                        body = file.read(part)
                        digest.update(body)
                        sent += len(body)
                        if len(waiting) > self._settings.workers:
                            parts.append(waiting.popleft().result())
                        waiting.append(
                            pool.submit(
                                self._put_part, key, upload, number, body, given_up, advance
                            )
                        )
                    del body
                    require_same_size(source, size, sent + len(file.read(1)))
                parts.extend(results_of(waiting))
                self._complete(key, upload, size, parts, halt)
            except BaseException:
                given_up.set()
                wait([future for future in waiting if not future.cancel()])
                self._abort(key, upload)
                raise
            return digest.hexdigest()

        # The file is sent again when its parts arrived but the whole did not come to be.
        sha256 = self._persist(key, call, halt, most=3)
        if begun > 1:  # an answer was lost, and with it the name of an upload
            self._abort_all(f"{self._prefix}/{key}")
        return sha256

    def _put_part(
        self,
        key: str,
        upload: str,
        number: int,
        body: bytes,
        halt: Stop,
        advance: Callable[[int], None],
    ) -> dict[str, Any]:
        md5 = md5_digest(body)
        checksum = checksum_of(body, md5)

        def call() -> dict[str, Any]:
            try:
                answer = self._ask(
                    "upload_part", key, UploadId=upload, PartNumber=number, Body=body, **checksum
                )
            except AnswerError as error:
                if error.code == "NoSuchUpload":
                    return {}  # nothing to add to; `_complete` will find out and start over
                raise
            require_arrived(answer, md5, self._bucket)
            checksums = {n: v for n, v in checksum.items() if n == "ChecksumSHA256"}
            return {"PartNumber": number, "ETag": answer["ETag"], **checksums}

        part = self._persist(key, call, halt)
        advance(len(body))
        return part

    def _complete(
        self, key: str, upload: str, size: int, parts: list[dict[str, Any]], halt: Stop
    ) -> None:
        """Make one object of the parts.

        Raises:
            AttemptError: the service has lost parts, so that all must be sent again.
        """

        def call() -> bool:
            etag, gone = "", False
            try:
                answer = self._ask(
                    "complete_multipart_upload",
                    key,
                    UploadId=upload,
                    MultipartUpload={"Parts": parts},
                )
                etag = etag_of(answer)
            except AnswerError as error:
                # Unknown now: perhaps completed by an earlier attempt whose answer was lost.
                gone = error.code in ("NoSuchUpload", "InvalidPart")
                if not gone:
                    raise
            fault = self._fault(key, size, etag)
            if fault and not gone:
                raise AttemptError(fault)
            return not fault

        if not all(parts) or not self._persist(key, call, halt):
            raise AttemptError("its parts were accepted, but are not there")

    def _fault(self, key: str, size: int, etag: str) -> str:
        """What is wrong with a stored object, or nothing: a success that was told may be false."""
        try:
            found = self._ask("head_object", key)
        except AnswerError as error:
            if error.status == 404:
                return "it was accepted, but is not there"
            raise
        if found.get("ContentLength") != size or (etag and etag_of(found) != etag):
            return "it was accepted, but something else is there"
        return ""

    def _abort(self, key: str, upload: str) -> None:
        """Give up a multi-part upload, so that its parts do not stay (and cost)."""

        def call() -> None:
            try:
                self._ask("abort_multipart_upload", key, UploadId=upload)
            except AnswerError as error:
                if error.code != "NoSuchUpload":
                    raise

        # What led here is the error to show; `prune` finds what stays behind.
        with contextlib.suppress(RaceError):
            self._persist(key, call, threading.Event(), most=2)

    def _abort_all(self, prefix: str) -> None:
        """Give up all multi-part uploads below a prefix, where the service can list them."""
        with contextlib.suppress(RaceError):
            for page in self._pages("list_multipart_uploads", prefix):
                for upload in page.get("Uploads", []):
                    self._abort(upload["Key"].removeprefix(self._prefix + "/"), upload["UploadId"])

    # Fetching. Each range goes on where it was cut.

    def _get_whole(self, wanted: Wanted, halt: Stop, advance: Callable[[int], None]) -> None:
        with wanted.target.open("wb") as file:
            sink = file_sink(file.fileno())
            self._get_range(wanted.key, 0, wanted.size, wanted.size, sink, halt, advance)

    def _get_range(
        self,
        key: str,
        start: int,
        length: int,
        size: int,
        sink: Callable[[int, bytes], None],
        halt: Stop,
        advance: Callable[[int], None],
    ) -> None:
        """Give `length` bytes from `start` on, of an object of `size` bytes, to `sink`."""
        end = start + length

        def call() -> None:
            nonlocal start
            if start == end and length:
                return  # all came before the last attempt failed
            ranged = start > 0 or end < size
            request = {"Range": f"bytes={start}-{end - 1}"} if ranged else {}
            try:
                answer = self._ask("get_object", key, **request)
            except AnswerError as error:
                if error.status == 404 and error.code != "NoSuchBucket":
                    raise WrongContentError("the object is missing", passes=False) from error
                if error.status == 416:
                    raise WrongContentError(f"the object is shorter than {size} bytes") from error
                raise
            with contextlib.closing(answer["Body"]) as body:
                require_range(answer, start, end, size)
                for chunk in chunks_of(body):
                    if halt.is_set():
                        raise AttemptError("stopped")
                    if start + len(chunk) > end:
                        raise AttemptError("the answer is longer than it should be")
                    sink(start, chunk)
                    start += len(chunk)
                    advance(len(chunk))
            if start < end:
                raise AttemptError("the connection was cut")

        self._persist(key, call, halt)
