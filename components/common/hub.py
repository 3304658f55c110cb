"""Models and data sets of the Hugging Face hub, by their addresses.

    hf://OWNER/MODEL[@REVISION]            a model
    hf://datasets/OWNER/NAME[@REVISION]    a data set

A revision is a branch, a tag or a commit. The work is done by huggingface_hub, with its cache and
its variables: HF_TOKEN, HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE.
"""

import contextlib
import functools
import hashlib
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.common.errors import ConfigError, DataError, OutputError, RaceError, TransferError
from components.common.transfer import told

SCHEME = "hf://"
TOKEN = "HF_TOKEN"

# Names as the hub allows them (huggingface_hub's validate_repo_id), and git's for revisions.
_ADDRESS = re.compile(
    r"hf://(datasets/)?(\w[\w.-]{0,95}/\w[\w.-]{0,95})(?:@(\w[\w./-]{0,200}))?\Z", re.ASCII
)


@dataclass(frozen=True)
class Repository:
    """A repository of the hub; `revision` is "" for the newest."""

    name: str
    revision: str = ""
    dataset: bool = False

    def __str__(self) -> str:
        kind, at = "datasets/" * self.dataset, f"@{self.revision}" * bool(self.revision)
        return f"{SCHEME}{kind}{self.name}{at}"

    @property
    def fixed(self) -> bool:
        """Whether it never changes: the revision is a whole commit."""
        return bool(re.fullmatch("[0-9a-f]{40}", self.revision))

    @property
    def named(self) -> dict[str, Any]:
        """As huggingface_hub's functions want it."""
        kind = "dataset" if self.dataset else "model"
        return {"repo_id": self.name, "repo_type": kind, "revision": self.revision or None}


def parse(address: str, *, dataset: bool | None = None) -> Repository:
    """The repository at an address.

    Args:
        dataset: whether it has to be that of a data set, or of a model; None: either.

    Raises:
        ConfigError: it is no such address.
    """
    found = _ADDRESS.match(address)
    if not found or "--" in found[2] or ".." in found[2] or found[2].startswith("datasets/"):
        raise ConfigError(f"{address}: not an address of the Hugging Face hub", hint=_FORMS)
    if dataset not in (None, bool(found[1])):
        wanted = "a data set" if dataset else "a model"
        raise ConfigError(f"{address}: {wanted} is wanted here", hint=_FORMS)
    return Repository(found[2], found[3] or "", bool(found[1]))


def require_unchosen(where: str, repository: Repository, hint: str) -> None:
    """Refuse an address to write to that has a revision; `where` is the parameter and its value.

    Raises:
        ConfigError: it has one.
    """
    if repository.revision:
        raise ConfigError(f"{where}: the revision is not yours to choose", hint=hint)


_FORMS = "Give hf://OWNER/MODEL or hf://datasets/OWNER/NAME, with @REVISION where it matters"


def commit_of(repository: Repository) -> str:
    """The commit that the repository's revision is now.

    Raises:
        ConfigError, DataError, TransferError: as `fetch` raises them.
    """
    with _explained(repository) as hub:
        return str(hub.HfApi().repo_info(**repository.named).sha)


# Of a model: its settings, and its weights in one form or the other.
SETTINGS, SAFETENSORS, PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"
# Settings, tokenizer, card and what publishing adds; not other libraries' weights.
_MODEL = ("*.json", "*.txt", "README.md")


def fetch(repository: Repository) -> Path:
    """A folder of huggingface_hub's cache with the repository's files; its name is the commit.

    Of a model's weights only one form is fetched, safetensors where they are there.

    Raises:
        ConfigError: huggingface_hub is not installed.
        DataError: there is no such repository or revision, or it wants a token.
        TransferError: the hub cannot be reached and the cache does not have it.
        OSError: the cache cannot be written.
    """
    if repository.dataset:
        return _download(repository, None)
    folder = _download(repository, [*_MODEL, SAFETENSORS])
    return folder if (folder / SAFETENSORS).exists() else _download(repository, [*_MODEL, PICKLE])


def _download(repository: Repository, patterns: list[str] | None) -> Path:
    with _explained(repository) as hub:
        return Path(hub.snapshot_download(**repository.named, allow_patterns=patterns))


# The hub's own, which says what goes by Git LFS.
_ATTRIBUTES = ".gitattributes"


