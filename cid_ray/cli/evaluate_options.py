"""The options of `evaluate`."""

from __future__ import annotations

import argparse

from cid_ray.cli.parser import add_verbosity_options, make_parser

EXAMPLES = """
  python -m cid_ray.evaluate runs/demo
  python -m cid_ray.evaluate runs/demo:1/8 --split val --tta flip,scales --out evaluations/demo
  python -m cid_ray.evaluate runs/a --compare runs/b --table tables/mine
  python -m cid_ray.evaluate runs/a --table tables/other --map-classes auto=car tram=
"""


def parse_arguments(argv: list[str], description: str) -> argparse.Namespace:
    """The options of `evaluate`."""
    parser = make_parser("evaluate", description, EXAMPLES)
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="a .pt file, RUN, RUN:RATIO or RUN:TRIAL")
    add("--table", metavar="TABLE", help="default: the table that the network was trained on")
    add("--split", choices=("val", "test"), default="test", help="default test; val without one")
    add("--network", choices=("teacher", "student"), default="teacher")
    add("--tta", metavar="flip,scales", default="", help="mean over mirror image and scales")
    add("--window", metavar="SIZE", type=int, help="sliding window; 0: whole images")
    add("--compare", metavar="OTHER", help="a second checkpoint, on the same images")
    help_map = "a class of the table and what the network calls it; `NAME=` leaves a class out"
    add("--map-classes", metavar="TABLE_NAME=MODEL_NAME", nargs="+", help=help_map)
    add("--out", metavar="DIR", help="default evaluations/NAME-TIME")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add_verbosity_options(parser)
    return parser.parse_args(argv)
