"""What requests may call the model."""

from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("llguidance")

from minicpmv.serve.service import ServeOptions, served_names


def test_a_model_goes_by_its_hub_id_its_folder_or_as_asked_for(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert served_names(ServeOptions(), "openbmb/MiniCPM-V-4_5") == ("openbmb/MiniCPM-V-4_5",)
    assert served_names(ServeOptions(), str(tmp_path / "mine")) == ("mine",)
    assert served_names(ServeOptions(names=("a", "b")), "openbmb/MiniCPM-V-4_5") == ("a", "b")
