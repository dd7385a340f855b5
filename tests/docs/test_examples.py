"""Every ```python block of the README and of docs/ runs, and prints what the ```text block after it says.

A block whose first line is ``# not run: reason`` is skipped.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

# The text block belongs to the python block if only blank lines lie between them.
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```$(?:\n+^```text\n(?P<text>.*?)^```$)?", re.MULTILINE | re.DOTALL)


def blocks():
    for page in PAGES:
        source = page.read_text(encoding="utf-8")
        for found in BLOCK.finditer(source):
            line = source.count("\n", 0, found.start()) + 1
            yield pytest.param(found["code"], found["text"], id=f"{page.relative_to(ROOT)}:{line}")


@pytest.mark.parametrize(("code", "text"), list(blocks()))
def test_block_runs_and_prints_what_the_page_says(code, text, tmp_path):
    if code.startswith("# not run: "):
        pytest.skip(code.splitlines()[0].removeprefix("# not run: "))
    script = tmp_path / "example.py"
    script.write_text(code, encoding="utf-8")
    # -W error: an example must not warn, any more than the tests
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=50,
        # a shell's background jobs ignore it, and so would their Python
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stderr) == (0, "")
    if text is not None:
        assert done.stdout == text


def test_readme_has_blocks_to_run():
    assert len([b for b in blocks() if b.id.startswith("README.md")]) >= 4


def test_the_two_commands_stand_above_everything_else():
    first = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n#")[0]
    assert re.findall(r"^(scripts/\w+)", first, re.MULTILINE) == ["scripts/demo", "scripts/test"]
    for name in ("scripts/demo", "scripts/test", ".ci/run"):
        assert os.access(ROOT / name, os.X_OK), name


def test_analyse_runs_as_a_script(tmp_path):
    """As a reader starts it: its functions are those of ``__main__``, and travel by value."""
    for n in range(20):
        (tmp_path / f"m{n}.py").write_text("import os\n\ndef f(x):\n    return 1 if x else 2\n", encoding="utf-8")
    (tmp_path / "bad.py").write_text("(", encoding="utf-8")
    script = ROOT / "docs/examples/analyse.py"
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert lines[:4] == ["60 code lines", "20 blank lines", "20 functions, complexity 40", "0 classes"]
    assert lines.count("20 files import os") == 1
    assert lines[-1].startswith(f"failed {tmp_path}/bad.py: SyntaxError: ")
