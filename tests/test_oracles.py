"""The numbers of the published code, file by file: `pytest tests/test_oracles.py --oracles DIR`."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.adapters import ADAPTERS, OBJECTIVE_OF, longest

TOLERANCE = {torch.float64: (1e-9, 1e-12), torch.float32: (2e-5, 2e-6)}


def pytest_generate_tests(metafunc):
    if "oracle" in metafunc.fixturenames:
        files = sorted(Path(metafunc.config.getoption("--oracles")).glob("*.npz"))
        metafunc.parametrize("oracle", files, ids=[file.stem for file in files])


def adapter_for(file):
    family = longest(file.stem, OBJECTIVE_OF)
    assert family, f"{file.name}: no family; add it to OBJECTIVE_OF in tests/oracles/adapters.py"
    objective = OBJECTIVE_OF[family]
    if importlib.util.find_spec(f"medcl.objectives.{objective}") is None:
        pytest.skip(f"{family}: the objective {objective} is not built yet")
    adapter = longest(file.stem, ADAPTERS)
    assert adapter, f"{file.name}: {objective} is built, but tests/oracles has no adapter"
    return ADAPTERS[adapter]


def load(file, dtype):
    """Floating arrays in `dtype`; those with a stored gradient require one."""
    with np.load(file, allow_pickle=False) as stored:
        numbers = [name for name in stored.files if stored[name].dtype.kind != "U"]
        arrays = {name: torch.from_numpy(np.asarray(stored[name])) for name in numbers}
    given = {}
    for name, value in arrays.items():
        value = value.to(dtype) if value.is_floating_point() else value
        wanted = f"grad_{name.removeprefix('in_')}" in arrays
        given[name] = value.requires_grad_() if wanted else value
    return arrays, given


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_values_and_gradients_are_those_of_the_published_code(oracle, dtype):
    call = adapter_for(oracle)
    expected, given = load(oracle, dtype)
    found = call(given)
    relative, absolute = TOLERANCE[dtype]
    for name, value in found.items():
        torch.testing.assert_close(
            value.detach().double(), expected[name].double(), rtol=relative, atol=absolute
        )
    gradients = [name for name in expected if name.startswith("grad_")]
    if gradients:
        next(iter(found.values())).backward()
    for name in gradients:
        stored = expected[name].double()
        of = name.removeprefix("grad_")
        gradient = given[of if of in given else f"in_{of}"].grad.double()
        if dtype == torch.float32:
            absolute = max(1e-9, 2e-6 * float(stored.abs().max()))
        torch.testing.assert_close(gradient, stored, rtol=relative, atol=absolute)


def test_there_are_oracles(request):
    folder = Path(request.config.getoption("--oracles"))
    assert any(folder.glob("*.npz")), f"no npz file in {folder}; pass --oracles DIR"


def test_a_family_of_an_objective_that_is_built_has_an_adapter():
    built = [
        family
        for family, objective in OBJECTIVE_OF.items()
        if importlib.util.find_spec(f"medcl.objectives.{objective}")
    ]
    assert {"voco_v1_", "voco_labels_", "mae_"} <= set(built)
    assert all(longest(family, ADAPTERS) for family in built)
