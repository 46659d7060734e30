"""A toy model block: every part real, none larger than a few thousand numbers."""

import pytest

TOY = {
    "encoder": {"type": "shapes_vit", "image_size": 32, "patch_size": 16, "width": 16, "depth": 1, "heads": 2},
    "connector": {"type": "mlp", "depth": 2},
    "language_model": {"type": "shapes_lm", "width": 16, "depth": 1, "heads": 2},
    "template": {"type": "vicuna_v1"},
    "tiling": {"mode": "anyres", "pinpoints": [[32, 64], [64, 32], [64, 64]], "unpad": True},
}


@pytest.fixture
def toy() -> dict:
    return {name: dict(block) for name, block in TOY.items()}
