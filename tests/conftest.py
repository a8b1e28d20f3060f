"""Every test gets a home of its own; the tiny real base is built once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pico import make_pico_base


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, named by WORKBENCH_HOME; no hub, no database of the machine's."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("WORKBENCH_HOME", str(folder))
    monkeypatch.delenv("WORKBENCH_DB", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    return folder


@pytest.fixture(scope="session")
def pico_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a real two-layer Llama, its tokenizer and chat template."""
    return make_pico_base(tmp_path_factory.mktemp("pico"))
