"""Promises about importing: each module stands alone, and the light ones stay light."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"

# One process per question would cost minutes: all modules are imported in one, each after forgetting the package.
# `forgetting` only our own modules keeps torch loaded; a module that leans on a sibling's import still fails.
IMPORT_EACH_ALONE = """
import importlib, json, sys, traceback
failures = {}
for name in json.loads(sys.argv[1]):
    for loaded in [m for m in sys.modules if m == "minicpmv" or m.startswith("minicpmv.")]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except Exception:
        failures[name] = traceback.format_exc(limit=-1)
print(json.dumps(failures))
"""

HEAVY = "import sys; print([m for m in ('torch', 'transformers', 'accelerate') if m in sys.modules])"


def modules() -> list[str]:
    names = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts[-1] != "__main__":
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def python(code: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_imports_alone() -> None:
    assert json.loads(python(IMPORT_EACH_ALONE, json.dumps(modules())).splitlines()[-1]) == {}


def test_importing_the_package_loads_neither_torch_nor_transformers() -> None:
    assert python(f"import minicpmv; {HEAVY}").strip() == "[]"


def test_the_light_folders_load_neither_torch_nor_transformers() -> None:
    light = [
        name
        for name in modules()
        if name.startswith(("minicpmv.media", "minicpmv.messages", "minicpmv.settings", "minicpmv.errors"))
        or name.startswith("minicpmv.data.worlds")
    ]
    assert len(light) > 1
    assert python(f"import importlib\nfor m in {light!r}: importlib.import_module(m)\n{HEAVY}").strip() == "[]"


def test_help_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys\nfrom minicpmv.cli.main import run\nsys.argv = ['minicpmv', '--help']\n"
        f"try:\n    run()\nexcept SystemExit as end:\n    assert not end.code, end.code\n{HEAVY}"
    )
    assert python(code).strip().splitlines()[-1] == "[]"


def test_every_public_name_of_the_package_can_be_loaded() -> None:
    code = "import minicpmv\nfor name in minicpmv.__all__: getattr(minicpmv, name)\nprint(len(minicpmv.__all__))"
    assert int(python(code)) > 0
