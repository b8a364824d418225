"""A real ComfyUI server runs the workflows for SDXL, on a checkpoint in its layout."""

import pytest
from host_server import one_step
from hosts import is_newest

pytestmark = pytest.mark.slow
NAME = "sdxl_random.safetensors"


@pytest.fixture
def checkpoint(server, host, family_models):
    """The server has a checkpoint of this NAME, and holds none of it afterwards."""
    if not is_newest(host):
        pytest.skip("an older ComfyUI: the graphs are the same, and its probe learns on SDXL")
    file = server.base / "models" / "checkpoints" / NAME
    file.symlink_to(family_models / "checkpoints" / NAME)
    yield
    file.unlink()
    server.post("/free", {"unload_models": True, "free_memory": True})


def test_the_sdxl_workflows_run_to_the_end(server, checkpoint):
    """In the order of the notes in them: the mix loads what the first two have saved."""
    for name in ("sdxl_learn_shape", "sdxl_learn_look", "sdxl_mix"):
        entry = server.run(one_step(name, model__ckpt_name=NAME))
        assert entry.get("status", {}).get("status_str") == "success", (name, entry, server.said())
    assert entry["outputs"]["save"]["images"]
