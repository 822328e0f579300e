"""Trains one run from the command line, in a shell loop or a cluster job: `python -m shapo train --help`."""

from __future__ import annotations

import argparse

import shapo


def main(arguments: list[str] | None = None) -> None:
    """Trains one run of safe RL, or resumes it; options that are not given have the defaults of `shapo.Config`."""
    parser = argparse.ArgumentParser("python -m shapo", description=__doc__)
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train", help="train one run, or go on with it", description=main.__doc__)
    train.add_argument("--task", help="such as PointGoal1-v0")
    train.add_argument("--algorithm", help="such as PIDLag")
    train.add_argument("--seed", type=int)
    train.add_argument("--total-steps", type=float, help="such as 1e6")
    train.add_argument(
        "--delta-down", type=float, help="δ_Down of SHAPO in nats, such as 0.002; without it, the baseline"
    )
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    try:
        if "delta_down" in given:
            given["actor"] = shapo.FisherSAM(given.pop("delta_down"))
        config = shapo.Config(**given)
    except (TypeError, ValueError) as error:
        train.error(str(error))
    print(shapo.train(config).path)


if __name__ == "__main__":
    main()
