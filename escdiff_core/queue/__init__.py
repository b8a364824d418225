"""A batch on running ComfyUI servers: a workflow in API format, a table with a job per row, pictures in a
folder.

``workflow`` finds the places in a graph, ``table`` makes the jobs, ``client`` speaks HTTP, ``follow`` waits
for a job, ``worker`` does jobs on one server, ``share`` and ``run`` let several do so at once, ``report``
remembers what is done, ``alone`` keeps a second command out of the folder.
"""

from .alone import alone_in
from .client import Server
from .report import Report
from .run import Pace, run_jobs
from .table import Job, read_table
from .workflow import load_workflow

__all__ = ["Job", "Pace", "Report", "Server", "alone_in", "load_workflow", "read_table", "run_jobs"]
