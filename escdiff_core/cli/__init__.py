"""The headless face: ``python -m escdiff_core COMMAND``. Each command is a module with ``add(subparsers)``
and ``run(options)``."""

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module

from ..errors import ESCDiffError, is_out_of_memory

COMMANDS = {  # name: one line of help; the module of the same name is imported when the command runs
    "demo": "the whole story on the pocket model; writes pictures and report.json",
    "learn": "learn the shape or the appearance of a reference",
    "mix": "draw pictures with a shape, an appearance, both or neither",
    "info": "say what an attribute file holds",
    "export": "write an attribute as a stock LoRA or embedding file",
    "train-filters": "pre-train the shape and the appearance filter on a folder of pictures",
    "bench": "compare every recipe on the same references, with figures",
    "queue": "run a table of jobs on ComfyUI servers",
}


class Parser(argparse.ArgumentParser):
    """argparse with one line on stderr instead of a usage block."""

    def error(self, message: str):
        self.exit(2, f"escdiff: {message}; see `{self.prog} --help`\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, 1 if some jobs of `queue` failed, or 2 after one line on stderr: what was
    wrong, what to do."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = Parser(prog="python -m escdiff_core", description="The shape of this, the look of that.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name, line in COMMANDS.items():
        command = commands.add_parser(name, help=line, description=line)
        if argv and argv[0] == name:
            _module(name).add(command)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for chatty in ("httpx", "diffusers", "transformers", "peft", "accelerate"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    if threading.current_thread() is threading.main_thread():
        # what a batch system or a container sends: like Ctrl-C, nothing is lost
        signal.signal(signal.SIGTERM, _stop)
    try:
        return _module(options.command).run(options) or 0
    except ESCDiffError as error:
        print(f"escdiff: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"escdiff: {error.strerror or error} ({error.filename}); check the path and the free space",
            file=sys.stderr,
        )
        return 2
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        print(
            "escdiff: out of memory; lower what the command does at once (--batch-size, --count), "
            "close other programs or give a smaller picture",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("escdiff: stopped", file=sys.stderr)
        return 130


def _stop(_signal, _frame):
    raise KeyboardInterrupt


def _module(command: str):
    return import_module(f".{command.replace('-', '_')}", __name__)
