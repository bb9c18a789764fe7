"""Locating models in a local folder or on the Hugging Face Hub.

Only the required files are downloaded. Pickled weights are downloaded only with the user's consent.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kinetophone.errors import RequestError, reason
from kinetophone.hub.weights import choose_weights, is_weight_file, refusal

_SMALL = (".json", ".txt", ".model")
_TIMEOUT_S = 10.0
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILE = re.compile(r"(?P<model>[^/@]+/[^/@]+)(?:@(?P<revision>[^/@]+))?/(?P<file>.+)")


@dataclass(frozen=True, slots=True)
class Source:
    """A local folder with components, and where it came from.

    Attributes:
        folder: Where the files are.
        name: The folder or Hub id as given by the user.
        revision: Commit of the Hub repository; None for a folder.
    """

    folder: Path
    name: str
    revision: str | None = None


def locate(
    name_or_path: str | os.PathLike[str],
    components: Iterable[str],
    revision: str | None = None,
    allow_pickle: bool = False,
) -> Source:
    """The local folder of a model; downloads the named components from the Hub if necessary.

    Args:
        name_or_path: a folder, or a Hub id such as "cvssp/audioldm-m-full".
        components: required sub-folders; "" is the top folder of the repository.
        revision: branch, tag or commit on the Hub; default: the default branch.
        allow_pickle: download pickled weights of components that have no safetensors.

    Raises:
        RequestError: it is neither a folder nor a Hub id, the Hub does not have it, or the Hub cannot be
            reached and it was not downloaded before.
    """
    name = os.fspath(name_or_path)
    if Path(name).is_dir():
        return Source(Path(name), name)
    if not _is_id(name):
        raise RequestError([f"'{name}' is neither a folder nor a Hub id like 'owner/name'"])
    return _download(name, tuple(components), revision, allow_pickle)


def pickled_parts(
    name_or_path: str | os.PathLike[str], components: Iterable[str], revision: str | None = None
) -> list[str]:
    """Pickled weight files that loading these components would read; nothing is downloaded.

    Raises:
        RequestError: it is neither a folder nor on the Hub.
        ConnectionError: the Hub cannot be reached.
    """
    name = os.fspath(name_or_path)
    if Path(name).is_dir():
        files = [path.relative_to(name).as_posix() for path in Path(name).rglob("*") if path.is_file()]
    elif _is_id(name):
        files = _ask(name, revision)
    else:
        raise RequestError([f"'{name}' is neither a folder nor a Hub id like 'owner/name'"])
    return [file for component in components for file in _weights(files, component)[1]]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on the Hub: its path in the repository, its size in bytes, and whether it is already cached."""

    path: str
    size: int
    pickled: bool
    cached: bool


