"""What every section checks of its options: a range each, and that something reads them."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def at_least(least: int, config: Any, section: str, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value >= least, f"{section}.{name}: expected {least} or more, got {value}.")


def above_zero(config: Any, section: str, *names: str) -> None:
    for name in names:
        require(getattr(config, name) > 0, f"{section}.{name}: expected above 0, got {getattr(config, name)}.")


def share(config: Any, section: str, *names: str) -> None:
    for name in names:
        require(0 <= getattr(config, name) <= 1, f"{section}.{name}: expected 0 to 1, got {getattr(config, name)}.")


def unread(config: Any, section: str, *names: str, cause: str) -> None:
    """An option that nothing reads has to stand at its default: whoever sets it believes that it does something."""
    for entry in fields(config):
        if entry.name in names:
            inert = getattr(config, entry.name) == entry.default
            require(inert, f"{section}.{entry.name}: has no effect {cause}; leave it at {entry.default!r}.")


def compiles(key: str, pattern: str) -> None:
    """Refuses a regular expression that is none."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{key}: '{pattern}' is not a regular expression: {error}.") from None
