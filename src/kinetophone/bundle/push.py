"""Upload a bundle to the Hugging Face Hub: its parts and its model card, but no other files in the folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from kinetophone.bundle.spec import ADAPTER_NAME, BASE_FOLDERS, CONFIG_NAME, BundleSpec
from kinetophone.errors import RequestError, reason

CARD = "README.md"
_SUFFIXES = (".safetensors", ".json", ".txt", ".model")
_PARTS = ("audio", "video", "coupling", "classifiers")


def bundle_files(name_or_path: str | os.PathLike[str]) -> tuple[Path, list[Path]]:
    """The folder of a bundle, and the files to upload as paths relative to that folder.

    Raises:
        RequestError: It is not a bundle, or it lacks a coupling or a model card with metadata, or its bases
            are local folders.
    """
    spec = BundleSpec.read(name_or_path)
    folder = spec.folder
    assert folder is not None
    files = sorted(path.relative_to(folder) for path in _published(folder, spec.file))
    problems = []
    if spec.file is not None and spec.file.name != ADAPTER_NAME:
        problems.append(f"'{spec.file}' would not be found on the Hub: name it {ADAPTER_NAME}")
    weights = [path for path in files if path.parts[0] == "coupling" and path.suffix == ".safetensors"]
    if spec.file is None and not weights:
        problems.append(f"'{folder}' has no coupling/*.safetensors")
    problems += [
        f"the {name} base is a local folder, '{base[key]}': train on one from the Hub, or write "
        "the bundle with its bases by 'kinetophone pack'"
        for name, base in spec.bases.items()
        for key in sorted(BASE_FOLDERS & base.keys())
        if Path(base[key]).is_absolute() or Path(base[key]).is_dir()
    ]
    card = folder / CARD
    if not card.is_file() or not card.read_text(encoding="utf-8").startswith("---\n"):
        problems.append(
            f"'{card}' is not a model card: write one that starts with metadata between two lines '---'; "
            "that of the bundle 'hits' is an example"
        )
    if problems:
        raise RequestError(problems)
    return folder, files


def push(name_or_path: str | os.PathLike[str], repository: str, *, private: bool = False) -> str:
    """Upload a bundle as one commit; creates the repository if necessary.

    Args:
        name_or_path: the bundle.
        repository: Hub id, "owner/name"; the logged-in user needs write access.
        private: make a new repository private.

    Returns:
        The URL of the commit.

    Raises:
        RequestError: The bundle is incomplete, the id malformed, or the Hub refuses or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    folder, files = bundle_files(name_or_path)
    additions = [CommitOperationAdd(path.as_posix(), folder / path) for path in files]
    try:
        hub = HfApi()
        hub.create_repo(repository, private=private, exist_ok=True)
        commit = hub.create_commit(repository, additions, commit_message="Bundle of kinetophone")
    except HFValidationError:
        raise RequestError([f"'{repository}' is not a Hub id like 'owner/name'"]) from None
    except LocalTokenNotFoundError:
        raise RequestError(["not logged in to the Hub: log in with 'hf auth login'"]) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        cure = "; log in with 'hf auth login' as a user with write access" if status in (401, 403) else ""
        raise RequestError([f"the Hub refuses '{repository}' (HTTP {status}){cure}"]) from error
    except Exception as error:  # offline: each library underneath raises its own exception types
        raise RequestError([f"the Hub cannot be reached: {reason(error)}"]) from error
    return str(commit.commit_url)


def _published(folder: Path, adapter: Path | None) -> Iterator[Path]:
    if adapter is not None:
        yield from (path for path in (adapter, folder / CARD) if path.is_file())
        return
    yield from (folder / name for name in (CONFIG_NAME, CARD) if (folder / name).is_file())
    for part in _PARTS:
        yield from (path for path in (folder / part).rglob("*") if path.suffix in _SUFFIXES)
