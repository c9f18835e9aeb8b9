"""Where a model is: what `model.path` and its kin may name. It loads nothing."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def resolve_path(path: str, key: str = "model.path") -> tuple[str, dict[str, str]]:
    """The folder (or hub id) to load from, and the name of the ``.gguf`` file in it if it is one.

    ``key`` is the option that gave the path, for the ValueError if there is no such model.
    """
    if path.startswith("package:"):
        name = path.removeprefix("package:")
        folder = name.replace("-", "_")
        package = importlib.util.find_spec(folder) if folder.isidentifier() else None
        if package is None or not package.submodule_search_locations:
            raise ValueError(f"The Python package '{name}' of {key} = '{path}' is not installed.")
        files = sorted(Path(package.submodule_search_locations[0]).rglob("*.gguf"))
        if not files:
            raise ValueError(f"The Python package '{name}' of {key} = '{path}' holds no .gguf file.")
        return str(files[0].parent), {"gguf_file": files[0].name}
    local = Path(path).expanduser()
    if path.endswith(".gguf"):
        if not local.is_file():
            raise ValueError(f"There is no file at {key} = '{path}'.")
        return str(local.parent), {"gguf_file": local.name}
    if local.is_dir():
        if not (local / "config.json").is_file():
            raise ValueError(f"{key} = '{path}' is a folder without config.json, so not a model.")
        return str(local), {}
    if local.exists() or path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise ValueError(f"{key} = '{path}' is neither a model folder nor a hub id.")
    return path, {}
