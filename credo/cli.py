"""The command ``credo``: parses arguments, calls one function, and turns the user's mistakes into one sentence."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from credo.commands import COMMANDS, Command, Group
from credo.importing import uncollected

HELP = ("-h", "--help", "help")
Named = TypeVar("Named", Command, Command | Group)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``credo``. Exits with 0, or with 1 after one sentence on standard error.

    The environment variable CREDO_TRACEBACK=1 shows the trace behind the sentence, for a report.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in HELP:
        print(_listed("credo trains language models with PRIME.", COMMANDS, "credo COMMAND --help tells more."))
        return
    if words[0] == "--version":
        from credo import __version__

        print(f"credo {__version__}")
        return
    try:
        _run(words[0], words[1:])
    except (ValueError, RuntimeError) as error:
        if type(error) not in (ValueError, RuntimeError) or os.environ.get("CREDO_TRACEBACK"):
            raise  # a library's error, so our bug: the trace is wanted
        _leave(str(error))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = " Make room and give the same command again; what was saved is untouched." if full else ""
        _leave(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}.{advice}")
    except KeyboardInterrupt:
        _leave("Interrupted.", status=130)


def _run(command: str, words: list[str]) -> None:
    found, options, beside = parse([command, *words])
    function = found.calls if callable(found.calls) else _loaded(found.calls)
    said = function(options, **beside)
    if isinstance(said, str):
        print(said)


def parse(words: Sequence[str]) -> tuple[Command, Any, dict[str, str]]:
    """The command that ``words`` name, its options, and the values of the flags beside them.

    Leaves with 0 after showing the help that was asked for, with 1 after refusing an option; raises ValueError for a
    command that there is not, and for a recipe that cannot be.
    """
    name, *rest = words
    found = _named(name, COMMANDS)
    if isinstance(found, Group):
        if not rest or rest[0] in HELP:
            print(_listed(found.about, found.commands, f"credo {name} COMMAND --help tells more."))
            sys.exit(0)
        found = _named(rest[0], found.commands, f"{name} ")
        name, rest = f"{name} {rest[0]}", rest[1:]
    beside = {}
    for flag, (default, *_) in found.beside.items():
        beside[flag], rest = _taken(rest, f"--{flag}", default)
    read = _recipe if found.words == "recipe" else _options
    return found, read(found, name, rest), beside


def _recipe(command: Command, name: str, words: list[str]) -> Any:
    """The configuration of a command with recipes; ``--help`` prints its options and exits."""
    from credo.recipe import read_recipe

    tree = _loaded(command.reads)
    if "--help" in words or "-h" in words:
        _recipe_help(tree, command, name)
        sys.exit(0)
    first = next((index for index, word in enumerate(words) if word.startswith("-")), len(words))
    if first == 0:
        raise ValueError(f"Name a recipe: credo {name} RECIPE.toml; --help lists the options.")
    return read_recipe(tree, [Path(word) for word in words[:first]], words[first:])


def _recipe_help(tree: type, command: Command, name: str) -> None:
    import tyro

    print(f"credo {name} RECIPE.toml [MORE.toml ...] [--section.key value ...]")
    for flag, (_, value, meaning) in command.beside.items():
        print(f"  {f'--{flag} {value}':<34}{meaning}")
    print("Later recipes and flags win. Options:\n")
    with_required = tyro.conf.configure(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)
    try:
        tyro.cli(with_required(tree), prog=f"credo {name} RECIPE.toml", args=["--help"])
    except SystemExit:
        return


def _options(command: Command, name: str, words: list[str]) -> Any:
    """The options of a command without a recipe; a mistake exits with 1."""
    import tyro

    markers: list[Any] = [tyro.conf.OmitArgPrefixes]
    if command.words == "positional":
        markers.append(tyro.conf.PositionalRequiredArgs)
    if command.words == "sources" and words and not words[0].startswith("-"):
        words = ["--sources", *words]
    try:
        return tyro.cli(_loaded(command.reads), prog=f"credo {name}", args=words, config=markers)
    except SystemExit as leaving:
        sys.exit(1 if leaving.code else 0)


def _loaded(place: str) -> Any:
    """What ``module:name`` stands for."""
    module, _, name = place.partition(":")
    with uncollected():
        return getattr(import_module(f"credo.{module}"), name)


def _taken(words: list[str], flag: str, default: str) -> tuple[str, list[str]]:
    """The value of ``flag`` and the other words."""
    for index, word in enumerate(words):
        if word == flag:
            if index + 1 == len(words):
                raise ValueError(f"{flag} needs a value.")
            return words[index + 1], words[:index] + words[index + 2 :]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2], words[:index] + words[index + 1 :]
    return default, words


def _named(name: str, commands: Mapping[str, Named], group: str = "") -> Named:
    """The command of that name. Raises ValueError with the nearest one."""
    import difflib

    if name in commands:
        return commands[name]
    near = difflib.get_close_matches(name, list(commands), n=1)
    hint = f" Did you mean {group}{near[0]}?" if near else ""
    raise ValueError(f"There is no command '{group}{name}'.{hint} See credo {group}--help.")


def _listed(first: str, commands: Mapping[str, Command | Group], last: str) -> str:
    width = max(map(len, commands)) + 2
    lines = (f"  {name:<{width}}{command.text}" for name, command in commands.items())
    return "\n".join([first, "", *lines, "", last])


def _leave(sentence: str, *, status: int = 1) -> None:
    print(f"credo: {sentence}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
