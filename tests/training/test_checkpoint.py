from pathlib import Path

import pytest
import torch

from medcl import networks
from medcl.errors import MedclError
from medcl.training import checkpoint

STRIDES = [[1, 1, 1], [2, 2, 2]]


def model_file(path: Path, **changed: object) -> Path:
    network = networks.build(
        {"name": "unet", "width": 2}, channels_in=1, strides=STRIDES, channels_out=3
    )
    content = {
        "kind": "segmentation",
        "status": "ok",
        "reason": None,
        "plan": {"channels": 1, "strides": STRIDES},
        "classes": {"a": 1, "b": 2},
        "network": {"name": "unet", "width": 2},
        "weights": {"last": network.state_dict(), "selected": network.state_dict()},
    }
    checkpoint.save(path, content | changed)
    return path


def test_a_model_read_back_is_ready_to_predict(tmp_path: Path) -> None:
    network, manifest = checkpoint.load_model(model_file(tmp_path / "model.pt"))
    assert not network.training
    assert network(torch.zeros(1, 1, 4, 4, 4)).shape == (1, 3, 4, 4, 4)
    assert manifest["classes"] == {"a": 1, "b": 2}


def test_nothing_is_left_of_a_write_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"before")
    with pytest.raises(Exception, match="pickle"):
        checkpoint.save(path, {"function": lambda: None})
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_are_no_models_are_refused_with_their_reason(tmp_path: Path) -> None:
    with pytest.raises(MedclError, match="no such file"):
        checkpoint.load_model(tmp_path / "absent.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(MedclError, match="not a checkpoint of medcl"):
        checkpoint.load_model(tmp_path / "text.pt")
    encoder = model_file(tmp_path / "encoder.pt", kind="encoder")
    with pytest.raises(MedclError, match="holds no segmentation model"):
        checkpoint.load_model(encoder)
    failed = model_file(tmp_path / "failed.pt", status="failed", reason="loss is nan at step 3")
    with pytest.raises(MedclError, match="loss is nan at step 3"):
        checkpoint.load_model(failed)
