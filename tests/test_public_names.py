"""``import credo``: every public name is there, is what it says, and costs nothing until it is used."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import credo

ROOT = Path(__file__).parents[1]
IMPORT = (
    "import sys, time; start = time.perf_counter(); import credo; seconds = time.perf_counter() - start; "
    "print(seconds, sorted({'torch', 'numpy', 'transformers', 'jaxtyping'} & set(sys.modules)))"
)


@pytest.mark.parametrize("name", credo.__all__)
def test_every_public_name_is_there(name: str):
    value = getattr(credo, name)
    assert name == "__version__" or value.__name__ == name
    assert name in dir(credo)


def test_type_checkers_see_the_same_names():
    tree = ast.parse(inspect.getsource(credo))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen | {"__version__"} == set(credo.__all__)
    assert len(set(credo.__all__)) == len(credo.__all__)


def test_public_names_are_explained():
    assert all(inspect.getdoc(getattr(credo, name)) for name in credo.__all__)


def test_the_version_is_the_distribution_s():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == credo.__version__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="prime_advantage'"):
        credo.prime_advantage  # noqa: B018
    assert not hasattr(credo, "torch")


def test_importing_credo_is_quick_and_loads_no_torch():
    runs = [
        subprocess.run([sys.executable, "-c", IMPORT], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
        for _ in range(3)
    ]
    seconds, loaded = zip(*(run.stdout.split(maxsplit=1) for run in runs), strict=True)
    assert {text.strip() for text in loaded} == {"[]"}
    assert min(map(float, seconds)) < 0.3
