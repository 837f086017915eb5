"""The table of codes holds every code that the source can give, with its severities."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from medcl.data.codes import CODES
from medcl.data.series import SKIPPED

ROOT = Path(__file__).resolve().parents[2]
ERRORS = ("VolumeError", "SlideError", "_error", "missing_file")  # calls whose findings are errors
ORDER = ("error", "warning", "info")


def texts(node: ast.AST | None) -> set[str]:
    """The literal texts an expression may give."""
    if isinstance(node, ast.IfExp):
        return texts(node.body) | texts(node.orelse)
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value:
        return {node.value}
    return set()


def given() -> Iterator[tuple[str, str]]:
    """(code, severity) of every finding and error in the source; severity "" where it varies."""
    for path in (ROOT / "medcl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", "")
            first = node.args[0] if node.args else None
            if name in ERRORS:
                yield from ((code, "error") for code in texts(first))
            elif name == "Finding" and first is not None:
                severities = texts(node.args[1]) or {""}
                yield from ((code, s) for code in texts(first) for s in severities)
            elif name == "NotDicomError":
                named = next((k.value for k in node.keywords if k.arg == "code"), None)
                yield from ((code, "error") for code in texts(named))


def test_every_code_of_the_source_stands_in_the_table_with_its_severities():
    found = defaultdict(set)
    for code, severity in given():
        found[code].add(severity)
    table = {name: code for codes in CODES.values() for name, code in codes.items()}
    assert sum(map(len, CODES.values())) == len(table)  # none stands in two groups
    assert len(found) > 60
    assert sorted(found) == sorted(table)
    for name, severities in found.items():
        if name in SKIPPED:  # raised, and told as info
            severities = {"info"}
        assert severities - {""} <= set(table[name].severities), name


def test_every_code_has_a_meaning_a_remedy_and_ordered_severities():
    for codes in CODES.values():
        for name, code in codes.items():
            assert code.meaning, name
            assert code.remedy, name
            assert code.severities == tuple(s for s in ORDER if s in code.severities), name