def remote_files(name: str, components: Iterable[str], revision: str | None = None) -> list[RemoteFile]:
    """Files that loading these components of a Hub repository would read; nothing is downloaded.

    Raises:
        RequestError: there is no such repository or revision, it is gated, or ``name`` is not a Hub id.
        ConnectionError: the Hub cannot be reached.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    if not _is_id(name):
        raise RequestError([f"'{name}' is neither a folder nor a Hub id like 'owner/name'"])
    sizes = _sizes(name, revision)
    with _permitted(name):  # metadata of a gated repository is public, so check access too
        HfApi().auth_check(name)
    chosen = list(components)
    pickled = {file for component in chosen for file in _weights(sizes, component)[1]}
    return [
        RemoteFile(
            path,
            sizes[path],
            path in pickled,
            isinstance(try_to_load_from_cache(name, path, revision=revision), str),
        )
        for path in _wanted(name, list(sizes), tuple(chosen), allow_pickle=True)
    ]


def small_file(name: str, path: str, revision: str | None = None) -> Path | None:
    """The local path of one small file, such as a configuration; None if it does not exist.

    Only this file is downloaded.

    Args:
        name: a folder, or a Hub id.
        path: path of the file in it.
        revision: branch, tag or commit on the Hub.

    Raises:
        RequestError: there is no such repository or revision, it is gated, or ``name`` is not a Hub id.
        ConnectionError: the Hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    if Path(name).is_dir():
        return Path(name) / path if (Path(name) / path).is_file() else None
    if not _is_id(name):
        raise RequestError([f"'{name}' is neither a folder nor a Hub id like 'owner/name'"])
    cached = try_to_load_from_cache(name, path, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    if path not in _ask(name, revision):
        return None
    with _permitted(name):
        return Path(hf_hub_download(name, path, revision=revision))


def _weights(files: Iterable[str], component: str) -> tuple[list[str], list[str]]:
    """The weight files of a component among ``files`` of a repository, and which of these are pickles."""
    inside = {PurePosixPath(f).name: f for f in files if str(PurePosixPath(f).parent) == (component or ".")}
    weights = choose_weights(inside)
    chosen = [inside[name] for name in weights.names] if weights else []
    return chosen, chosen if weights and weights.pickled else []


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a Hub repository, written "owner/name/folder/in/it/network.pt".

    Attributes:
        model: Hub id of the repository.
        revision: The part after "@" in "owner/name@revision/network.pt"; None for the default branch.
        file: Path of the file in the repository.
    """

    model: str
    revision: str | None
    file: str

    @classmethod
    def read(cls, name: str) -> HubFile | None:
        """Parse a name; None if it cannot be a file on the Hub."""
        match = _FILE.fullmatch(name)
        return cls(**match.groupdict()) if match and _is_id(match["model"]) else None

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, whose files never change."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None


def locate_file(name_or_path: str | os.PathLike[str]) -> Path:
    """The local path of a file; one on the Hub (see :class:`HubFile`) is downloaded if necessary.

    Raises:
        RequestError: there is no such file locally or on the Hub, or the Hub cannot be reached and the file
            was not downloaded before.
    """
    name = os.fspath(name_or_path)
    if Path(name).is_file():
        return Path(name)
    found = HubFile.read(name)
    if found is None:
        raise RequestError(
            [f"there is no file '{name}', and it is not a Hub file like 'owner/name/network.pt'"]
        )
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(found.model, found.file, revision=found.revision)
    if found.is_pinned and isinstance(cached, str):
        return Path(cached)
    try:
        files = _ask(found.model, found.revision)
    except ConnectionError as error:
        if isinstance(cached, str):
            return Path(cached)
        raise RequestError([_unreachable(name, error, "a local file")]) from error
    except RequestError as error:
        raise RequestError([f"there is no local file '{name}', and {error}"]) from error
    if found.file not in files:
        raise RequestError(
            [f"there is no local file '{name}', and no '{found.file}' in '{found.model}' on the Hub"]
        )
    with _permitted(found.model):
        return Path(hf_hub_download(found.model, found.file, revision=found.revision))


def _is_id(name: str) -> bool:
    """Whether ``name`` is a valid Hub id "owner/name", and not meant as a path."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _ask(model: str, revision: str | None = None) -> list[str]:
    """The files of a Hub repository; see :func:`_sizes`."""
    return list(_sizes(model, revision))


def _sizes(model: str, revision: str | None = None) -> dict[str, int]:
    """The files of a Hub repository, and their sizes in bytes.

    Called before a download, because it fails at once if the Hub is offline; a download retries for long.

    Raises:
        RequestError: there is no such repository or revision, or it is gated.
        ConnectionError: the Hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    with _permitted(model):
        try:
            info = HfApi().model_info(model, revision=revision, timeout=_TIMEOUT_S, files_metadata=True)
        except GatedRepoError:  # a subclass of RepositoryNotFoundError
            raise
        except RepositoryNotFoundError:
            raise RequestError(
                [f"the Hub has no model '{model}' (or it is private: log in with 'hf auth login')"]
            ) from None
        except RevisionNotFoundError:
            raise RequestError([f"'{model}' has no revision '{revision}' on the Hub"]) from None
        except Exception as error:  # offline: each library underneath raises its own exception types
            raise ConnectionError(str(error) or type(error).__name__) from error
    return {file.rfilename: file.size or 0 for file in info.siblings or ()}


@contextmanager
def _permitted(model: str) -> Iterator[None]:
    """Turn errors of gated repositories into a message that says what to do."""
    from huggingface_hub.errors import GatedRepoError

    try:
        yield
    except GatedRepoError:
        raise RequestError(
            [f"'{model}' is gated: accept its terms on the Hub, then log in with 'hf auth login'"]
        ) from None


def _download(name: str, components: tuple[str, ...], revision: str | None, allow_pickle: bool) -> Source:
    from huggingface_hub import snapshot_download

    try:
        files = _ask(name, revision)
    except ConnectionError as error:
        return _cached(name, components, revision, error)
    wanted = _wanted(name, files, components, allow_pickle)
    # By the revision's name and not its commit, so that the cache can resolve the name offline.
    with _permitted(name):
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    return Source(folder, name, folder.name)


def _cached(name: str, components: tuple[str, ...], revision: str | None, error: ConnectionError) -> Source:
    """The cached copy of an earlier download; missing files show up when it is read."""
    from huggingface_hub import try_to_load_from_cache

    for component in components:
        path = f"{component}/config.json" if component else "config.json"
        found = try_to_load_from_cache(name, path, revision=revision)
        if isinstance(found, str):
            folder = Path(found.removesuffix(path))
            return Source(folder, name, folder.name)
    raise RequestError([_unreachable(name, error, "a local folder")])


def _unreachable(name: str, error: ConnectionError, instead: str) -> str:
    return (
        f"the Hub cannot be reached for '{name}', which was not downloaded before "
        f"({reason(error)}): "
        f"connect to the internet, or give {instead}"
    )


def _wanted(name: str, files: list[str], components: tuple[str, ...], allow_pickle: bool) -> list[str]:
    """The files to download: configurations, and one set of weights per component."""
    wanted, pickled = [], []
    for component in components:
        inside = [f for f in files if str(PurePosixPath(f).parent) == (component or ".")]
        chosen, unsafe = _weights(inside, component)
        wanted += [f for f in inside if f.endswith(_SMALL) and not is_weight_file(PurePosixPath(f).name)]
        wanted += chosen
        pickled += unsafe
    if pickled and not allow_pickle:
        raise RequestError([refusal(f"'{name}', for some parts,", pickled)])
    return wanted
