"""Case and subject names as a report shows them: as they are, or as short stable hashes."""

from __future__ import annotations

import re
from collections.abc import Iterable

from medcl.files import sha256_of

SHORTEST = 4
FILE = re.compile(
    r"(?:\.{0,2}/)?(?:[\w.@+~-]+/)+[\w.@+~-]+|[\w@+~-]+\.(?:nii|dcm|nrrd|mha|mhd)[\w.]*"
)


class Names:
    """Shows names; `hashed` hides them and what could give them away in a message."""

    def __init__(
        self, cases: Iterable[str], subjects: Iterable[str], *, hashed: bool, salt: str = ""
    ) -> None:
        self.hashed = hashed
        self.cases = _shown("case", cases, salt) if hashed else {}
        self.subjects = _shown("subject", subjects, salt) if hashed else {}

    def case(self, name: str) -> str:
        return self.cases.get(name, "a case") if self.hashed else name

    def subject(self, name: str) -> str:
        return self.subjects.get(name, "a subject") if self.hashed else name

    def scrub(self, text: str) -> str:
        """Replace known names, and whatever looks like a path, in a message.

        A name of up to three digits is replaced only after `case` or `subject`: elsewhere it is
        more likely a number.
        """
        if not self.hashed:
            return text
        text = FILE.sub(lambda found: self._path(found.group()), text)
        known = {**self.subjects, **self.cases}
        for name in sorted(known, key=len, reverse=True):
            short = name.isdigit() and len(name) <= 3
            before = r"(?P<before>(?:case|subject)s? '?)" if short else r"(?P<before>(?<![\w-]))"
            pattern = before + re.escape(name) + r"(?![\w-])"
            text = re.sub(pattern, rf"\g<before>{known[name]}", text)
        return text

    def _path(self, path: str) -> str:
        """`[file]`; what has no digit or suffix (mm/voxel) and plain numbers (1/2) stay."""
        words = re.fullmatch(r"[^\W\d]+/[^\W\d]+", path)
        return path if words or re.fullmatch(r"[\d/]+", path) else "[file]"


def _shown(kind: str, names: Iterable[str], salt: str) -> dict[str, str]:
    """The shortest hashes (four digits or more) that tell all `names` apart."""
    digests = {name: sha256_of([salt, kind, name]) for name in names}
    length = SHORTEST
    while len({digest[:length] for digest in digests.values()}) < len(digests):
        length += 1
    return {name: f"{kind}-{digest[:length]}" for name, digest in digests.items()}
