"""What the pages say of the code is there: files, functions in files, public names, links, orders of reading."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import mproc_go

ROOT = Path(mproc_go.__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = sorted(path.parent for path in (ROOT / "mproc_go").glob("*/__init__.py"))

# `sched/idle.py`, and `runtime/worker.py: _pick, find`
NAMED = re.compile(r"`((?:[\w.]+/)*\w+\.py)(?:: ([\w., ]+))?`")
LINK = re.compile(r"\]\(([^)#:]+)\)")


def ids(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def find(name):
    """The file a page means: from the project's folder, the package, or the examples; a bare name, wherever it is."""
    for folder in (ROOT, ROOT / "mproc_go", ROOT / "docs/examples"):
        if (folder / name).is_file():
            return folder / name
    if "/" in name:
        return None
    return next((path for folder in ("mproc_go", "tests") for path in (ROOT / folder).glob(f"*/{name}")), None)


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_files_and_functions_that_a_page_names_are_there(page):
    missing = []
    text = page.read_text(encoding="utf-8")
    programs = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
    for name, inside in NAMED.findall(programs.sub("", text)):
        if name in ("script.py", "x.py") or "VERB" in name:
            continue  # the reader's own
        path = find(name)
        if path is None:
            missing.append(name)
            continue
        source = path.read_text(encoding="utf-8")
        for what in re.split(r", | and ", inside) if inside else ():
            if not re.search(rf"\b{re.escape(what.split('.')[-1])}\b", source):
                missing.append(f"{name}: {what}")
    missing += [link for link in LINK.findall(re.sub(r"`[^`\n]*`", "", text)) if not (page.parent / link).exists()]
    assert not missing


def test_the_index_of_the_architecture_has_every_public_name():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    index = text[text.index("| name | file |") :]
    from mproc_go import errors

    names = {name for name in mproc_go.__all__ if not hasattr(errors, name)}
    assert not {name for name in names if f"`{name}`" not in index}


@pytest.mark.parametrize("package", PACKAGES, ids=ids(PACKAGES))
def test_the_order_of_reading_names_what_is_there(package):
    """A package's docstring is its contract: what it may, what it may never, and where to begin."""
    said = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8")))
    assert "May import:" in said and re.search(r"[Mm]ay never:", said)
    order = said.partition("Reading order:")[2].partition("\n\n")[0]
    modules = {path.stem for path in package.glob("*.py")}
    words = re.findall(r"\w+", re.sub(r"\([^)]*\)", "", order))
    assert words and not [word for word in words if word not in modules and word not in ("and", "a", "each")]


def test_the_readme_has_every_verb():
    from mproc_go.tools.cli import VERBS

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = text[text.index("## The command line") :].partition("\n## ")[0]
    assert not {verb for verb in VERBS if not re.search(rf"`(mproc-go )?{verb}\b", commands)}


def test_the_guide_shows_every_public_name():
    """In a program that runs, or at least in a sentence. Views are what `.sender` and `.receiver` return."""
    text = (ROOT / "docs/guide.md").read_text(encoding="utf-8")
    unseen = {name for name in mproc_go.__all__ if not re.search(rf"\b{name}\b", text)}
    assert unseen <= {"MprocError", "SendChan", "RecvChan"}


def test_hacking_names_every_folder_of_tests():
    text = (ROOT / "docs/hacking.md").read_text(encoding="utf-8")
    table = text[text.index("| folder | what |") :].partition("\n\n")[0]
    folders = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "tests").glob("*/test_*.py")}
    assert not {folder for folder in folders if f"`{folder}`" not in table}


def test_the_table_of_invariants_is_that_of_the_code():
    """Each id in the architecture is in the head of the file that is its home, and each id there is in the table."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = {row[0]: row[1] for row in re.findall(r"^\| ([A-Z]{2}\d) \|.*\| `([\w/]+\.py)` \|.*\|$", text, re.MULTILINE)}
    assert len(table) >= 20
    prefixes = {name[:2] for name in table}
    heads = {}
    for path in (ROOT / "mproc_go").rglob("*.py"):
        said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        for name in re.findall(r"\b([A-Z]{2}\d)\b", said):
            if name[:2] in prefixes:
                heads.setdefault(name, set()).add(path.relative_to(ROOT / "mproc_go").as_posix())
    assert {name for name, home in table.items() if home not in heads.get(name, ())} == set()
    assert heads.keys() == table.keys()


def test_the_guide_names_every_example_and_every_figure():
    text = (ROOT / "docs/guide.md").read_text(encoding="utf-8")
    examples = {path.name for path in (ROOT / "docs/examples").glob("*.py")}
    assert not {name for name in examples if f"`{name}`" not in text}
    figures = text[text.index("| in `stats()` | is |") :].partition("\n\n")[0]
    with mproc_go.Runtime(procs=1):
        assert not {name for name in mproc_go.stats() if f"`{name}`" not in figures}


@pytest.mark.parametrize("page", ["architecture", "hacking", "pictures"])
def test_words_of_shared_memory_that_a_page_names_are_there(page):
    """`M_TICK` and the like: a constant of that name is somewhere in the package."""
    text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b[A-Z]{1,2}_[A-Z_]+[A-Z]\b", text))
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "mproc_go").rglob("*.py"))
    assert not {word for word in named if not re.search(rf"\b{word}\b", source)}
