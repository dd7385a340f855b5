"""Makes these test modules importable by name, as a user's modules are (plain ``pytest`` leaves that to chance)."""

from __future__ import annotations

import pathlib
import sys

REPO = str(pathlib.Path(__file__).resolve().parents[2])
if REPO not in sys.path:
    sys.path.append(REPO)
