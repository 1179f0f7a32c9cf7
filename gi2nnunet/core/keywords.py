"""Keywords in messages: a command's ``--allow-missing`` is ``allow_missing=True`` in Python.

Messages are written in the words of the command line, which are looked up in the signatures of the
calls. A program that calls the library reads, in place of ``gi2nnunet train --fold cv``, the text
``gi2nnunet.train(fold="cv")``.
"""

from __future__ import annotations

import inspect
import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from gi2nnunet.core.command import KEYWORDS, name_place
from gi2nnunet.core.errors import GiError

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")
Calls = Mapping[str, inspect.Signature]

_ENVIRONMENT = re.compile(r"\b(\w+)=(\w+) (?=gi2nnunet [a-z-]+ \.\.\.)")
_OPTION = re.compile(r"(?<![^\s(`'\"])--([a-z][a-z-]*)(?![\w-])")
_WORD = r"'[^'\n]*'|\"[^\"\n]*\"|[^\s;:()]*[^\s;:().,]"
_VALUE = re.compile(rf"[ =]({_WORD})")
_ARGUMENT = re.compile(rf" ([A-Z]{{2,}}\b|'[^'\n]*'|(?=[\w~]*[/.]\w)(?:{_WORD})|\w\S*(?= --[a-z]))")
_LAST_WORD = re.compile(r" (?!again\b)(\S+?)(?=\.?$)", re.MULTILINE)
_NOT_A_VALUE = re.compile(  # the words that follow an option in a sentence
    r"(?:--|(?:a|an|and|as|asks?|beside|by|for|from|if|in|is|it|maps|of|or|that|the|to|with)"
    r"(?![\w-]))"
)
_DASHED = re.compile(r"(?<![\w/.-])(?:predict-and-score|(?:ex|im)port-model)(?![\w/-])")
_ONLY_THERE = ("watch", "json", "quiet", "yes")
# The fields of what a call returns that hold sentences, and those that hold such objects.
_TEXTS = (
    "warnings", "notes", "note", "problems", "labels", "found", "expected", "remedy", "advice",
    "command", "missing",
)  # fmt: skip
_PARTS = ("score", "findings", "verdicts", "next_step", "report", "prediction", "model", "a", "b")


def speak_python(call: Callable[_Given, _Result], calls: Calls) -> Callable[_Given, _Result]:
    """Let a call name keywords in its errors, in the warnings of its result and in its notices."""

    @wraps(call)
    def run(*args: _Given.args, **keywords: _Given.kwargs) -> _Result:
        place: Any = keywords.get("workspace")
        workspace = str(place) if place else None
        dataset_id: Any = keywords.get("dataset_id")

        def translate(text: str) -> str:
            text = name_place(text, workspace=workspace, dataset_id=dataset_id)
            return spell_keywords(text, calls, call=call.__name__)

        for key in ("on_notice", "on_warning"):
            tell: Any = keywords.get(key)
            if tell is not None:
                keywords[key] = lambda text, tell=tell: tell(translate(text))
        try:
            result = call(*args, **keywords)
        except GiError as error:
            error.args = tuple(map(translate, error.args))
            raise
        made: _Result = _translate_texts(result, translate)
        return made

    return run


def spell_keywords(text: str, calls: Calls, *, call: str | None = None) -> str:
    """Return a sentence of the command line in the words of Python.

    Parameters
    ----------
    calls
        Signatures by name.
    call
        The call that says it: an option in a sentence is a keyword of this one, if it has it.
    """
    names = "|".join(name.replace("_", "-") for name in calls)
    command = re.compile(rf"\bgi2nnunet ({names})(?![\w-])")
    text = _ENVIRONMENT.sub(r'os.environ["\1"] = "\2"; ', text)
    done, at = "", 0
    while found := command.search(text, at):
        name = found[1].replace("-", "_")
        spelled, end = _spell_call(name, calls[name], text, found.end())
        done += _spell_options(text[at : found.start()], calls, call) + spelled
        at = end
    return done + _spell_options(text[at:], calls, call)


