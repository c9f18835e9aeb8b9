"""What tests of compiled steps ask for."""

from __future__ import annotations

import shutil

import pytest

COMPILER = shutil.which("gcc") or shutil.which("cc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler here")
