"""Command line: parses, calls the library, prints what it returned, maps errors to exit codes.

Exit codes: 0 done, 1 a bug in this package, 2 wrong usage, 3 input, 4 engine, 5 output, 6 stopped
early on request, 130 interrupted, 141 the output pipe was closed.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import typer

from gi2nnunet.cli.app import Commands, QuietOption
from gi2nnunet.cli.output import print_error, set_quiet
from gi2nnunet.core.errors import EngineError, GiError, OutputError

_BUG = 1
_INTERRUPTED = 130  # Typer's, after Ctrl-C
_UNREAD = 141  # a shell's, after SIGPIPE

app = typer.Typer(
    cls=Commands,
    name="gi2nnunet",
    help="From the UW-Madison GI Tract data to a trained nnU-Net and a scored submission.\n\n"
    "gi2nnunet convert uw-madison-gi-tract-image-segmentation.zip\n"
    "gi2nnunet train --fold all\n"
    "gi2nnunet predict-and-score\n\n"
    "gi2nnunet COMMAND --help shows the options of a command and an example.",
    epilog="Exit codes: 0 done, 1 a bug in this package, 2 wrong usage, 3 wrong input (or verify "
    "or doctor found a problem), 4 nnU-Net failed, 5 the output could not be written, 6 stopped "
    "early on request, 130 interrupted, 141 the output pipe was closed.",
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
    quiet: QuietOption = False,
) -> None:
    """Parse the options before the command."""
    set_quiet(quiet)


def main() -> None:
    """Run the command line; the entry point of ``gi2nnunet``."""
    code = _run()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        if code == 0:
            unread = isinstance(error, BrokenPipeError)
            code = _UNREAD if unread else _report_unwritten(error)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python tries once more at its end
    sys.exit(code)


def _run() -> int:
    """Run a command; return its exit code."""
    try:
        app()
    except GiError as error:
        return _report(str(error), error.exit_code)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # Typer and Rich turn it into this
            return _UNREAD
        if end.code == _INTERRUPTED:
            _report(
                "interrupted. Run the same command again; finished steps are kept if possible.", 0
            )
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BrokenPipeError:
        return _UNREAD
    except MemoryError:
        return _report(
            "there is not enough memory. Use fewer --jobs, or smaller files.",
            EngineError.exit_code,
        )
    except Exception as error:  # no traceback reaches the user's screen
        if isinstance(error, FileNotFoundError) and not _has_folder():
            return _report(
                "the current folder does not exist any more. Go to one that exists, or mount it "
                "again, and run the same command again.",
                OutputError.exit_code,
            )
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return _report_unwritten(error)
        from gi2nnunet.cli.bug_report import describe_bug

        return _report(describe_bug(error, sys.argv), _BUG)
    return 0


def _report_unwritten(error: OSError) -> int:
    where = error.filename or "the output"
    return _report(f"{where} could not be written ({error.strerror}).", OutputError.exit_code)


def _report(problem: str, code: int) -> int:
    """Print an error; return the exit code."""
    print_error(problem)
    return code


def _has_folder() -> bool:
    """Return whether the current folder exists."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True
