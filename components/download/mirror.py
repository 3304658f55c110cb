"""A mirror of public files in object storage, so that a cluster fetches each of them once.

Below the mirror's address, each file is an artifact of its own (components.common.storage):

    files/SHA256          the file with that digest
    addresses/SHA256      of an address: the digest of what was last found there

The second is asked only where the digest is not known beforehand: the mirror then answers for the
address, unless the source itself says that something else lies there now.
"""

import hashlib
import logging
import re
from collections.abc import Callable
from pathlib import Path

from components.common import storage
from components.common.errors import DataError, RaceError
from components.common.files import scratch_folder
from components.common.transfer import shown_url
from components.download.fetch import Fetched, file_name, state_of

log = logging.getLogger(__name__)

_NOTE = "sha256"


class Mirror:
    """The mirror at `uri` (s3:// or a folder); with an empty one nothing is kept or found.

    A mirror is a convenience: where it fails, that is logged, and the file comes from its source.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri.rstrip("/")
        self._state = ""  # of the source, when it was asked

    def serves(self, url: str) -> bool:
        """Whether files from there are mirrored: those that come over the public network."""
        return bool(self._uri) and url.startswith(("http://", "https://"))

    def take(
        self, url: str, expected: str, path: Path, check: Callable[[Path], None]
    ) -> Fetched | None:
        """Write the mirrored file to the new file `path`; None when it is not in the mirror.

        Args:
            expected: its sha256, "" where it is not known.
            check: raises DataError for a file that should not be taken.

        Raises:
            OSError: `path` cannot be written.
        """
        if not self.serves(url):
            return None
        try:
            with scratch_folder(path.parent) as scratch:
                digest = expected or self._noted(url, scratch)
                if not digest or storage.find(self._file(digest)) is None:
                    return None
                found = storage.fetch(self._file(digest), scratch / "file")
                (entry,) = found.manifest.files
                if entry.sha256 != digest:
                    raise DataError(f"{found.address}: not the file of that digest")
                check(scratch / "file" / entry.path)
                (scratch / "file" / entry.path).rename(path)
        except RaceError as error:
            log.warning("not taken from the mirror: %s", error)
            return None
        return Fetched(entry.size, entry.sha256, "sha256 in the mirror")

    def keep(self, url: str, path: Path, fetched: Fetched) -> None:
        """Put a file that was fetched from its source into the mirror."""
        if not self.serves(url):
            return
        producer = {"address": shown_url(url)}
        try:
            # Over what may be there: it was not taken, so it is damaged or came from elsewhere.
            storage.publish(path, self._file(fetched.sha256), producer=producer, overwrite=True)
            with scratch_folder() as scratch:
                note = scratch / _NOTE
                note.write_text(fetched.sha256)
                producer["state"] = self._state
                storage.publish(note, self._address(url), producer=producer, overwrite=True)
        except (RaceError, OSError) as error:
            log.warning("%s was not put into the mirror: %s", file_name(url), error)

    def _noted(self, url: str, scratch: Path) -> str:
        self._state = state_of(url)
        if storage.find(self._address(url)) is None:
            return ""
        found = storage.fetch(self._address(url), scratch / "note")
        if self._state and found.manifest.producer.get("state") != self._state:
            return ""
        digest = (scratch / "note" / _NOTE).read_text()
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise DataError(f"{self._address(url)}: no digest in it")
        return digest

    def _file(self, digest: str) -> str:
        return f"{self._uri}/files/{digest}"

    def _address(self, url: str) -> str:
        return f"{self._uri}/addresses/{hashlib.sha256(url.encode()).hexdigest()}"
