"""Patterns of paths: {subject}, {visit} and {class} stand for a part of a name, * for anything.

A path can often be read in several ways: `p1_left_kidney` is the kidney of `p1_left`, or the left
kidney of `p1`. A pattern gives all of them, the one with the longest first part first; which one
is right is for those to say who know the subjects and the classes.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from medcl.data.entries import listed, suffix_of
from medcl.errors import MedclError

Reading = Mapping[str, str]
TOKEN = re.compile(r"({\w+}|\*)")


class Pattern:
    """One pattern of a source. A volume's suffix fits in any letter case, all else exactly."""

    def __init__(self, text: str, where: str, names: Sequence[str] = ("subject", "visit")) -> None:
        """`where`: the key it stands under; raises MedclError for what is no pattern."""
        if PurePosixPath(text).is_absolute() or PureWindowsPath(text).drive:
            raise MedclError(
                f"{where}: '{text}' is an absolute path; write it as seen from the source's `path`"
            )
        wrong = [name for name in re.findall(r"{(.*?)}", text) if name not in names]
        if wrong or "{subject}" not in text or "**" in text:
            others = " and ".join(f"{{{name}}}" for name in names[1:])
            raise MedclError(
                f"{where}: '{text}' must hold {{subject}}, may hold {others} and *, nothing else"
            )
        self.text, self.where = text, where
        plain = text.replace("\\", "/").removeprefix("./")
        self._tokens = [part for part in TOKEN.split(_with_small_suffix(plain)) if part]
        ending = len(plain) - len(suffix_of(plain))
        wild = ("*" if TOKEN.fullmatch(p) else glob.escape(p) for p in TOKEN.split(plain[:ending]))
        any_case = (f"[{c.lower()}{c.upper()}]" if c.isalpha() else c for c in plain[ending:])
        self._wild = "".join((*wild, *any_case))

    def __contains__(self, name: str) -> bool:
        return f"{{{name}}}" in self.text

    def paths(self, root: Path) -> Iterator[tuple[Path, list[Reading]]]:
        """Every path that fits, sorted, with all its readings."""
        for path in sorted(root.glob(self._wild)):
            if path.name.startswith("."):
                continue
            text = _with_small_suffix(path.relative_to(root).as_posix())
            if readings := list(_readings(self._tokens, text, {})):
                yield path, readings

    def no_match(self, root: Path) -> MedclError:
        """Why nothing fits: what lies where the files are looked for."""
        folder = root
        *parents, _ = self.text.replace("\\", "/").removeprefix("./").split("/")
        for part in parents:
            if TOKEN.search(part):
                break
            if not (folder / part).is_dir():
                break
            folder /= part
        if not root.is_dir():
            return MedclError(f"{self.where}: {root} is no folder; layout files takes one file")
        there = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
        holds = f"{folder} holds {listed(there)}" if there else f"{folder} is empty"
        return MedclError(
            f"{self.where}: no path in {root} fits '{self.text}'; {holds}; correct the pattern, "
            "its letter case included, or the path"
        )


def key_of(reading: Reading) -> tuple[str, str]:
    """Subject and visit."""
    return reading["subject"], reading.get("visit", "")


def _with_small_suffix(text: str) -> str:
    ending = len(text) - len(suffix_of(text))
    return text[:ending] + text[ending:].lower()


def _readings(tokens: Sequence[str], text: str, known: Reading) -> Iterator[Reading]:
    """What the names stand for; one that occurs twice stands for the same."""
    if not tokens:
        if not text:
            yield known
        return
    token, rest = tokens[0], tokens[1:]
    name = token[1:-1] if token.startswith("{") else ""
    if token != "*" and (not name or name in known):
        fixed = known[name] if name else token
        if text.startswith(fixed):
            yield from _readings(rest, text[len(fixed) :], known)
        return
    end = text.find("/") if "/" in text else len(text)
    for length in range(end, 0 if name else -1, -1):
        if name:
            yield from _readings(rest, text[length:], {**known, name: text[:length]})
        else:
            yield from _readings(rest, text[length:], known)
