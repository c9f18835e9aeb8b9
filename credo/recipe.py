"""Reads recipes: TOML files and command-line flags in, a checked configuration tree out, and back to TOML.

Every error is one ``ValueError`` sentence that names the file and the key. This module knows dataclasses and TOML; it
knows nothing of what the options mean.
"""

from __future__ import annotations

import difflib
import json
import math
import tomllib
import types
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Tree = TypeVar("Tree")


def read_recipe(tree: type[Tree], paths: Sequence[Path], flags: Sequence[str] = ()) -> Tree:
    """The configuration of ``paths``, merged from left to right, with ``--section.key value`` flags on top."""
    values: dict[str, Any] = {}
    for path in paths:
        layer = _read_toml(path)
        try:
            values = _merged(values, _typed(tree, layer))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    return _built(tree, _merged(values, _typed(tree, _parse_flags(tree, flags))))


def build(tree: type[Tree], values: dict[str, Any]) -> Tree:
    """A ``tree`` from nested plain values; unknown keys, missing keys and wrong types are errors."""
    return _built(tree, _typed(tree, values))


def leaves(tree: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every option of ``tree`` as (dotted key, type), sections unfolded."""
    for key, hint in _hints(tree).items():
        section = _section(hint)
        if section:
            yield from leaves(section, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", hint


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """The values of a configuration by dotted key; sections that are None are left out."""
    values: dict[str, Any] = {}
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value):
            values |= flat(value, f"{prefix}{entry.name}.")
        elif value is not None:
            values[f"{prefix}{entry.name}"] = value
    return values


def to_toml(config: Any) -> str:
    """The resolved configuration as TOML; ``build`` of its values gives an equal tree."""
    lines = []
    section = ""
    for key, value in flat(config).items():
        head, name = key.rsplit(".", 1)
        if head != section:
            lines.append(f"\n[{head}]" if lines else f"[{head}]")
            section = head
        lines.append(f"{name} = {toml_value(value)}")
    return "\n".join(lines) + "\n"


def toml_value(value: Any) -> str:
    """One value as TOML writes it: the way JSON does, but for the delete character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"There is no recipe at {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The recipe {path} cannot be read: {error}.") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}.") from None


def _merged(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in top.items():
        below = result.get(key)
        result[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def _parse_flags(tree: type, flags: Sequence[str]) -> dict[str, Any]:
    known = dict(leaves(tree))
    values: dict[str, Any] = {}
    rest = list(flags)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--"):
            raise ValueError(f"Expected a flag such as --run.steps 10, got '{flag}'.")
        key, equals, text = flag[2:].partition("=")
        key = key.replace("-", "_")
        if key not in known:
            raise ValueError(f"Unknown option '--{key}'.{_suggestion(key, tree)}")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ValueError(f"The option '--{key}' needs a value: --{key} VALUE or --{key}=VALUE.")
            text = rest.pop(0)
        section = values
        *heads, name = key.split(".")
        for head in heads:
            section = section.setdefault(head, {})
        section[name] = _flag_value(known[key], text)
    return values


def _flag_value(hint: Any, text: str) -> Any:
    """A flag's text as the value that ``hint`` wants; text that cannot be one stays text, for `_checked` to refuse."""
    hint = _present(hint)
    try:
        if get_origin(hint) is tuple:
            return tomllib.loads(f"value = {text}")["value"] if text.startswith("[") else [text]
        if hint is bool:
            return {"true": True, "false": False}.get(text.lower(), text)
        return hint(text) if hint in (int, float) else text
    except ValueError:  # of which a TOMLDecodeError is one
        return text


def _typed(tree: type, values: dict[str, Any], prefix: str = "", root: type | None = None) -> dict[str, Any]:
    """``values`` with every key known to ``tree`` and every value of its type; keys may be missing."""
    root = root or tree
    typed: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if name not in _hints(tree):
            raise ValueError(f"Unknown key '{key}'.{_suggestion(key, root)}")
        section = _section(_hints(tree)[name])
        if section and not isinstance(value, dict):
            raise ValueError(f"{key} is a section, got {value!r}; write [{key}] and its keys below.")
        typed[name] = _typed(section, value, f"{key}.", root) if section else _checked(_hints(tree)[name], value, key)
    return typed


def _built(tree: type[Tree], values: dict[str, Any], prefix: str = "") -> Tree:
    """A ``tree`` from values that ``_typed`` has passed."""
    arguments = dict(values)
    for entry in fields(tree):  # pyright: ignore[reportArgumentType]
        section = _section(_hints(tree)[entry.name])
        needed = entry.default is MISSING and entry.default_factory is MISSING
        if section and (needed or entry.name in values):
            arguments[entry.name] = _built(section, values.get(entry.name, {}), f"{prefix}{entry.name}.")
        elif needed and entry.name not in values:
            raise ValueError(f"The recipe does not say '{prefix}{entry.name}', which has no default.")
    return tree(**arguments)


def _checked(hint: Any, value: Any, key: str) -> Any:
    """``value`` as ``hint`` wants it, or an error that names ``key``."""
    hint = _present(hint)
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        if value not in choices:
            near = difflib.get_close_matches(str(value), choices, n=1)
            meant = f" Did you mean '{near[0]}'?" if near else ""
            raise ValueError(f"{key}: expected one of {', '.join(choices)}, got {value!r}.{meant}")
        return value
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{key}: expected a list, got {value!r}.")
        return tuple(_checked(get_args(hint)[0], item, key) for item in value)
    if hint is float and type(value) is int:
        return float(value)
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise ValueError(f"{key}: expected {names[hint]}, got {value!r}.")
    return value


def _present(hint: Any) -> Any:
    """``hint`` without the ``None`` of ``X | None``."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(part for part in get_args(hint) if part is not type(None))
    return hint


def _section(hint: Any) -> type | None:
    """The dataclass behind ``hint`` (also behind ``X | None``), if it is one."""
    present = _present(hint)
    return present if is_dataclass(present) and isinstance(present, type) else None


@cache
def _hints(tree: type) -> dict[str, Any]:
    return get_type_hints(tree)


def _suggestion(key: str, tree: type) -> str:
    """The known key that was probably meant: one of the same name in another section, or one spelt alike."""
    known = [name for name, _ in leaves(tree)]
    head, _, tail = key.rpartition(".")
    twins = [name for name in known if name.endswith(f".{tail}")]
    beside = [name for name in known if name.rpartition(".")[0] == head]
    if beside:
        alike = [
            f"{head}.{near}" for near in difflib.get_close_matches(tail, [name[len(head) + 1 :] for name in beside])
        ]
    else:
        beside = known if head else list(dict.fromkeys(name.rpartition(".")[0] for name in known))
        alike = difflib.get_close_matches(key, beside)
    near = difflib.get_close_matches(key, twins, cutoff=0.0) or alike
    return f" Did you mean '{near[0]}'?" if near else f" Known here: {', '.join(beside)}."
