"""What kaggle-bundle cannot make a bundle of, or write one to."""

from __future__ import annotations

from tests.bad_inputs.arguments import usage
from tests.bad_inputs.entry import BadInput
from tests.bad_inputs.making import then, write, write_tables

BUNDLES = (
    usage("kaggle-bundle --out out -w w", "Missing option", "--user"),
    usage("kaggle-bundle --out out --user jane --hours 0", "--hours", "0.0001"),
    usage("kaggle-bundle --out out --user jane --hours nan", "--hours", "1000"),
    *(
        BadInput(
            name=f"refused: kaggle-bundle --out {words}",
            start="model",
            make=then(write_tables, write("freeze.txt", freeze), write("full/notes.txt", "mine")),
            command=f"kaggle-bundle --out {words}",
            message=message,
            exit_code=exit_code,
        )
        for words, message, exit_code, freeze in (
            ("o --user jane/x", ("--user: found 'jane/x'", "a Kaggle account"), 3, ""),
            ("o --user jane --name UPPER", ("--name: found 'UPPER'", "lower-case letters"), 3, ""),
            ("o --user jane --image-python 3.9", ("'3.9'", "from 3.11 to"), 3, ""),
            (
                "o --user jane --image-freeze none.txt",
                ("none.txt: cannot be read", "pip freeze"),
                3,
                "",
            ),
            (
                "o --user jane --image-freeze freeze.txt",
                ("freeze.txt: does not list torch", "freeze of an image with a GPU"),
                3,
                "numpy==2.0\n",
            ),
            (
                "./o --user jane --image-freeze freeze.txt",
                ("freeze.txt: line 2: found 'what is this'", "name==version"),
                3,
                "torch==2.8.0\nwhat is this\n",
            ),
            (
                "o --user jane --fold 3",
                ("Finished: 2d fold all", "Choose among these with --config"),
                3,
                "",
            ),
            ("full --user jane", ("full: holds other files", "empty or a new folder"), 5, ""),
            ("truth.csv --user jane", ("truth.csv: is not a folder",), 5, ""),
            ("truth.csv/o --user jane", ("truth.csv/o", "cannot be"), 5, ""),
        )
    ),
)
