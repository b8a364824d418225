"""``queue``: a table of jobs on running ComfyUI servers."""

import argparse
from pathlib import Path

from tqdm import tqdm

from ..errors import ESCDiffError
from .common import output_folder, progress_bar


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--server", required=True, nargs="+", metavar="URL",
                        help="http://127.0.0.1:8188; several share the jobs")
    parser.add_argument("--workflow", required=True, type=Path, metavar="FILE.json",
                        help="exported from ComfyUI in API format")
    parser.add_argument(
        "--table", required=True, type=Path, metavar="JOBS.csv",
        help="a job per row; columns node.input (node: key or title), and `name` for the output files; an "
        "empty cell leaves the workflow's value; a picture for a LoadImage node is a path, counted "
        "from the table's folder")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR",
                        help="<name>_<i>.png and report.json; a second run does only what is missing")
    parser.add_argument("--patience", type=float, default=300.0, metavar="SECONDS",
                        help="how long a server may be away in the middle")


def run(options: argparse.Namespace) -> int:
    from ..queue import Pace, Report, Server, alone_in, load_workflow, read_table, run_jobs

    if not options.patience >= 0:
        raise ESCDiffError(f"--patience must be at least 0 seconds, not {options.patience}")
    jobs = read_table(options.table, load_workflow(options.workflow))
    servers = list({server.url: server for server in map(Server, options.server)}.values())
    for server in servers:
        server.check()
    about = {
        "workflow": str(options.workflow),
        "table": str(options.table),
        "servers": [s.label for s in servers],
    }
    with alone_in(output_folder(options.out)) as folder:
        report = Report(folder, about)
        missing = [job for job in jobs if not report.has(job)]
        if len(missing) < len(jobs):
            print(f"{len(jobs) - len(missing)} of {len(jobs)} jobs are done already")
        run_jobs(missing, servers, report, Pace(patience=options.patience), progress_bar("jobs"), tqdm.write)
    undone = report.undone(jobs)
    print(f"{len(jobs) - len(undone)} of {len(jobs)} jobs done: {options.out}")
    for name, (status, error) in undone.items():
        print(f"{status}: {name}: {error}")
    return 1 if undone else 0
