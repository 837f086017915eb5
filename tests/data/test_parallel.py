"""Work on many cases goes on when one fails, and is the same with any number of processes."""

import os

import pytest

from medcl.data.parallel import Progress, in_processes
from medcl.errors import MedclError


def root(number: int) -> float:
    if number < 0:
        raise MedclError(f"{number} has no root")
    return number**0.5


def threads_of_numpy(_: int) -> str:
    return os.environ.get("OPENBLAS_NUM_THREADS", "not set")


def end(number: int) -> None:
    os._exit(number)


@pytest.mark.parametrize("threads", [1, 2])
def test_every_item_comes_back_with_its_result_or_its_error(threads):
    results = dict(in_processes(root, [4, -1, 9], threads))
    assert results[4] == 2
    assert results[9] == 3
    assert isinstance(results[-1], MedclError)
    assert str(results[-1]) == "-1 has no root"


def test_processes_calculate_with_one_thread_and_the_parent_keeps_its_setting(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    assert [result for _, result in in_processes(threads_of_numpy, [0, 1], 2)] == ["1", "1"]
    assert os.environ["OPENBLAS_NUM_THREADS"] == "3"


def test_a_killed_process_is_an_error_with_a_remedy():
    with pytest.raises(MedclError, match=r"was killed.*fewer --threads"):
        list(in_processes(end, [1, 1], 2))


def test_progress_says_how_many_how_fast_and_how_long(capsys):
    progress = Progress("cases", 2)
    progress.step()
    assert capsys.readouterr().out == ""
    progress.step()
    assert capsys.readouterr().out.startswith("cases: 2/2, ")