def _spell_call(name: str, signature: inspect.Signature, text: str, at: int) -> tuple[str, int]:
    """Return a command as a call, and where its words end."""
    positional: list[str] = []
    keywords: dict[str, list[str]] = {}
    while True:
        option = re.compile(r" +--([a-z][a-z-]*)(?![\w-])").match(text, at)
        if option:
            if option[1] in _ONLY_THERE:
                at = option.end()
                continue
            key, value, end = _read_option(option, signature, text)
            if key is None or value is None:
                break
            keywords.setdefault(key, []).append(value)
            at = end
        elif not positional and (found := _ARGUMENT.match(text, at) or _LAST_WORD.match(text, at)):
            if not _takes_argument(signature):
                break
            positional.append(_spell_value("", found[1]))
            at = found.end()
        else:
            break
    if text.startswith(" ...", at):
        at += len(" ...")
    given = [key + "=" + _join(values) for key, values in keywords.items()]
    required = [
        one for one in signature.parameters.values() if one.default is inspect.Parameter.empty
    ]
    if len(required) > len(positional) + sum(one.name in keywords for one in required):
        return f"gi2nnunet.{name}", at
    return f"gi2nnunet.{name}({', '.join([*positional, *given])})", at


def _takes_argument(signature: inspect.Signature) -> bool:
    first = next(iter(signature.parameters.values()), None)
    return first is not None and first.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD


def _join(values: list[str]) -> str:
    return values[0] if len(values) == 1 else f"[{', '.join(values)}]"


def _spell_options(text: str, calls: Calls, call: str | None) -> str:
    """Return a text with the options in it as keywords, those of no call unchanged."""
    several = [calls[name] for name in (call, *calls) if name and name in calls]
    done, at = "", 0
    while found := _OPTION.search(text, at):
        done += text[at : found.start()]
        at = found.end()
        for signature in several:
            key, value, end = _read_option(found, signature, text)
            if key is not None:
                done += key if value is None else f"{key}={value}"
                at = end
                break
        else:
            done += found[0]
    done += text[at:]
    return _DASHED.sub(lambda name: name[0].replace("-", "_"), done)


def _read_option(
    option: re.Match[str], signature: inspect.Signature, text: str
) -> tuple[str | None, str | None, int]:
    """Return the keyword of an option, its value if it has one, and where they end."""
    name, end = option[1], option.end()
    key = KEYWORDS.get(f"--{name}", name.replace("-", "_"))
    switched_off = name.startswith("no-") and key not in signature.parameters
    key = key.removeprefix("no_") if switched_off else key
    parameter = signature.parameters.get(key)
    if parameter is None:
        return None, None, end
    if str(parameter.annotation).startswith("bool"):
        return key, str(not switched_off), end
    value = _VALUE.match(text, end)
    if value is None or _NOT_A_VALUE.match(value[1]):
        return key, None, end
    return key, _spell_value(key, value[1]), value.end()


def _spell_value(key: str, word: str) -> str:
    """Return a value as Python; a word in capitals is a place for one."""
    text = shlex.split(word)[0] if word[:1] in "'\"" else word
    if re.fullmatch(r"[A-Z]{2,}|\d+|\d*\.\d+(?:e-?\d+)?|\d+e-?\d+", text):
        return text
    if key == "patch_size" and re.fullmatch(r"\d+(?:x\d+)+", text):
        return f"({text.replace('x', ', ')})"
    if key in ("roi", "roi_name") and "=" in text:
        return json.dumps(dict([text.split("=", 1)]))
    return json.dumps(text, ensure_ascii=False)


def _translate_texts(value: Any, translate: Callable[[str], str]) -> Any:
    """Return what a call returned with its sentences translated."""
    if isinstance(value, str):
        return translate(value)
    if type(value) in (tuple, list):
        return type(value)(_translate_texts(one, translate) for one in value)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    changed = {
        field.name: new
        for field in fields(value)
        if field.name in (*_TEXTS, *_PARTS)
        and (new := _translate_texts(old := getattr(value, field.name), translate)) != old
    }
    return replace(value, **changed) if changed else value
