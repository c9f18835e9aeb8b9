"""The shape of the package: who may import whom, how long things are, what they are called, and where tests stand."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "credo"

# Imports point downwards only: a unit may import units on lines above its own in this list, and itself.
LAYERS = (
    ("algo",),
    ("types", "config", "recipe", "seeds", "options", "console", "importing", "interruption", "measures"),
    ("dist", "data", "rollout", "verify"),
    ("models", "collect", "filtering", "sharing", "ahead"),
    ("checkpoint", "metrics", "loggers", "run_folder", "prefix_check", "watch", "gate", "roles"),
    ("assemble", "tuning"),
    ("sampler",),
    ("offline",),
    ("evaluation", "planning"),
    ("journal", "scoring"),
    ("instruments",),
    ("train", "sft", "export", "report", "grading", "diff_semantics"),
    ("curation",),
    ("launch", "verify_resume"),
    ("commands",),
    ("cli",),
)
# Units on one line do not import each other, except:
BESIDE = {
    ("collect", "filtering"),
    ("ahead", "collect"),
    ("run_folder", "loggers"),
    ("run_folder", "checkpoint"),
    ("options", "config"),
}
# What these units may import from the line of `data`, in place of all of it:
NARROWED = {"models": ("data.batching", "dist"), "collect": ("rollout", "verify", "data")}
# Packages that importing these units must not load, directly or through others:
TORCH_FREE = ("config", "recipe", "seeds", "options", "commands", "cli")
# Slow to load or optional, so imported in the functions that need them:
LAZY = {"transformers", "peft", "reasoning_gym", "sympy", "math_verify", "pyarrow", "gguf", "vllm", "ray"}
LAZY |= {"wandb", "trackio", "datasketch", "fastapi", "uvicorn"}
ALGO_MAY_IMPORT = {"torch", "jaxtyping"}

BANNED_NAMES = {"utils", "helpers", "manager", "handler", "core"}
FUNCTION_LINES, FILE_LINES, PACKAGE_LINES = 60, 350, 29_100

# Tests without a module of their own name:
ALONE = {
    "test_architecture",
    "test_docs",
    "test_examples",
    "test_recipes",
    "test_public_names",
    "algo/test_golden",
    "algo/test_identity",
    "verify/test_hostile_programs",
}


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its name below ``credo`` ("" for the package itself)."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = ast.parse(path.read_text(), str(path))
    return found


def imports(tree: ast.Module, *, lazy: bool) -> Iterator[str]:
    """What ``tree`` imports, by full name; with ``lazy`` also inside functions and for type checkers."""
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif lazy or not (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _for_types(node)):
            pending.extend(ast.iter_child_nodes(node))


def _for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def own(name: str) -> str | None:
    """``name`` as a module below ``credo``, or None if it belongs to someone else."""
    package, _, below = name.partition(".")
    if package != "credo":
        return None
    while below and below not in modules():
        below = below.rpartition(".")[0]
    return below


def unit(module: str) -> str:
    return module.split(".")[0]


def layer(module: str) -> int:
    found = [index for index, units in enumerate(LAYERS) if unit(module) in units]
    assert found, f"credo/{unit(module)} has no line in LAYERS: say which units it may import"
    return found[0]


def allowed(importer: str, imported: str) -> bool:
    """Whether module ``importer`` may import module ``imported``, both below ``credo``."""
    here, there = unit(importer), unit(imported)
    if here == there:
        return True
    if layer(importer) == layer(imported):
        return (here, there) in BESIDE
    if here in NARROWED and layer(imported) == layer("data"):
        return any(f"{imported}.".startswith(f"{permitted}.") for permitted in NARROWED[here])
    return layer(imported) < layer(importer)


@pytest.mark.parametrize(
    ("importer", "imported", "fine"),
    [
        ("algo.rewards", "algo.masked", True),
        ("algo.rewards", "types", False),
        ("recipe", "config", False),
        ("data.problems", "types", True),
        ("data.problems", "rollout.engine", False),
        ("models.policy", "data.batching", True),
        ("models.policy", "data.problems", False),
        ("models.policy", "rollout.engine", False),
        ("collect", "verify.pool", True),
        ("collect", "dist.world", False),
        ("run_folder", "checkpoint", True),
        ("checkpoint", "run_folder", False),
        ("train", "assemble", True),
        ("assemble", "train", False),
    ],
)
def test_the_rule_itself(importer: str, imported: str, fine: bool):
    assert allowed(importer, imported) == fine


def test_imports_point_downwards():
    wrong = {
        f"{module} imports {name}"
        for module, tree in modules().items()
        if module
        for name in imports(tree, lazy=True)
        if (target := own(name)) is not None
        if name != "credo.__version__" and not (target and allowed(module, target))
    }
    assert not wrong


def test_algo_needs_nothing_but_torch():
    for module, tree in modules().items():
        if unit(module) == "algo":
            others = {name.split(".")[0] for name in imports(tree, lazy=True) if not name.startswith("credo.algo")}
            assert others <= ALGO_MAY_IMPORT | sys.stdlib_module_names, module


def loaded_with(module: str) -> set[str]:
    """The foreign packages that importing ``module`` loads at once, through our modules too."""
    pending, seen, foreign = [module, ""], set(), set()
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        if "." in current:
            pending.append(current.rpartition(".")[0])
        for name in imports(modules()[current], lazy=False):
            target = own(name)
            if target is None:
                foreign.add(name.split(".")[0])
            else:
                pending.append(target)
    return foreign


def test_who_loads_torch_is_seen():
    assert "torch" in loaded_with("algo.masked")
    assert "torch" in loaded_with("collect"), "through credo.types"


@pytest.mark.parametrize("module", TORCH_FREE)
def test_configuration_and_command_line_need_no_torch(module: str):
    assert not loaded_with(module) & {"torch", "transformers", "tyro", "rich", "numpy"}


def test_slow_imports_stand_in_functions():
    wrong = {
        f"{module} imports {name}"
        for module, tree in modules().items()
        for name in imports(tree, lazy=False)
        if name.split(".")[0] in LAZY
    }
    assert not wrong


def words(name: str) -> set[str]:
    """``TokenUtils`` and ``token_utils`` as {"token", "utils"}."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)}


def test_names_say_what_a_thing_is():
    assert words("TokenUtils") & words("core_utils") == {"utils"}
    named = [(module, module) for module in modules()]
    named += [
        (module, node.name)
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    assert not [pair for pair in named if words(pair[1]) & BANNED_NAMES]


def test_functions_are_short():
    lengths = {
        f"{module}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES}


def test_files_are_short_and_the_package_can_be_read():
    lines = {path.relative_to(PACKAGE).as_posix(): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not {name: count for name, count in lines.items() if count > FILE_LINES}
    assert sum(lines.values()) <= PACKAGE_LINES


def test_every_module_says_what_it_is():
    assert not [module for module, tree in modules().items() if tree.body and not ast.get_docstring(tree)]


def test_tests_mirror_the_package():
    astray = []
    for path in (ROOT / "tests").rglob("test_*.py"):
        place = path.relative_to(ROOT / "tests").with_suffix("")
        mirrored = ".".join([*place.parts[:-1], place.name.removeprefix("test_")])
        if mirrored not in modules() and place.parts[0] != "end_to_end" and place.as_posix() not in ALONE:
            astray.append(place.as_posix())
    assert not astray
