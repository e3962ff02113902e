"""The requests that README and docs/how-to/serve.md show, sent by curl and by OpenAI's client to a server that runs."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.serve.test_process import Command

ROOT = Path(__file__).parents[3]
PAGES = (ROOT / "README.md", ROOT / "docs" / "how-to" / "serve.md")
CURL = re.compile(r"^\$ (curl [^\n]+)\n(\{[^\n]+\})$", re.M)
PROGRAM = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
VARYING = {"id", "created", "created_at", "expires_at", "cached_tokens"}


@pytest.fixture(scope="module")
def command() -> Iterator[Command]:
    command = Command()
    yield command
    command.end()


def told(value: Any) -> Any:
    """What an answer says, without what is new every time or depends on what was asked before."""
    if isinstance(value, dict):
        return {name: told(one) for name, one in value.items() if name not in VARYING}
    return [told(one) for one in value] if isinstance(value, list) else value


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_curl_gets_what_the_page_shows(page: Path, command: Command) -> None:
    requests = CURL.findall(page.read_text(encoding="utf-8"))
    assert requests
    renamed: dict[str, str] = {}
    for line, shown in requests:
        for old, new in {"127.0.0.1:8000": f"127.0.0.1:{command.port}", **renamed}.items():
            line = line.replace(old, new)
        done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
        answer, wanted = json.loads(done.stdout), json.loads(shown)
        assert told(answer) == told(wanted)
        if answer["object"] == "file":
            renamed[wanted["id"]] = answer["id"]


def test_the_client_of_openai_gets_what_the_page_says(command: Command) -> None:
    programs = [text for text in PROGRAM.findall(PAGES[1].read_text(encoding="utf-8")) if "OpenAI(" in text]
    assert programs
    for text in programs:
        program = text.replace("127.0.0.1:8000", f"127.0.0.1:{command.port}")
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout == "black 64\n"