def upload(folder: Path, repository: Repository, tag: str = "") -> Repository:
    """Make a folder the content of a model's repository, in one commit; where it is then.

    A repository that is not there is made, a private one. What was there before stays in its
    history. The same content under the same tag is a success, and changes nothing.

    Raises:
        ConfigError: huggingface_hub is not installed.
        DataError: the hub wants another token.
        OutputError: the tag is that of something else. Nothing was changed.
        TransferError: the hub cannot be reached, or failed; the repository is as it was.
        OSError: a file cannot be read.
    """
    files = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}
    with _explained(repository) as hub:
        api, name = hub.HfApi(), repository.name
        api.create_repo(name, private=True, exist_ok=True)

        def tree(commit: str) -> dict[str, Any]:
            entries = api.list_repo_tree(name, revision=commit, recursive=True)
            return {e.path: e for e in entries if hasattr(e, "blob_id") and e.path != _ATTRIBUTES}

        tagged = {one.name: one.target_commit for one in api.list_repo_refs(name).tags}
        if tag in tagged:
            if not _same(files, tree(tagged[tag])):
                raise OutputError(
                    f"{repository}@{tag}: something else has been published here",
                    hint="Publish under another name",
                )
            return Repository(name, tag)
        parent = api.repo_info(name).sha
        done = api.create_commit(
            name,
            [hub.CommitOperationAdd(path, str(file)) for path, file in files.items()]
            + [hub.CommitOperationDelete(path) for path in tree(parent).keys() - files.keys()],
            commit_message=f"Publish {tag}".strip(),
            parent_commit=parent,
        )
        if tag:
            api.create_tag(name, tag=tag, revision=done.oid)
    return Repository(name, tag or done.oid)


def _same(files: Mapping[str, Path], entries: Mapping[str, Any]) -> bool:
    """Whether files are those of a commit, by the digests that git and Git LFS have of them."""

    def digest(path: Path, algorithm: str, head: bytes = b"") -> str:
        with path.open("rb") as file:
            start = functools.partial(hashlib.new, algorithm, head, usedforsecurity=False)
            return hashlib.file_digest(file, start).hexdigest()

    def same(path: Path, entry: Any) -> bool:
        if entry.lfs is not None:
            return bool(entry.lfs.sha256 == digest(path, "sha256"))
        return bool(entry.blob_id == digest(path, "sha1", b"blob %d\0" % path.stat().st_size))

    return files.keys() == entries.keys() and all(same(p, entries[n]) for n, p in files.items())


@contextlib.contextmanager
def _explained(repository: Repository) -> Iterator[Any]:
    """Gives huggingface_hub; what it raises becomes an error of ours."""
    try:
        import huggingface_hub as hub
        from huggingface_hub import errors
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError:
        raise ConfigError(
            f"{repository}: this Python lacks huggingface_hub", hint="pip install huggingface_hub"
        ) from None
    library = _http_error().__module__.partition(".")[0]
    logging.getLogger(library).setLevel(logging.WARNING)  # it tells of each request
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield hub
    except errors.GatedRepoError as error:
        raise DataError(
            f"{repository}: is gated",
            hint=f"Accept its terms on its page, and set {TOKEN} to a token of that account",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise DataError(f"{repository}: has no such revision", hint="Check it") from error
    except errors.RepositoryNotFoundError as error:
        raise DataError(
            f"{repository}: no such repository, or a private one",
            hint=f"Check the address, and set {TOKEN} if it is private",
        ) from error
    except errors.LocalEntryNotFoundError as error:
        if hub.constants.is_offline_mode():
            why = DataError(
                f"{repository}: HF_HUB_OFFLINE is set, and it is not in the cache",
                hint="Unset it, or fetch it once while it is not set",
            )
            raise why from error
        raise _unreached(repository, error) from error
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled) as error:
        raise _refused(repository, error) from error
    except RuntimeError as error:  # of an upload, with its cause
        if isinstance(error.__cause__, errors.HfHubHTTPError):
            raise _refused(repository, error.__cause__) from error
        raise _unreached(repository, error) from error
    except ValueError as error:
        raise DataError(f"{repository}: the hub does not take it ({error})") from error
    # ConnectionError and TimeoutError are of hf_xet, which moves large files.
    except (_http_error(), ConnectionError, TimeoutError) as error:
        raise _unreached(repository, error) from error


def _http_error() -> type[Exception]:
    """The base of the errors of the HTTP library that huggingface_hub has chosen."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]


def _refused(repository: Repository, error: Exception) -> RaceError:
    answer = getattr(error, "response", None)
    status = getattr(answer, "status_code", 0)
    what = f"{repository}: the hub answered {status}" if status else f"{repository}: offline"
    said = told(
        getattr(answer, "text", None) or "", str(getattr(error, "server_message", "") or "")
    )
    what += f" ({said})" * bool(said)
    if status in (401, 403):
        return DataError(what, hint=f"Set {TOKEN} to a token that may do this")
    return TransferError(what, hint="Check HF_ENDPOINT, and try again later")


def _unreached(repository: Repository, error: BaseException) -> TransferError:
    cause = error.__cause__ or error
    why = " ".join(str(cause).split())[:200] or type(cause).__name__
    return TransferError(
        f"{repository}: the hub cannot be reached, and the cache has it not ({why})",
        hint="Check the network, the proxy and HF_ENDPOINT",
    )
