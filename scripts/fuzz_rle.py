"""Fuzz the RLE decoder against a slow, strict parser that was written apart from it.

    python scripts/fuzz_rle.py --inputs 300000 --seed 1

Every input must be accepted by both or refused by both, an accepted one must give the same pixels,
and nothing may crash. Inputs come in tables of mixed rows, as in a CSV, because one row's text
must not leak into its neighbours. Exits 1 at the first difference and prints the input.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable

import numpy as np

from gi2nnunet.formats.rle import decode_rows, encode_mask, run_pixels

Runs = list[tuple[int, int]]

MOST_DIGITS = 18
MOST_PAINTED = 100  # pixels of an image that is also encoded again


# --- the parser: one character after another ---------------------------------------------------


def parse_strictly(text: str, pixels: int | None) -> tuple[Runs, str]:
    """Return the runs (start from 0, length) and "", or no runs and why the text is refused."""
    numbers: list[int] = []
    digits = 0
    value = 0
    for character in text + " ":
        if character == " ":
            if digits:
                numbers.append(value)
            digits = value = 0
        elif character in "0123456789":
            digits += 1
            value = value * 10 + (ord(character) - ord("0"))
            if digits > MOST_DIGITS:
                return [], "digits"
        else:
            return [], "character"
    if len(numbers) % 2 == 1:
        return [], "odd"
    runs: Runs = []
    next_free = 1
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        if start == 0 or length == 0:
            return [], "zero"
        if start < next_free:
            return [], "order"
        next_free = start + length
        if pixels is not None and next_free - 1 > pixels:
            return [], "end"
        runs.append((start - 1, length))
    return runs, ""


def join_touching(runs: Runs) -> Runs:
    joined: Runs = []
    for start, length in runs:
        if joined and sum(joined[-1]) == start:
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        else:
            joined.append((start, length))
    return joined


# --- inputs ------------------------------------------------------------------------------------

ODD_CHARACTERS = (
    "\t\n\r\v\f\0-+.,;:eE_xX/\\\"'#%abcNA\u00a0\u2003\u2028\u0085\u00b2\u0661\u0966\uff11\u2460"
    "\u200b\ufeff\ud800\udfff\U0001d7d8\x7f\x80"
)
NUMBERS = (
    "0", "1", "2", "00", "01", "9", "10", "99", "100", "101", "4294967296", "2147483648",
    "999999999999999999", "000000000000000001", "0000000000000000001", "9223372036854775807",
    "9223372036854775808", "18446744073709551615", "18446744073709551617", "1" * 40,
)  # fmt: skip


def valid(random_: random.Random, pixels: int) -> str:
    words, at = [], 1
    while at <= pixels and random_.random() < 0.8:
        start = at + random_.randrange(0, 12)
        length = random_.randrange(1, 15)
        if start + length - 1 > pixels:
            break
        words += [str(start), str(length)]
        at = start + length
    return " ".join(words)


def digits_and_spaces(random_: random.Random, _: int) -> str:
    return "".join(random_.choices("0123456789 ", k=random_.randrange(0, 40)))


def any_characters(random_: random.Random, _: int) -> str:
    return "".join(
        chr(random_.choice((random_.randrange(128), random_.randrange(0x110000))))
        for _ in range(random_.randrange(0, 12))
    )


def special_numbers(random_: random.Random, _: int) -> str:
    return " ".join(random_.choices(NUMBERS, k=random_.randrange(0, 7)))


def near_the_end(random_: random.Random, pixels: int) -> str:
    start = max(1, pixels - random_.randrange(-2, 5))
    return f"{start} {max(0, pixels - start + random_.randrange(-1, 4))}"


def disturb(random_: random.Random, pixels: int) -> str:
    text = list(valid(random_, pixels) or "1 1")
    for _ in range(random_.randrange(1, 4)):
        at = random_.randrange(0, len(text) + 1)
        what = random_.randrange(5)
        if what == 0:
            text.insert(at, random_.choice(ODD_CHARACTERS))
        elif what == 1:
            text.insert(at, random_.choice("0123456789 "))
        elif what == 2 and at < len(text):
            del text[at]
        elif what == 3 and at < len(text):
            text[at] = random_.choice(ODD_CHARACTERS + "0123456789   ")
        else:
            other = random_.randrange(0, len(text) + 1)
            text[min(at, other) : max(at, other)] = text[min(at, other) : max(at, other)][::-1]
    return "".join(text)


def shuffle_words(random_: random.Random, pixels: int) -> str:
    words = valid(random_, pixels).split()
    if random_.random() < 0.5:
        random_.shuffle(words)
    elif words:
        words[random_.randrange(len(words))] = random_.choice(NUMBERS)
    return (" " * random_.randrange(1, 4)).join(words)


MAKERS: tuple[Callable[[random.Random, int], str], ...] = (
    valid, digits_and_spaces, any_characters, special_numbers, near_the_end, disturb, disturb,
    shuffle_words,
)  # fmt: skip


# --- the comparison ----------------------------------------------------------------------------


def check_table(texts: list[str], pixels: list[int] | None, counts: Counter[str]) -> None:
    """Decode a table both ways; exit at the first difference."""
    runs, problems = decode_rows(
        texts, pixels=None if pixels is None else np.array(pixels, np.int64)
    )
    refused = {problem.row for problem in problems}
    if len(refused) != len(problems) or len(runs) != len(texts):
        sys.exit(f"a row was refused twice, or rows were lost: {texts!r}")
    for row, text in enumerate(texts):
        limit = None if pixels is None else pixels[row]
        wanted, reason = parse_strictly(text, limit)
        starts, lengths = runs.row(row)
        found = list(zip(starts.tolist(), lengths.tolist(), strict=True))
        if (row in refused) != bool(reason) or found != wanted:
            sys.exit(
                f"row {row}, pixels {limit}: {text!r}\n"
                f"decoder: {'refused' if row in refused else found}\n"
                f"strict parser: {reason or wanted}"
            )
        if limit is not None and limit <= MOST_PAINTED:
            mask = np.zeros((1, limit), np.bool_)
            mask[0, run_pixels(starts, lengths)] = True
            again, _ = parse_strictly(encode_mask(mask), limit)
            if again != join_touching(wanted):
                sys.exit(f"encoding the mask does not give the runs again: {text!r}")
        counts[reason or ("accepted" if wanted else "accepted, empty")] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=300_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random_ = random.Random(options.seed)
    counts: Counter[str] = Counter()
    begin = time.perf_counter()
    done = 0
    while done < options.inputs:
        n_rows = min(random_.choice((1, 2, 3, 10, 100, 1000)), options.inputs - done)
        pixels = [random_.choice((1, 7, 100, 70756, 111600)) for _ in range(n_rows)]
        texts = [random_.choice(MAKERS)(random_, limit) for limit in pixels]
        check_table(texts, pixels if random_.random() < 0.8 else None, counts)
        done += n_rows
    print(f"{done:,} inputs in {time.perf_counter() - begin:.0f} s, no crash, no difference")
    for reason, count in counts.most_common():
        print(f"  {count:>9,}  {reason if reason.startswith('accepted') else f'refused: {reason}'}")


if __name__ == "__main__":
    main()
