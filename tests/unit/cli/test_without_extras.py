"""What a plain `pip install minicpmv` can do, and what it says where a package of an extra is missing."""

import subprocess
import sys

import pytest

EXTRAS = ("rapidfuzz", "jiwer", "peft", "fontTools", "matplotlib", "datasketch", "pyarrow", "fastapi", "gradio", "gguf")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """A command in a process that cannot import the packages of `EXTRAS`."""
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({EXTRAS!r}))\n"
        f"from minicpmv.cli.main import main; sys.exit(main({list(words)!r}))"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize(
    "words",
    [("recipes", "list"), ("recipes", "show", "sft"), ("train", "nano_sft", "--tiny", "--dry-run")],
    ids=" ".join,
)
def test_recipes_and_dry_runs_need_no_extra(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert "nano_sft" in done.stdout or "sft:" in done.stdout or "name: sft" in done.stdout


@pytest.mark.parametrize(
    ("words", "extra"),
    [(("eval", "--tasks", "lines", "--samples", "1"), "eval"), (("train", "sft", "--lora", "--dry-run"), "train")],
    ids=["eval", "lora"],
)
def test_what_needs_an_extra_says_which(words: tuple[str, ...], extra: str) -> None:
    done = run(*words)
    assert done.returncode == 1
    assert f"pip install 'minicpmv[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr
