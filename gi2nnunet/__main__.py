"""Run the command line with ``python -m gi2nnunet``."""

from gi2nnunet.cli import main

if __name__ == "__main__":
    main()
