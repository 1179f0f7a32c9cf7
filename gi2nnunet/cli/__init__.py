"""The command line: parse, call the library, print what it returned, map errors to exit codes.

Exit codes: 0 done, 1 a bug of this package, 2 wrong usage, 3 input, 4 engine, 5 output, 6 stopped
early as asked, 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from gi2nnunet.cli import (
    checks,
    cluster,
    comparison,
    data,
    estimating,
    kaggle,
    models,
    prediction,
    reporting,
    scores,
    survey,
    training,
    tuning,
)
from gi2nnunet.errors import EngineError, GiError, OutputError

_BUG = 1
_INTERRUPTED = 130  # Typer's, after Ctrl-C

app = typer.Typer(
    name="gi2nnunet",
    help="From the UW-Madison GI Tract data to a trained nnU-Net and a scored submission:\n\n"
    "\b\n"
    "  gi2nnunet convert uw-madison-gi-tract-image-segmentation.zip\n"
    "  gi2nnunet train --fold all\n"
    "  gi2nnunet predict-and-score\n\n"
    "Each command explains itself: gi2nnunet train --help",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"gi2nnunet {version('gi2nnunet')} (nnunetv2 {version('nnunetv2')})")
        raise typer.Exit


@app.callback()
def _common(
    _version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Parse what stands before the command."""


data.register(app)
training.register(app)
cluster.register(app)
prediction.register(app)
tuning.register(app)
models.register(app)
kaggle.register(app)
scores.register(app)
comparison.register(app)
estimating.register(app)
checks.register(app)
reporting.register(app)
survey.register(app)


def main() -> None:
    """Run the command line; the entry point of ``gi2nnunet``."""
    try:
        app()
    except GiError as error:
        from gi2nnunet.cli.show import print_error

        print_error(str(error))
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            from gi2nnunet.cli.show import print_error

            print_error("interrupted. Run the same again: what was done is kept where it can be.")
        raise
    except MemoryError:
        from gi2nnunet.cli.show import print_error

        print_error("the memory does not suffice. Use fewer --jobs, or give smaller files.")
        sys.exit(EngineError.exit_code)
    except Exception as error:  # no traceback reaches the user's screen
        if isinstance(error, FileNotFoundError) and not _stands_somewhere():
            from gi2nnunet.cli.show import print_error

            print_error(
                "the folder that this command runs in is gone. Go to one that exists, or mount it "
                "again, then run the same again."
            )
            sys.exit(OutputError.exit_code)
        from gi2nnunet.cli.last_resort import describe_bug
        from gi2nnunet.cli.show import print_error

        print_error(describe_bug(error, sys.argv))
        sys.exit(_BUG)


def _stands_somewhere() -> bool:
    """Return whether the current folder exists."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True
