"""Imports go one way: a room may use the rooms below it, never those above or beside it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEVELS = [
    ["errors"],
    ["files", "options"],
    ["config"],
    ["data"],
    ["contrast"],
    ["views", "networks"],
    ["objectives", "segmentation", "slides"],
    ["training"],
    ["study"],
    ["stages", "workflow"],
    ["cli"],
    ["__main__"],
]
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
LIGHT = ["config", "workflow", "cli", "data.cases", "data.splits", "data.sources"]
LIGHT += ["study.statistics", "study.sentences", "study.report"]
HEAVY = {"torch", "monai"}


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, module) of every import in a file, those inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, name.name) for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(node.lineno, f"{node.module}.{name.name}") for name in node.names]
    return found


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "medcl").parts[0].removesuffix(".py")


def test_every_room_has_a_level() -> None:
    rooms = {room_of(path) for path in (ROOT / "medcl").rglob("*.py")} - {"__init__"}
    assert rooms <= set(LEVEL), f"give {rooms - set(LEVEL)} a place in LEVELS"


def test_no_import_goes_upward_or_sideways() -> None:
    wrong = []
    for path in (ROOT / "medcl").rglob("*.py"):
        here = room_of(path)
        if here == "__init__":
            continue
        for line, module in imports(path):
            parts = module.split(".")
            if parts[0] != "medcl" or len(parts) < 2 or parts[1] == here:
                continue
            if LEVEL.get(parts[1], -1) >= LEVEL[here]:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {here} imports {module}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_name_neither_torch_nor_monai(module: str) -> None:
    path = ROOT / "medcl" / module.replace(".", "/")
    files = list(path.rglob("*.py")) or [path.with_suffix(".py")]
    used = {name.split(".")[0] for file in files for _, name in imports(file)}
    assert not used & HEAVY


def test_light_modules_load_neither_torch_nor_monai_by_others_either() -> None:
    names = ", ".join(f"medcl.{module}" for module in LIGHT)
    loaded = f"import sys, {names}; sys.exit(sorted({HEAVY!r} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", loaded], check=True)


def test_only_inference_and_its_own_networks_import_monai() -> None:
    files = {str(path.relative_to(ROOT / "medcl")): path for path in (ROOT / "medcl").rglob("*.py")}
    users = {
        name
        for name, path in files.items()
        if any(module.split(".")[0] == "monai" for _, module in imports(path))
    }
    # Networks of MONAI import it when one is built: 4 s that all others are spared.
    built_late = {"networks/from_monai.py", "networks/tile_encoder.py"}
    assert users == {*built_late, "segmentation/inference.py"}
    for name in built_late:
        outside_functions = ast.parse(files[name].read_text()).body
        at_once = [n for n in outside_functions if isinstance(n, ast.Import | ast.ImportFrom)]
        assert not any("monai" in ast.unparse(node) for node in at_once)


def test_packages_that_break_torch_are_imported_nowhere() -> None:
    banned = {"torchvision", "timm", "lightly", "nnunetv2", "torchio"}
    for path in (*ROOT.glob("medcl/**/*.py"), *ROOT.glob("tests/**/*.py")):
        assert not banned & {name.split(".")[0] for _, name in imports(path)}, path
