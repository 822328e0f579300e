"""The command line of results.

python -m shapo.experiments run pilot                    trains its missing runs; interrupted, it resumes
python -m shapo.experiments pack all --profile laptop    writes figures/data/laptop/ from the run store
python -m shapo.experiments verify 3                     retrains 3 shipped runs, drawn at random, and compares
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from shapo.experiments import claims, robots, safety
from shapo.experiments.profiles import PROFILES
from shapo.runs.packing import pack
from shapo.runs.shipped import CorruptPackError, data_folder
from shapo.runs.study import Study, StudyError
from shapo.runs.verify import OUTCOMES, exit_status, verify


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Exit status: 2 for a bad argument, 1 for a failed study, pack or file, else the command's own."""
    about = "Make results, pack or verify them."
    parser = argparse.ArgumentParser("shapo.experiments", description=about, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(
        name: str, action: Callable[[argparse.Namespace], int], words: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=words, allow_abbrev=False)
        added.set_defaults(action=action)
        return added

    verifying = command("verify", _verify, "retrain shipped runs and compare")
    verifying.add_argument("number", metavar="N", type=_number, help="how many, drawn at random; or: all")
    verifying.add_argument("--seed", type=int, help="of the draw (default: another one each time)")
    verifying.add_argument("--study", metavar="NAME", help="only from the pack of this name")
    running = command("run", _run, "train what is missing of an experiment")
    packing = command("pack", _pack, "pack the runs of an experiment")
    names = "of the experiment; all: those of all figures of SHAPO; campaign: its others too; robots: of SHAC-ASAM"
    for added in (running, packing):
        added.add_argument("name", help=names)
        added.add_argument("--profile", default="laptop", choices=list(PROFILES), help="(default: laptop)")
    packing.add_argument("--partial", action="store_true", help="pack what there is of an unfinished study")
    packing.add_argument(
        "--replace", action="store_true", help="let go of packed runs that are not in the study"
    )
    command("claims", _claims, "print the README's table of claims")
    options = parser.parse_args(arguments)
    try:
        return options.action(options)
    except StudyError as error:
        print(error, file=sys.stderr)
        return 1
    except (ValueError, CorruptPackError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1


def _number(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, or all; got {text}")
    return int(text)


def _verify(options: argparse.Namespace) -> int:
    seed = options.seed if options.seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
    print(f"the draw: --seed {seed}", flush=True)
    verdicts = verify(options.number, seed, options.study)
    for verdict in verdicts:
        print(f"{verdict.run}: {verdict.outcome}" + f"\n  {verdict.detail}" * bool(verdict.detail))
    counts = Counter(verdict.outcome for verdict in verdicts)
    for outcome, count in counts.items():
        print(f"{count} {outcome}: {OUTCOMES[outcome]}")
    return exit_status(verdicts)


def _study(options: argparse.Namespace) -> Study:
    return (robots if options.name in robots.EXPERIMENTS else safety).study(options.name, options.profile)


def _run(options: argparse.Namespace) -> int:
    study = _study(options)
    print(study, flush=True)
    study.run()
    return 0


def _claims(options: argparse.Namespace) -> int:
    print(claims.markdown(claims.judge("laptop")))
    return 0


def _pack(options: argparse.Namespace) -> int:
    study = _study(options)
    packed, folder = pack(study, partial=options.partial, replace=options.replace), data_folder() / study.name
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"{folder}: {len(packed)} of {len(study.runs)} runs, {size:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
