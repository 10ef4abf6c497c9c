"""Repositories of huggingface.co: choosing the files of one layout, downloading them, and saying plainly why not.

Everything goes through `huggingface_hub` and its cache, so that what other programs downloaded is found here too.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from duologue.checkpoints.registry import KNOWN, SHORT_NAMES
from duologue.errors import HubError

logger = logging.getLogger(__name__)

_INDEX_SUFFIX = ".safetensors.index.json"
# Where a repository has several indices, the one of the unusual name is transformers'; see traps in sesame/csm-1b.
_TRANSFORMERS_INDEX = f"transformers{_INDEX_SUFFIX}"
_MOSHI_FILE = re.compile(r"(tokenizer-|mimi)[^/]*\.safetensors")
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SMALL_FILES = ("config.json", "tokenizer.json", "mimi_config.json")


@dataclass(frozen=True)
class HubOptions:
    """How to reach the hub: `revision` (branch, tag, commit), access `token`, `cache_dir`, and `offline` for never."""

    revision: str | None = None
    token: str | None = None
    cache_dir: str | os.PathLike[str] | None = None
    offline: bool = False

    @property
    def cache_folder(self) -> str | None:
        """The cache as text, None for the hub library's own."""
        return None if self.cache_dir is None else os.fspath(self.cache_dir)


def resolve(source: str | os.PathLike[str], options: HubOptions, *, codec_only: bool = False) -> Path:
    """The folder or file that `source` names: as it stands on disk, else as a hub id, downloaded.

    Raises `HubError` where it is neither, or cannot be had.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    name = SHORT_NAMES.get(str(source), str(source))
    if not _REPO_ID.fullmatch(name) or name.endswith(".safetensors"):
        raise HubError(
            f"{source}: no such folder or file, and not a hub id (owner/name); known names are {', '.join(KNOWN)}"
        )
    if names_codec(source) and not codec_only:
        raise HubError(f"{name}: holds a codec and no CSM; load it as a codec, or name a CSM checkpoint")
    return fetch(name, lambda names: choose_files(name, names, codec_only=codec_only), options)


def names_codec(source: str | os.PathLike[str]) -> bool:
    """Whether `source` is the hub's name of something that is known to be a codec alone."""
    entry = KNOWN.get(SHORT_NAMES.get(str(source), str(source)))
    return entry is not None and entry.holds == "codec" and not Path(source).expanduser().exists()


def choose_files(repo_id: str, names: Sequence[str], *, codec_only: bool = False) -> list[str]:
    """Which files of a repository make one checkpoint. Raises `HubError` where none do."""
    top = [name for name in names if "/" not in name]
    small = [name for name in _SMALL_FILES if name in top]
    tensors = [name for name in top if name.endswith(".safetensors")]
    moshi = [name for name in tensors if _MOSHI_FILE.fullmatch(name)]
    indices = sorted((name for name in top if name.endswith(_INDEX_SUFFIX)), key=lambda n: n != _TRANSFORMERS_INDEX)
    if "codec.safetensors" in tensors:
        chosen = ["codec.safetensors"]
        if not codec_only:
            chosen += [name for name in names if name == "model.safetensors" or name.startswith("voices/")]
    elif codec_only and moshi:
        chosen = moshi[:1]
    elif indices:
        prefix = indices[0].removesuffix(_INDEX_SUFFIX)
        shards = [name for name in tensors if re.fullmatch(rf"{re.escape(prefix)}-\d+-of-\d+\.safetensors", name)]
        chosen = [indices[0], *shards]
    elif "model.safetensors" in tensors:
        chosen = ["model.safetensors", *moshi[:1]]
    elif len(tensors) == 1:
        chosen = tensors
    else:
        found = ", ".join(tensors) or "none (pickles such as ckpt.pt are refused)"
        raise HubError(f"{repo_id}: cannot tell which safetensors file is the checkpoint; found {found}")
    aside = [name for name in tensors if name not in chosen]
    if aside:
        logger.info("%s: taking %s, leaving aside %s", repo_id, chosen[0], ", ".join(aside))
    return small + chosen


def fetch(repo_id: str, choose: Callable[[list[str]], list[str]], options: HubOptions) -> Path:
    """Downloads those files of a repository that `choose` picks from its list; returns the snapshot's folder.

    Offline, the snapshot is whatever the cache has. Without a network the cache is tried too. Raises `HubError`.
    """
    if options.offline:
        return _cached(repo_id, options, "offline mode is on")
    try:
        api = huggingface_hub.HfApi(token=options.token)
        names = choose(api.list_repo_files(repo_id, revision=options.revision))
        return Path(
            huggingface_hub.snapshot_download(
                repo_id,
                revision=options.revision,
                token=options.token,
                cache_dir=options.cache_folder,
                allow_patterns=names,
            )
        )
    except HubError:
        raise
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        return _cached(repo_id, options, "the hub cannot be reached")
    except Exception as error:  # the HTTP library, and with it the class of a network error, differs between versions
        message = _refusal(repo_id, error, options)
        if message is not None:
            raise HubError(message) from error
        return _cached(repo_id, options, f"the hub cannot be reached ({type(error).__name__}: {_one_line(error)})")


def _cached(repo_id: str, options: HubOptions, why: str) -> Path:
    try:
        folder = huggingface_hub.snapshot_download(
            repo_id,
            revision=options.revision,
            cache_dir=options.cache_folder,
            local_files_only=True,
        )
    except LocalEntryNotFoundError as error:
        # Newer versions know that we took only some of the files, and say where those are.
        folder = str(getattr(error, "snapshot_path", ""))
        if not folder:
            version = f" at revision {options.revision}" if options.revision else ""
            raise HubError(
                f"{repo_id}{version}: {why} and nothing of it is in the cache; download it once with a network, "
                "or give a folder"
            ) from error
    except (HFValidationError, ValueError, OSError) as error:
        raise HubError(f"{repo_id}: {_one_line(error)}") from error
    logger.info("%s: %s; using the cache, %s", repo_id, why, folder)
    return Path(folder)


def _refusal(repo_id: str, error: Exception, options: HubOptions) -> str | None:
    """One line for a request that the hub refused; None where it was not reached."""
    page = f"https://huggingface.co/{repo_id}"
    login = "log in with `hf auth login` or set HF_TOKEN"
    if isinstance(error, GatedRepoError):
        return f"{repo_id}: gated; ask for access at {page}, then {login}"
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id}: has no revision {options.revision!r}; see {page}"
    if isinstance(error, RepositoryNotFoundError):
        return f"{repo_id}: no such folder here and no such repository at {page}; if it is private, {login}"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            return f"{repo_id}: access refused ({status}); see {page}, and {login}"
        if status is not None and status < 500:
            return f"{repo_id}: the hub answered {status}: {_one_line(error)}"
        return None
    if isinstance(error, HFValidationError):
        return f"{repo_id}: not a hub id ({_one_line(error)})"
    if isinstance(error, OSError) and error.errno is not None:  # the disk, not the network
        return f"{repo_id}: cannot be stored ({error.strerror})"
    return None


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:200] + "..."
