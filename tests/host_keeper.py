"""One real ComfyUI, loaded once for all its probes: each line on stdin starts one of them in a fork of this
process.

``python host_keeper.py HOST BASE``; called by conftest.py. A line is JSON: the file for what the probe says,
the probe, its base directory and the pack. The answer is a line with the exit status.
"""

import importlib
import json
import os
import runpy
import sys
import traceback
from pathlib import Path

HOST = Path(sys.argv[1])
sys.path.insert(0, str(HOST))
os.chdir(HOST)
sys.argv = ["main.py", "--cpu", "--base-directory", sys.argv[2]]     # loading makes folders there

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import comfy_api.latest  # noqa: E402,F401
import utils.extra_config  # noqa: E402,F401  (before nodes: comfy/utils.py shadows it otherwise)

import nodes  # noqa: E402,F401

# what the pack asks for at its first use takes seconds to import: once here, and not in each fork
for slow in ("diffusers.models.unets.unet_2d_condition", "peft", "transformers.models.clip.modeling_clip"):
    importlib.import_module(slow)


def probe(file: str, base: str, pack: str) -> None:
    """Run a probe as its own command line would, on a base directory that the host did not know when it was
    loaded."""
    import comfy.cli_args
    import folder_paths

    comfy.cli_args.args.base_directory = base
    importlib.reload(folder_paths)
    sys.argv = [file, str(HOST), base, pack]
    runpy.run_path(file, run_name="__main__")


def forked(said: str, *given: str) -> int:
    """The exit status of a probe; what it writes goes to the file ``said``."""
    number = os.fork()
    if number:
        return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
    status = 1
    try:
        with open(said, "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        probe(*given)
        status = 0
    except BaseException:      # nothing may go on in the copy
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(f"{forked(*json.loads(line))}\n")
