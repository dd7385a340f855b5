"""The examples with arrays run as scripts, small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "docs/examples"


def script(name, *args):
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / f"{name}.py", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_number_queries():
    """Every answer is that of plain NumPy."""
    pytest.importorskip("numpy")
    assert script("number_queries", 300_000).splitlines() == [
        "count: the same as in plain NumPy",
        "histogram: the same as in plain NumPy",
        "top 5: the same as in plain NumPy",
        "16 goroutines with a question each: right",
    ]


def test_mandelbrot(tmp_path):
    """The picture has its size, is black in the middle, symmetric, and not at the edges."""
    out = tmp_path / "set.ppm"
    width, height = 52, 40
    printed = script("mandelbrot", out, width, height)
    data = out.read_bytes()
    head = f"P6\n{width} {height}\n255\n".encode()
    assert data.startswith(head) and len(data) == len(head) + 3 * width * height
    rows = [data[len(head) + 3 * width * y : len(head) + 3 * width * (y + 1)] for y in range(height)]
    black = bytes(3)
    assert rows[height // 2][3 * 40 : 3 * 41] == black  # the origin
    assert rows[0][:3] != black and rows[-1][-3:] != black
    assert all(rows[y] == rows[height - y] for y in range(1, height))
    inside = sum(row[3 * x : 3 * x + 3] == black for row in rows for x in range(width))
    assert f"{width} x {height}" in printed and 0.1 < inside / (width * height) < 0.4
