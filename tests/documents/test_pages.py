"""Nothing unexecuted is documentation: README and docs are run, and their links and trees are checked.

The rules a page follows:

- A ```console block is a terminal. Lines that start with `$ minicpmv` are run, in a temporary folder that holds a copy
  of `examples/`; the lines below are what stdout says. A line `...` stands for any number of lines, and `...` inside a
  line for any text, so that timings may differ. Other commands (`make`, `pip`) are not run.
- A ```python block is a program; it is run in the same kind of folder.
- Without a bundled model in the checkout, programs that need it are skipped.
- `<!-- not run: reason -->` on the line before a block excuses it, for instance when it needs the released weights.
"""

import inspect
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from minicpmv.data.sources import WORLDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+?) -->\n+)?^```(?P<kind>console|python)\n(?P<body>.*?)^```$", re.M | re.S
)
LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)(?:#[^)]*)?\)")
TREE_LINE = re.compile(r"^(?P<indent>(?:│   |    )*)(?:├── |└── )(?P<name>\S+)")


@dataclass(frozen=True)
class Program:
    """One thing a page tells the reader to run."""

    where: str
    kind: str
    text: str
    expected: str


def programs() -> list[Program]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            if block["reason"]:
                continue
            where = f"{page.relative_to(ROOT).as_posix()}:{text.count(chr(10), 0, block.start('body')) + 1}"
            if block["kind"] == "python":
                found.append(Program(where, "python", block["body"], ""))
            else:
                found += console_programs(where, block["body"])
    return found


def console_programs(where: str, body: str) -> list[Program]:
    chunks = re.split(r"^\$ ", body, flags=re.M)[1:]
    split = [chunk.partition("\n") for chunk in chunks]
    return [Program(where, "shell", line, rest) for line, _, rest in split if line.startswith("minicpmv ")]


def matches(expected: str, actual: str) -> bool:
    """Whether the output is what the page shows, `...` standing for anything.

    A line of its own `...` spans lines; inside a line it stays within the line.
    """
    lines = [
        "(?s:.*)" if line == "..." else re.escape(line).replace(r"\.\.\.", "[^\n]*")
        for line in expected.strip().split("\n")
    ]
    pattern = "\n".join(lines)
    return re.fullmatch(pattern, actual.strip()) is not None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "examples", place / "examples")
    (place / "bin").mkdir()
    command = place / "bin" / "minicpmv"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m minicpmv "$@"\n')
    command.chmod(0o755)
    return place


def run(program: Program, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "COLUMNS": "100",
    }
    command = [sys.executable, "-c", program.text] if program.kind == "python" else ["/bin/sh", "-c", program.text]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("program", programs(), ids=lambda program: program.where)
def test_what_a_page_tells_the_reader_to_run_works_as_shown(program: Program, folder: Path) -> None:
    done = run(program, folder)
    if "holds no bundled nano model" in done.stderr:
        pytest.skip("this checkout bundles no model")
    assert done.returncode == 0, f"{program.where}: `{program.text}` exits with {done.returncode}: {done.stderr}"
    if program.expected.strip():
        assert matches(program.expected, done.stdout), f"{program.where} shows\n{program.expected}\nbut:\n{done.stdout}"


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        ("a\nb", "a\nb\n", True),
        ("a\nb", "a\nc", False),
        ("took ... s", "took 0.3 s", True),
        ("took ... s", "took 0.3\nmore s", False),
        ("a\n...\nz", "a\nb\nc\nz", True),
        ("a\n...\nz", "a\nb\nc", False),
    ],
)
def test_ellipsis_matching(expected: str, actual: str, same: bool) -> None:
    assert matches(expected, actual) is same


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    broken = [
        link for link in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).resolve().exists()
    ]
    assert broken == []


def test_the_annotated_tree_of_the_readme_names_only_what_exists() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = re.search(r"^```text\n(?P<top>\S+/)[^\n]*\n(?P<lines>.*?)^```$", readme, re.M | re.S)
    assert tree is not None
    parents, missing, count = [ROOT / tree["top"]], [], 0
    for line in tree["lines"].splitlines():
        entry = TREE_LINE.match(line)
        if entry is None:
            continue
        depth = len(entry["indent"]) // 4
        path = parents[depth] / entry["name"]
        parents[depth + 1 :] = [path]
        count += 1
        if not path.exists():
            missing.append(path.relative_to(ROOT).as_posix())
    assert missing == []
    assert count > 5


def test_the_table_of_worlds_has_all_of_them_with_all_their_options() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\|(.*)\|$", (ROOT / "docs/how-to/data.md").read_text(), re.MULTILINE)
    told = {name: set(re.findall(r"`(\w+)`", options)) for name, options in rows}
    taken = {name: set(inspect.signature(world).parameters) - {"studio"} for name, world in WORLDS.items()}
    assert told == {name: options for name, options in taken.items() if not name.startswith("own_")}
