"""Files of data sets by hash: checked where they lie, or brought from the hub or an address. It reads no rows."""

from __future__ import annotations

import hashlib
import os
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from credo.console import first_line

TIMEOUT = 60.0
"""Seconds without a byte after which a download is given up."""
_CHUNK = 1 << 20


def sha256_of(files: Sequence[Path]) -> str:
    """SHA-256 of the bytes of ``files``, one after the other."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def checked(files: Sequence[Path], expected: str, name: str) -> str:
    """The SHA-256 of ``files``. Raises ValueError if it is not the ``expected`` one; "" expects nothing."""
    found = sha256_of(files)
    if expected and found != expected:
        shown = ", ".join(map(str, files))
        raise ValueError(
            f"{name}: the sha256 of {shown} is {found}, and {expected} is expected, so these are not the problems that "
            "the name stands for; get the right file, or evaluate it under its own name."
        )
    return found


def from_address(address: str, sha256: str) -> Path:
    """The file at an http(s) address, from the cache if it was brought before.

    Raises ValueError without a checksum or with a wrong one, and if there is nothing to be had.
    """
    suffix = "".join(Path(urlsplit(address).path).suffixes[-1:])
    if sha256:
        kept = cache() / f"{sha256}{suffix}"
        if kept.exists():
            checked([kept], sha256, address)
            return kept
    cache().mkdir(parents=True, exist_ok=True)
    aside = cache() / f"{os.getpid()}.tmp"
    try:
        _download(address, aside)
        refuse_unpinned(address, sha256_of([aside]), sha256)
        checked([aside], sha256, address)
        return aside.rename(cache() / f"{sha256}{suffix}")
    finally:
        aside.unlink(missing_ok=True)


def from_hub(name: str, place: str) -> list[Path]:
    """The files of ``REPOSITORY:PATTERN`` on the Hugging Face hub, in the order of their names.

    Raises ValueError if the hub cannot be reached or has no such file.
    """
    from huggingface_hub import snapshot_download

    repository, _, pattern = place.partition(":")
    try:
        folder = Path(snapshot_download(repository, repo_type="dataset", allow_patterns=pattern))
    except Exception as error:  # whatever the network, the hub or its cache say
        raise ValueError(
            f"{name} could not be had from the hub's {repository} ({first_line(error)}); give --data-folder "
            "with its file."
        ) from error
    files = sorted(folder.glob(pattern))
    if not files:
        raise ValueError(f"The hub's {repository} holds no {pattern}; give --data-folder with the file of {name}.")
    return files


def refuse_unpinned(name: str, found: str, expected: str) -> None:
    """Raises ValueError for what came over a network without a checksum to hold it to."""
    if not expected:
        raise ValueError(
            f"{name} was fetched without a checksum to hold it to. Its sha256 is {found}: if that is what you expect, "
            f"name it as {name}#sha256={found}."
        )


def split_pin(source: str) -> tuple[str, str]:
    """A source and the checksum that ``#sha256=...`` behind it asks for, "" if nothing does.

    Raises ValueError for one that is no SHA-256.
    """
    name, mark, pin = source.partition("#sha256=")
    if mark and not re.fullmatch(r"[0-9a-f]{64}", pin):
        raise ValueError(f"'{source}': a sha256 is 64 digits from 0 to f, got '{pin}'.")
    return name, pin


def cache() -> Path:
    """Where downloads are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "credo" / "downloads"


def _download(address: str, target: Path) -> None:
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as reply, target.open("wb") as file:
            while chunk := reply.read(_CHUNK):
                file.write(chunk)
    except (urllib.error.URLError, TimeoutError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ValueError(f"{address} could not be fetched ({reason}); check the address and the network.") from error
