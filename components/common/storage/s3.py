"""A store in object storage that speaks S3: AWS, MinIO, SeaweedFS, Ceph and their like.

Only what all of them have is needed: PUT, GET with Range, HEAD, DELETE, listing and multi-part
uploads. boto3's own transfer manager is not used: it cannot tell a flipped byte in a multi-part
download, does not look at what an upload left behind, and hides how often it tried.
"""

import collections
import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

from components.common.errors import DataError, RaceError
from components.common.files import sha256_of
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
    locked,
    md5_digest,
    require_arrived,
    require_range,
    require_same_size,
    results_of,
)
from components.common.storage.store import Settings, Stop, Store, Wanted, WrongContentError
from components.common.transfer import Checksum

Result = TypeVar("Result")

MAX_PARTS = 10_000  # S3's limit for one multi-part upload


class S3Store(Store):
    """See `Store`.

    When one of many requests fails for good, the others end at once, and this store has ended:
    whoever goes on opens another one.
    """

    def __init__(
        self, bucket: str, prefix: str, settings: Settings, stop: Stop, client: Any = None
    ) -> None:
        super().__init__(f"s3://{bucket}/{prefix}", settings, stop)
        self.stop = self._halt = Halt(stop)
        self._bucket = bucket
        self._prefix = prefix
        self._client = client or connect(settings.patience, settings.workers + 1)

    def at(self, key: str) -> "S3Store":
        prefix = f"{self._prefix}/{key}"
        return S3Store(self._bucket, prefix, self.settings, self.stop, self._client)

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
                        raise DataError(f"{self.address}/{key} is larger than {limit} bytes")
            if len(data) != answer.get("ContentLength", len(data)):
                raise AttemptError("the connection was cut")
            return data

        return self.persist(key, call)

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
                    return not self._head(key) and self.write(key, data, exclusive=False)
                raise
            return True

        return self.persist(key, call)

    def _head(self, key: str) -> dict[str, Any] | None:
        """What HEAD tells of an object; None where there is none."""
        try:
            return dict(self._ask("head_object", key))
        except AnswerError as error:
            if error.status == 404:
                return None
            raise

    def upload(
        self, files: Sequence[tuple[Path, str]], advance: Callable[[int], None]
    ) -> list[tuple[int, str]]:
        advance = locked(advance)
        sizes = {key: source.stat().st_size for source, key in files}
        with self._pool() as pool:
            whole = {
                key: pool.submit(self._put_whole, source, key, sizes[key], advance)
                for source, key in files
                if sizes[key] <= self.settings.part
            }
            digests = dict(zip(whole, results_of([*whole.values()]), strict=True))
            for source, key in files:
                if key not in whole:
                    digests[key] = self._put_parts(source, key, sizes[key], pool, advance)
        return [(sizes[key], digests[key]) for _, key in files]

    def download(self, files: Sequence[Wanted], advance: Callable[[int], None]) -> list[str]:
        advance = locked(advance)
        for wanted in files:
            wanted.target.write_bytes(b"")
        with self._pool() as pool:
            results_of(
                [
                    pool.submit(self._get_part, wanted, start, advance)
                    for wanted in files
                    for start in self._starts(wanted.size)
                ]
            )
            return results_of([pool.submit(sha256_of, wanted.target) for wanted in files])

    def chunks(self, key: str, size: int) -> Iterator[bytes]:
        for start in self._starts(size):
            pieces: list[bytes] = []
            self._get_range(key, start, size, pieces.append)
            yield from pieces

    def _starts(self, size: int) -> range:
        """Where the parts of an object begin that are fetched one by one; an empty one has one."""
        return range(0, max(size, 1), self.settings.part)

    def folders(self) -> list[str]:
        prefix = self._prefix + "/"
        return [
            entry["Prefix"].removeprefix(prefix).rstrip("/")
            for page in self._pages("list_objects_v2", "", Delimiter="/")
            for entry in page.get("CommonPrefixes", [])
            if entry["Prefix"] != prefix + "/"
        ]

    def stamps(self, start: str = "") -> dict[str, float]:
        return {key: e["LastModified"].timestamp() for key, e in self._listed(start)}

    def sizes(self, start: str = "") -> dict[str, int]:
        # Some programs write an empty object in the place of a folder.
        return {key: e["Size"] for key, e in self._listed(start) if not key.endswith("/")}

    def checksum(self, key: str) -> Checksum | None:
        def call() -> Checksum | None:
            about = self._ask("head_object", key, ChecksumMode="ENABLED")
            return stream.checksum_of(about, self._bucket)

        return self.persist(key, call)

    def _listed(self, start: str) -> Iterator[tuple[str, dict[str, Any]]]:
        prefix = self._prefix + "/"
        for page in self._pages("list_objects_v2", start):
            for entry in page.get("Contents", []):
                yield entry["Key"].removeprefix(prefix), entry

    def uploads(self) -> list[str]:
        return [key for key, _ in self._unfinished("")]

    def _unfinished(self, start: str) -> list[tuple[str, str]]:
        """Keys and names of the multi-part uploads that are not complete."""
        found: list[tuple[str, str]] = []
        # Not every service can list these, nor may every user.
        with contextlib.suppress(RaceError):
            for page in self._pages("list_multipart_uploads", start):
                for upload in page.get("Uploads", []):
                    key = upload["Key"].removeprefix(self._prefix + "/")
                    found.append((key, upload["UploadId"]))
        return found

    def remove(self, key: str) -> None:
        def call() -> None:
            with _ignored("NoSuchKey"):
                self._ask("delete_object", key)

        self.persist(key, call)

    def remove_folder(self, key: str) -> None:
        found = [one for one, _ in self._listed(f"{key}/")]
        with self._pool() as pool:
            # One by one: the request for many at once needs a checksum that not all services know.
            results_of([pool.submit(self.remove, one) for one in found])
        self._abort_all(f"{key}/")

    # One request, its attempts, and many of them at once.

    def _ask(self, operation: str, key: str, **request: Any) -> Any:
        with explained():
            return getattr(self._client, operation)(
                Bucket=self._bucket, Key=f"{self._prefix}/{key}", **request
            )

    def _pages(self, operation: str, start: str, **request: Any) -> Iterator[dict[str, Any]]:
        """The answers to an operation that lists what begins with `start`."""
        while True:

            def call(request: dict[str, Any] = request) -> Any:
                with explained():
                    return getattr(self._client, operation)(
                        Bucket=self._bucket, Prefix=f"{self._prefix}/{start}", **request
                    )

            page = self.persist(start, call)
            yield page
            names = ("ContinuationToken", "KeyMarker", "UploadIdMarker")
            markers = {name: page[f"Next{name}"] for name in names if page.get(f"Next{name}")}
            if not page.get("IsTruncated") or not markers:
                return
            request = request | markers

    @contextlib.contextmanager
    def _pool(self) -> Iterator[ThreadPoolExecutor]:
        """Threads, all of which stop once the block raises."""
        pool = ThreadPoolExecutor(self.settings.workers, thread_name_prefix="storage")
        try:
            yield pool
        except BaseException:
            self._halt.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    # Sending. Each request carries a checksum; afterwards the object is looked at.

    def _put_whole(self, source: Path, key: str, size: int, advance: Callable[[int], None]) -> str:
        body = source.read_bytes()
        require_same_size(source, size, len(body))
        md5 = md5_digest(body)
        checksum = checksum_of(body, md5)

        def call() -> None:
            answer = self._ask("put_object", key, Body=body, **checksum)
            require_arrived(answer, md5, self._bucket)
            if fault := self._fault(key, size, etag_of(answer)):
                raise AttemptError(fault)

        self.persist(key, call)
        advance(size)
        return hashlib.sha256(body).hexdigest()

    def _put_parts(
        self,
        source: Path,
        key: str,
        size: int,
        pool: ThreadPoolExecutor,
        advance: Callable[[int], None],
    ) -> str:
        part = max(self.settings.part, -(-size // MAX_PARTS))
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
            upload = self.persist(key, begin)
            digest = hashlib.sha256()
            parts: list[dict[str, Any]] = []
            waiting: collections.deque[Future[dict[str, Any]]] = collections.deque()
            try:
                # Read here in order, so that what is hashed is what is sent; sent by the pool.
                # The limit on those not sent yet bounds the memory.
                with source.open("rb") as file:
                    for number in range(1, -(-size // part) + 1):
                        body = file.read(part)
                        digest.update(body)
                        sent += len(body)
                        if len(waiting) > self.settings.workers:
                            parts.append(waiting.popleft().result())
                        waiting.append(
                            pool.submit(self._put_part, key, upload, number, body, advance)
                        )
                    del body
                    require_same_size(source, size, sent + len(file.read(1)))
                parts.extend(results_of(waiting))
                self._complete(key, upload, size, parts)
            except BaseException as error:
                if not isinstance(error, AttemptError):  # all is not sent again
                    self._halt.set()
                wait([future for future in waiting if not future.cancel()])
                self._abort(key, upload)
                raise
            return digest.hexdigest()

        # The file is sent again when its parts arrived but the whole did not come to be.
        sha256 = self.persist(key, call, most=3)
        if begun > 1:  # an answer was lost, and with it the name of an upload
            self._abort_all(key)
        return sha256

    def _put_part(
        self,
        key: str,
        upload: str,
        number: int,
        body: bytes,
        advance: Callable[[int], None],
    ) -> dict[str, Any]:
        md5 = md5_digest(body)
        checksum = checksum_of(body, md5)

        def call() -> dict[str, Any]:
            with _ignored("NoSuchUpload"):
                answer = self._ask(
                    "upload_part", key, UploadId=upload, PartNumber=number, Body=body, **checksum
                )
                require_arrived(answer, md5, self._bucket)
                checksums = {n: v for n, v in checksum.items() if n == "ChecksumSHA256"}
                return {"PartNumber": number, "ETag": answer["ETag"], **checksums}
            return {}  # nothing to add to; `_complete` will find out and start over

        part = self.persist(key, call)
        advance(len(body))
        return part

    def _complete(self, key: str, upload: str, size: int, parts: list[dict[str, Any]]) -> None:
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

        if not all(parts) or not self.persist(key, call):
            raise AttemptError("its parts were accepted, but are not there")

    def _fault(self, key: str, size: int, etag: str) -> str:
        """What is wrong with a stored object, or nothing: a success that was told may be false."""
        found = self._head(key)
        if found is None:
            return "it was accepted, but is not there"
        if found.get("ContentLength") != size or (etag and etag_of(found) != etag):
            return "it was accepted, but something else is there"
        return ""

    def _abort(self, key: str, upload: str) -> None:
        """Give up a multi-part upload, so that its parts do not stay (and cost)."""

        def call() -> None:
            with _ignored("NoSuchUpload"):
                self._ask("abort_multipart_upload", key, UploadId=upload)

        # What led here is the error to show; `prune` finds what stays behind.
        with contextlib.suppress(RaceError):
            unhalted = S3Store(
                self._bucket, self._prefix, self.settings, threading.Event(), self._client
            )
            unhalted.persist(key, call, most=2)

    def _abort_all(self, start: str) -> None:
        """Give up all multi-part uploads whose keys begin so."""
        for key, upload in self._unfinished(start):
            self._abort(key, upload)

    # Fetching. Each range goes on where it was cut.

    def _get_part(self, wanted: Wanted, start: int, advance: Callable[[int], None]) -> None:
        with wanted.target.open("r+b") as file:
            file.seek(start)
            self._get_range(wanted.key, start, wanted.size, file.write, advance)

    def _get_range(
        self,
        key: str,
        start: int,
        size: int,
        sink: Callable[[bytes], object],
        advance: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Give the part that begins at `start`, of an object of `size` bytes, to `sink`."""
        end = min(start + self.settings.part, size)

        def call() -> None:
            nonlocal start
            if start == end and size:
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
                    self.require_going(f"{self.address}/{key}")
                    if start + len(chunk) > end:
                        raise AttemptError("the answer is longer than it should be")
                    sink(chunk)
                    start += len(chunk)
                    advance(len(chunk))
            if start < end:
                raise AttemptError("the connection was cut")

        self.persist(key, call)


@contextlib.contextmanager
def _ignored(code: str) -> Iterator[None]:
    """An answer with this error ends the block, and no more."""
    try:
        yield
    except AnswerError as error:
        if error.code != code:
            raise
