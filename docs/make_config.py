"""Writes ``docs/config.md`` from ``credo.config``: every option with its type, its default and its docstring.

Run ``python docs/make_config.py`` after a change of an option; a test compares the page with what this would write.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from credo import config as options
from credo.recipe import leaves, toml_value

PAGE = Path(__file__).with_name("config.md")
TYPE_NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false"}
INTRODUCTION = """# Options

This page is made from `credo/config/` by `python docs/make_config.py`.

A recipe is one or more TOML files, merged from left to right; flags such as `--rollout.temperature 0.7` come last and
win. A list given again replaces the list before it. An unknown key, a value of the wrong type and an option that some
other option makes inert are errors. All options of a run, defaults included, stand in the `config.toml` of its folder;
all but those of `launch`, on which nothing that it computes depends.
"""


def option_docs(tree: type) -> list[tuple[str, str, str, str]]:
    """Every option of ``tree`` as (dotted key, type, default, docstring), the last three as text for people."""
    docs = _docstrings()
    rows = []
    for key, hint in leaves(tree):
        section, name = key.split(".")
        owner = _section_class(tree, section)
        default = next(entry.default for entry in fields(owner) if entry.name == name)
        said = [docs[place.__name__, name] for place in owner.__mro__ if (place.__name__, name) in docs]
        rows.append((key, _type_text(hint), _default_text(default), said[0] if said else ""))
    return rows


def page() -> str:
    """The whole of ``config.md``."""
    train, sft = options.TrainRecipe, options.SftRecipe
    rows = option_docs(train)
    parts = [INTRODUCTION, "## `credo train`\n", *_tables(train, rows)]
    return "\n".join([*parts, *_others("sft", sft), *_others("prm train", options.PrmTrainingRecipe)])


def _others(command: str, tree: type) -> list[str]:
    """What of ``tree`` is not in ``credo train``, or otherwise there."""
    shared = set(get_type_hints(options.TrainRecipe)) & set(get_type_hints(tree))
    common = option_docs(options.TrainRecipe)
    own = [row for row in option_docs(tree) if row not in common]
    also = f"It also reads the sections {', '.join(f'`{section}`' for section in sorted(shared))}.\n"
    return [f"## Only in `credo {command}`\n", also, *_tables(tree, own)]


def _tables(tree: type, rows: Sequence[tuple[str, str, str, str]]) -> list[str]:
    """One Markdown table for each section."""
    parts = []
    for section in dict.fromkeys(key.split(".")[0] for key, *_ in rows):
        lines = [f"### `{section}`\n", f"{inspect.getdoc(_section_class(tree, section))}\n"]
        lines += ["| option | type | default | meaning |", "|---|---|---|---|"]
        for key, kind, default, doc in rows:
            if key.startswith(f"{section}."):
                cells = (f"`{key}`", kind, default, doc)
                lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        parts.append("\n".join(lines) + "\n")
    return parts


def _docstrings() -> dict[tuple[str, str], str]:
    """The string under each field of each class in ``credo.config``, by (class, field)."""
    docs = {}
    modules = sorted(Path(options.__file__).parent.glob("*.py"))
    for owner in (node for path in modules for node in ast.parse(path.read_text(encoding="utf-8")).body):
        if isinstance(owner, ast.ClassDef):
            for entry, below in zip(owner.body, owner.body[1:], strict=False):
                match entry, below:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                        docs[owner.name, name] = " ".join(text.split())
    return docs


def _section_class(tree: type, section: str) -> type:
    hint = get_type_hints(tree)[section]
    return next(part for part in (*get_args(hint), hint) if isinstance(part, type) and part is not type(None))


def _type_text(hint: Any) -> str:
    match get_origin(hint):
        case None:
            return TYPE_NAMES[hint]
        case origin if origin is Literal:
            return ", ".join(f"`{choice}`" for choice in get_args(hint))
        case origin if origin is tuple:
            return f"list of {_type_text(get_args(hint)[0])}"
        case _:
            return _type_text(next(part for part in get_args(hint) if part is not type(None)))


def _default_text(default: Any) -> str:
    if default is MISSING:
        return "required"
    return "unset" if default is None else f"`{toml_value(default)}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
