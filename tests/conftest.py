"""What every test starts from: one thread (the suite runs in parallel), a fixed seed, and no plugin but the installed ones."""

import pytest


@pytest.fixture(autouse=True)
def _steady(monkeypatch):
    monkeypatch.delenv("LLAVA_KIT_PLUGINS", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    import torch

    torch.set_num_threads(1)
