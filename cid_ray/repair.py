"""`python -m cid_ray.repair RUN`: make the records and studies of a damaged run agree again.

Other commands name this one when a file of the run was cut, emptied or damaged. It copies the files
first, keeps what the records measured, and prints what it did. `--resume` then trains again what is
missing.
"""

from __future__ import annotations

from cid_ray.cli.parser import make_parser, run_command
from cid_ray.cli.printing import say
from cid_ray.results.run_kind import refuse_ladder
from cid_ray.search.repair import repair_run
from cid_ray.storage.run_config import load_run_config
from cid_ray.storage.run_dir import RunDir

EXAMPLES = """
  python -m cid_ray.repair runs/camvid-20260101-120000
"""


def main(argv: list[str]) -> int:
    parser = make_parser("repair", __doc__ or "", EXAMPLES)
    parser.add_argument("run", metavar="RUN", help="a run folder that no process writes to")
    args = parser.parse_args(argv)
    with RunDir(args.run) as run_dir:
        run_dir.pull()
        refuse_ladder(run_dir)
        config = load_run_config(run_dir)
        run_dir.lock()
        for line in repair_run(run_dir, config):
            say(line)
        run_dir.push()
    return 0


if __name__ == "__main__":
    run_command(main)
