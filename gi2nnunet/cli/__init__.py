"""The command line: parse, call the library, print what it returned, map errors to exit codes.

Exit codes: 0 done, 1 a bug of this package, 2 wrong usage, 3 input, 4 engine, 5 output, 6 stopped
early as asked, 130 interrupted, 141 nobody reads the output any more.
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
    "Each command explains itself: gi2nnunet train --help",
    epilog="Exit codes: 0 done, 1 a bug of this package, 2 wrong usage, 3 input (or verify and "
    "doctor found something), 4 nnU-Net, 5 output, 6 stopped early as asked, 130 interrupted, "
    "141 no reader left.",
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
    """Parse what stands before the command."""
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
            code = _UNREAD if unread else _tell_unwritten(error)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python tries once more at its end
    sys.exit(code)


def _run() -> int:
    """Run a command; return its exit code."""
    try:
        app()
    except GiError as error:
        return _tell(str(error), error.exit_code)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # that is what Typer and Rich make of it
            return _UNREAD
        if end.code == _INTERRUPTED:
            _tell("interrupted. Run the same again: what was done is kept where it can be.", 0)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BrokenPipeError:
        return _UNREAD
    except MemoryError:
        return _tell(
            "the memory does not suffice. Use fewer --jobs, or give smaller files.",
            EngineError.exit_code,
        )
    except Exception as error:  # no traceback reaches the user's screen
        if isinstance(error, FileNotFoundError) and not _stands_somewhere():
            return _tell(
                "the folder that this command runs in is gone. Go to one that exists, or mount it "
                "again, then run the same again.",
                OutputError.exit_code,
            )
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return _tell_unwritten(error)
        from gi2nnunet.cli.bug_report import describe_bug

        return _tell(describe_bug(error, sys.argv), _BUG)
    return 0


def _tell_unwritten(error: OSError) -> int:
    where = error.filename or "the output"
    return _tell(f"{where} could not be written ({error.strerror}).", OutputError.exit_code)


def _tell(problem: str, code: int) -> int:
    """Print what went wrong; give the code back."""
    print_error(problem)
    return code


def _stands_somewhere() -> bool:
    """Return whether the current folder exists."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True
