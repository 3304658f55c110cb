"""One attempt at an HTTP download, from its beginning or from where an earlier attempt was cut."""

import contextlib
import email.utils
import re
import time
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import requests
import urllib3

from components.common.retry import AttemptError, Patience
from components.common.transfer import Stream, causes_of, untrusted

CHUNK = 1 << 20

_HINTS = {
    401: "Check that the address is public, or put user and password into it",
    403: "Check that the address is public",
    404: "Check the address",
    410: "Check the address",
}


@contextlib.contextmanager
def open_http(url: str, *, start: int, version: str | None, patience: Patience) -> Iterator[Stream]:
    """The body at `url` from byte `start` on; `version` is the validator an earlier Stream gave.

    The range is asked for with If-Range (RFC 9110, 13.1.5): a server that does not know ranges, or
    has another version by now, answers with the whole, and the Stream starts at 0.

    Raises:
        AttemptError: also by the stream's chunks.
    """
    # Compressed on the way, sizes and ranges would be about something other than the file.
    headers = {"Accept-Encoding": "identity"}
    if start and version:
        headers |= {"Range": f"bytes={start}-", "If-Range": version}
    with requests.Session() as session:
        try:
            response = session.get(
                url, headers=headers, stream=True, timeout=(patience.connect, patience.read)
            )
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise _explained(error, patience) from error
        with response:
            yield _stream(url, start, version, response, patience)


def state_of_http(url: str, patience: Patience) -> str:
    """What tells the file that is at `url` now from any other, "" where the server does not say.

    Raises:
        AttemptError: the server cannot be asked.
    """
    headers = {"Accept-Encoding": "identity"}
    try:
        answer = requests.head(
            url, headers=headers, allow_redirects=True, timeout=(patience.connect, patience.read)
        )
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _explained(error, patience) from error
    if answer.status_code != 200:
        raise _refused(answer)
    # A weak ETag stays the same for bytes that mean the same.
    tag, modified = answer.headers.get("ETag", ""), _safe_date(answer.headers)
    if not tag.startswith('"') and not modified:
        return ""
    return f"{tag} {modified} {answer.headers.get('Content-Length')}"


def _stream(
    url: str, start: int, version: str | None, response: requests.Response, patience: Patience
) -> Stream:
    headers = response.headers
    if urlsplit(url).scheme == "https" and urlsplit(response.url).scheme != "https":
        raise AttemptError("redirected from https to http", passes=False, hint="Check the address")
    asked = "Range" in response.request.headers
    if response.status_code == 416 and asked:
        raise AttemptError("the server refused to go on from the cut", restart=True)
    if response.status_code not in (200, 206) or (response.status_code == 206 and not asked):
        raise _refused(response)
    encoding = headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity" and not urlsplit(url).path.endswith((".gz", ".tgz")):
        # Some servers call a .tar.gz's own compression an encoding: its bytes are the file's.
        raise AttemptError(f"the server insists on Content-Encoding {encoding}", passes=False)

    chunks = _chunks(response.raw, patience)
    if response.status_code == 200:
        length = headers.get("Content-Length", "")
        # With chunked coding a Content-Length means nothing (RFC 9112, 6.3); a cut is seen anyway.
        total = int(length) if length.isdecimal() and not response.raw.chunked else None
        return Stream(0, total, _validator(headers), chunks)
    part = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
    now = _validator(headers)
    if part is None or int(part[1]) != start or now not in (None, version):
        raise AttemptError("the server sent another part than it was asked for", restart=True)
    return Stream(start, None if part[2] == "*" else int(part[2]), version, chunks)


def _chunks(raw: urllib3.HTTPResponse, patience: Patience) -> Iterator[bytes]:
    while True:
        try:
            # read1, unlike read, gives what has arrived: a cut loses nothing, a bar keeps moving.
            chunk = raw.read1(CHUNK, decode_content=False)
        except urllib3.exceptions.HTTPError as error:
            raise _explained(error, patience) from error
        if not chunk:
            return
        yield chunk


def _validator(headers: Mapping[str, str]) -> str | None:
    """What If-Range may hold: a strong ETag; without any ETag, a date that is safe to rely on."""
    tag = headers.get("ETag")
    if tag is not None:
        return tag if tag.startswith('"') else None
    return _safe_date(headers)


def _safe_date(headers: Mapping[str, str]) -> str | None:
    """Last-Modified, if it tells versions apart.

    It has a resolution of one second, so it does only if the answer was given in a later second
    (RFC 9110, 8.8.2.2).
    """
    modified, now = _seconds(headers.get("Last-Modified")), _seconds(headers.get("Date"))
    if modified is None or now is None or modified >= now:
        return None
    return headers["Last-Modified"]


def _seconds(date: str | None) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp() if date else None
    except ValueError:
        return None


def _refused(response: requests.Response) -> AttemptError:
    status = response.status_code
    wait = None
    asked = response.headers.get("Retry-After", "")
    if asked.isdecimal():
        wait = float(asked)
    elif (date := _seconds(asked)) is not None:
        wait = max(0.0, date - time.time())
    return AttemptError(
        f"the server answered {status} {response.reason or ''}".rstrip(),
        passes=status in (408, 425, 429) or status >= 500,
        wait=wait,
        hint=_HINTS.get(status, ""),
    )


def _explained(error: BaseException, patience: Patience) -> AttemptError:
    """The cause in our words: the libraries' texts hold the URL, and with it perhaps a password."""
    causes = list(causes_of(error))

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if why := untrusted(error):
        return AttemptError(
            why,
            passes=False,
            hint="Check the address and the clock, or name the right CA in REQUESTS_CA_BUNDLE",
        )
    if caused_by(requests.TooManyRedirects):
        return AttemptError("redirected too many times", passes=False, hint="Check the address")
    if caused_by(
        requests.exceptions.InvalidURL,
        requests.exceptions.InvalidSchema,
        requests.exceptions.MissingSchema,
        urllib3.exceptions.LocationParseError,
    ):
        return AttemptError(
            "no valid URL, or redirected to none", passes=False, hint="Check the address"
        )
    if caused_by(urllib3.exceptions.NameResolutionError):
        return AttemptError("the host's name could not be resolved")
    if caused_by(requests.ConnectTimeout):
        return AttemptError(f"no connection within {patience.connect:g} s")
    if caused_by(requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError):
        return AttemptError(f"nothing received for {patience.read:g} s")
    if caused_by(urllib3.exceptions.IncompleteRead):
        return AttemptError("the transfer was cut")
    for cause in causes:
        if isinstance(cause, OSError) and cause.strerror:
            return AttemptError(cause.strerror.lower())
    return AttemptError(f"the transfer failed ({type(causes[-1]).__name__})")
