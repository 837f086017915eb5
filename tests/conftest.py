"""Shape checks in every test, and the real data by path."""

from pathlib import Path

import pytest
from jaxtyping import install_import_hook
from micro import micro_study, snakemake

install_import_hook("medcl", "typechecker.check")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--data", default="../shared/data", help="folder of the real test data")
    parser.addoption("--require-data", action="store_true", help="absence of the data is an error")
    parser.addoption("--oracles", default="tests/oracles", help="folder of the npz files to run")


@pytest.fixture(scope="session")
def data(request: pytest.FixtureRequest) -> Path:
    """Folder of the real data; skips where it is absent, unless --require-data."""
    folder = Path(request.config.getoption("--data")).resolve()
    if not (folder / "README.md").is_file():
        reason = f"no real data at {folder}; pass --data DIR"
        if request.config.getoption("--require-data"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the finished micro study."""
    folder = tmp_path_factory.mktemp("finished")
    snakemake("--cores", "2", "--configfile", micro_study(folder), cwd=folder)
    return folder
