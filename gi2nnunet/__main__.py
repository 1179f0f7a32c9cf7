"""Run the command line: ``gi2nnunet``, or ``python -m gi2nnunet``."""

import signal


def run() -> None:
    """Load the command line and run it; Ctrl-C while it loads ends it without a traceback."""
    # A shell starts what runs in the background deaf to Ctrl-C: so it stays.
    hears = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if hears:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from gi2nnunet.cli import main

    if hears:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    main()


if __name__ == "__main__":
    run()
