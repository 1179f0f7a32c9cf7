"""Running the command line inside the test's own process, and seeing what it changed."""

import hashlib
import re
import sys

import gi2nnunet.cli
from tests.json_output import check_output


def tree(folder):
    """Everything under a folder: files with their content's digest, links with their target."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = None
    return found


def run_in_process(arguments, *, monkeypatch, capsys):
    """Run the command line; gives exit code, output and error text, white space made one blank."""
    monkeypatch.setattr(sys, "argv", ["gi2nnunet", *map(str, arguments)])
    capsys.readouterr()
    code = 0
    try:
        gi2nnunet.cli.main()
    except SystemExit as done:
        code = done.code or 0
    out, err = capsys.readouterr()
    check_output(arguments, out)
    return code, out, re.sub(r"[\s│╭╮╰╯─]+", " ", err)
