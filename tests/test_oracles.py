"""The numbers of the published code, file by file: `pytest tests/test_oracles.py --oracles DIR`."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.adapters import ADAPTERS, OBJECTIVE_OF, longest, module_of

TOLERANCE = {torch.float64: (1e-9, 1e-12), torch.float32: (2e-5, 2e-6)}
# At a collapse v2's logarithm multiplies the rounding of a cosine by 1 / e = 1e6.
# CLAM-MB's logits and DSMIL's root of 128 are float32 in the published code, as is all of TransMIL;
# INS adds 1e-12 before a logarithm.
LOOSER = {"voco_v2_": 1e-9, "clam_mb_": 1e-6, "dsmil_c": 1e-6, "transmil_": 1e-4}
LOOSER["ins_supcon"] = 1e-10


def pytest_generate_tests(metafunc):
    if "oracle" in metafunc.fixturenames:
        files = sorted(Path(metafunc.config.getoption("--oracles")).glob("*.npz"))
        metafunc.parametrize("oracle", files, ids=[file.stem for file in files])


def is_built(objective):
    """Tell whether the module that a family belongs to exists."""
    return importlib.util.find_spec(module_of(objective)) is not None


def adapter_for(file):
    family = longest(file.stem, OBJECTIVE_OF)
    assert family, f"{file.name}: no family; add it to OBJECTIVE_OF in tests/oracles/adapters.py"
    objective = OBJECTIVE_OF[family]
    if not is_built(objective):
        pytest.skip(f"{family}: the objective {objective} is not built yet")
    adapter = longest(file.stem, ADAPTERS)
    assert adapter, f"{file.name}: {objective} is built, but tests/oracles has no adapter"
    return ADAPTERS[adapter]


def input_of(gradient, arrays):
    """The input that a stored gradient belongs to: families name it in one of three ways.

    None where it is no input's name; the adapter then gives the gradient as a value.
    """
    plain = gradient.removeprefix("grad_")
    names = (plain, f"in_{plain}", f"{plain}_embeddings")
    return next((name for name in names if name in arrays), None)


def load(file, dtype):
    """Floating arrays in `dtype`; those with a stored gradient require one."""
    with np.load(file, allow_pickle=False) as stored:
        numbers = [name for name in stored.files if stored[name].dtype.kind != "U"]
        arrays = {name: torch.from_numpy(np.asarray(stored[name])) for name in numbers}
    differentiated = {input_of(name, arrays) for name in arrays if name.startswith("grad_")}
    given = {}
    for name, value in arrays.items():
        value = value.to(dtype) if value.is_floating_point() else value
        given[name] = value.requires_grad_() if name in differentiated else value
    return arrays, given


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_values_and_gradients_are_those_of_the_published_code(oracle, dtype):
    call = adapter_for(oracle)
    expected, given = load(oracle, dtype)
    found = call(given)
    relative, absolute = TOLERANCE[dtype]
    absolute = max(absolute, LOOSER.get(longest(oracle.stem, LOOSER), 0.0))
    for name, value in found.items():
        torch.testing.assert_close(
            value.detach().double(), expected[name].double(), rtol=relative, atol=absolute
        )
    gradients = [name for name in expected if name.startswith("grad_") and name not in found]
    if gradients:
        next(iter(found.values())).backward()
    for name in gradients:
        stored = expected[name].double()
        gradient = given[input_of(name, given)].grad.double()
        if dtype == torch.float32:
            absolute = max(1e-9, 2e-6 * float(stored.abs().max()))
        torch.testing.assert_close(gradient, stored, rtol=relative, atol=absolute)


def test_there_are_oracles(request):
    folder = Path(request.config.getoption("--oracles"))
    assert any(folder.glob("*.npz")), f"no npz file in {folder}; pass --oracles DIR"


def test_a_family_of_an_objective_that_is_built_has_an_adapter():
    built = [family for family, objective in OBJECTIVE_OF.items() if is_built(objective)]
    assert {"voco_v1_", "ntxent_", "mae_"} <= set(built)
    adapters = tuple(ADAPTERS)
    for family in built:
        assert longest(family, ADAPTERS) or any(a.startswith(family) for a in adapters), family
