"""The command ``credo``: parses arguments, calls one function, and turns the user's mistakes into one sentence."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

COMMANDS = {
    "sft": "supervised warm-up: build or tune a model on demonstrations",
    "train": "online PRIME",
    "evaluate": "avg@k of a model on problems, with intervals",
    "plan": "batch arithmetic and memory of a recipe, without loading anything",
    "verify": "judge the responses of a file",
    "data": "inspect: is every row of a data set fit to be graded against?",
    "diff-semantics": "official, paper's and verl's advantages of the same responses",
}
DATA_COMMANDS = {
    "inspect": "grade every gold against itself, its solution and its labels; list what fails",
}
Options = TypeVar("Options")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``credo``. Exits with 0, or with 1 after one sentence on standard error.

    The environment variable CREDO_TRACEBACK=1 shows the trace behind the sentence, for a report.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
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
    match command:
        case "sft":
            _sft(words)
        case "train":
            _train(words)
        case "plan":
            _plan(words)
        case "evaluate":
            _evaluate(words)
        case "verify":
            _verify(words)
        case "data":
            _data(words)
        case "diff-semantics":
            _diff_semantics(words)
        case _:
            _refuse(command, COMMANDS, "credo --help")


def _train(words: list[str]) -> None:
    from credo.config import TrainConfig

    resume, words = _taken(words, "--resume", "auto")
    config = _config(TrainConfig, "train", words)
    from credo.train import train

    train(config, resume=resume)


def _sft(words: list[str]) -> None:
    from credo.config import SftConfig

    config = _config(SftConfig, "sft", words)
    from credo.sft import sft

    sft(config)


def _plan(words: list[str]) -> None:
    from credo.config import TrainConfig

    config = _config(TrainConfig, "plan", words)
    from credo.plan import plan

    print(plan(config))


def _evaluate(words: list[str]) -> None:
    from credo.options import EvaluateOptions

    options = _parsed(EvaluateOptions, "evaluate", words)
    from credo.evaluate import evaluate

    evaluate(options)


def _verify(words: list[str]) -> None:
    from credo.grading import GradeOptions, grade

    grade(_parsed(GradeOptions, "verify", words))


def _data(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_listed("credo data says what is in data sets.", DATA_COMMANDS, "credo data COMMAND --help tells more."))
        sys.exit(0)
    match words[0]:
        case "inspect":
            from credo.options import InspectOptions

            options = _parsed(InspectOptions, "data inspect", words[1:], positional=True)
            from credo.data_inspection import inspect_data

            inspect_data(options)
        case _:
            _refuse(f"data {words[0]}", [f"data {name}" for name in DATA_COMMANDS], "credo data --help")


def _diff_semantics(words: list[str]) -> None:
    from credo.options import DiffSemanticsOptions

    options = _parsed(DiffSemanticsOptions, "diff-semantics", words, positional=True)
    from credo.diff_semantics import diff_semantics

    print(diff_semantics(options))


def _config(tree: type[Options], command: str, words: list[str]) -> Options:
    """The configuration of a command with recipes; ``--help`` prints its options and exits."""
    from credo.recipe import read_recipe

    if _wants_help(words):
        _recipe_help(tree, command)
        sys.exit(0)
    recipes, flags = _split(words)
    return read_recipe(tree, recipes, flags)


def _parsed(options: Callable[..., Options], command: str, words: list[str], *, positional: bool = False) -> Options:
    """The options of a command without a recipe; a mistake exits with 1. ``positional`` ones without default are
    words instead of flags."""
    import tyro

    markers = [tyro.conf.PositionalRequiredArgs] if positional else []
    try:
        return tyro.cli(options, prog=f"credo {command}", args=words, config=markers)
    except SystemExit as leaving:
        sys.exit(1 if leaving.code else 0)


def _split(words: list[str]) -> tuple[list[Path], list[str]]:
    """Recipes first, flags after them."""
    first = next((index for index, word in enumerate(words) if word.startswith("-")), len(words))
    if first == 0:
        raise ValueError("Name a recipe, e.g. credo train recipes/demo.toml; --help lists the options.")
    return [Path(word) for word in words[:first]], words[first:]


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


def _wants_help(words: list[str]) -> bool:
    return "--help" in words or "-h" in words


def _recipe_help(tree: type, command: str) -> None:
    import tyro

    print(f"credo {command} RECIPE.toml [MORE.toml ...] [--section.key value ...]")
    if command == "train":
        print("  --resume auto|never|CHECKPOINT   go on (default), refuse a used folder, or branch off a checkpoint")
    print("Later recipes and flags win. Options:\n")
    with_required = tyro.conf.configure(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)
    try:
        tyro.cli(with_required(tree), prog=f"credo {command} RECIPE.toml", args=["--help"])
    except SystemExit:
        return


def _overview() -> str:
    return _listed("credo trains language models with PRIME.", COMMANDS, "credo COMMAND --help tells more.")


def _listed(first: str, commands: Mapping[str, str], last: str) -> str:
    width = max(map(len, commands)) + 2
    return "\n".join([first, "", *(f"  {name:<{width}}{text}" for name, text in commands.items()), "", last])


def _refuse(command: str, known: Iterable[str], help: str) -> NoReturn:
    import difflib

    near = difflib.get_close_matches(command, list(known), n=1)
    raise ValueError(f"There is no command '{command}'.{f' Did you mean {near[0]}?' if near else ''} See {help}.")


def _leave(sentence: str, *, status: int = 1) -> None:
    print(f"credo: {sentence}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
