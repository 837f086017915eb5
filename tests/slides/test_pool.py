"""The pool of tiles: what is drawn, and that it can be drawn again."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from make_slides import svs

from medcl.errors import MedclError
from medcl.slides.examine import TissueMask
from medcl.slides.pool import PooledSlide, TilePool, sample, write_pool
from medcl.slides.reader import open_slide
from medcl.slides.tiles import TileSettings, lay_tiles, read_tile


def pooled(folder: Path, name: str, tile: int = 64) -> PooledSlide:
    path = svs(folder, name=f"{name}.svs")
    reader = open_slide(path)
    mask = TissueMask(np.ones((2, 3), bool), (256.0, 256.0))
    return PooledSlide(name, path, lay_tiles(reader, mask, TileSettings(0.5, tile=tile), name))


def test_a_pool_holds_at_most_so_many_tiles_of_each_slide_and_their_pixels(tmp_path: Path) -> None:
    entries = [pooled(tmp_path, "a"), pooled(tmp_path, "b")]
    assert write_pool(tmp_path / "pool.h5", entries, most=7, seed=0) == {}
    pool = TilePool(tmp_path / "pool.h5")
    assert len(pool) == 14
    assert pool.slides == ["a", "b"]
    np.testing.assert_array_equal(pool.slide, [0] * 7 + [1] * 7)
    assert len({tuple(place) for place in pool.coords[:7]}) == 7
    reader = open_slide(entries[1].path)
    x, y = map(int, pool.coords[9])
    expected = read_tile(reader, entries[1].tiles.grid, x, y)
    np.testing.assert_array_equal(pool.read([9, 0])[0], expected)


def test_a_draw_depends_on_the_seed_and_on_its_slide_alone(tmp_path: Path) -> None:
    a, b = pooled(tmp_path, "a"), pooled(tmp_path, "b")

    def places(entries: list[PooledSlide], seed: int, slide: str) -> np.ndarray:
        write_pool(tmp_path / "pool.h5", entries, most=7, seed=seed)
        pool = TilePool(tmp_path / "pool.h5")
        return pool.coords[pool.slide == pool.slides.index(slide)]

    first = places([a, b], 0, "b")
    np.testing.assert_array_equal(places([b], 0, "b"), first)
    assert not np.array_equal(places([b], 1, "b"), first)
    assert not np.array_equal(places([a, b], 0, "a"), first)


def test_all_tiles_are_taken_where_there_are_few() -> None:
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(sample(5, 7, rng), range(5))
    drawn = sample(100, 7, rng)
    assert len(set(drawn)) == 7
    assert (np.diff(drawn) > 0).all()


def test_a_slide_that_cannot_be_read_is_left_out_by_name(tmp_path: Path) -> None:
    good, bad = pooled(tmp_path, "a"), pooled(tmp_path, "b")
    bad.path.write_bytes(b"nothing")
    failed = write_pool(tmp_path / "pool.h5", [bad, good], most=3, seed=0)
    assert list(failed) == ["b"]
    pool = TilePool(tmp_path / "pool.h5")
    assert pool.slides == ["a"]
    assert pool.left_out == failed
    with pytest.raises(MedclError, match="none of 1 slides"):
        write_pool(tmp_path / "none.h5", [bad], most=3, seed=0)
    assert not (tmp_path / "none.h5").exists()


def test_tiles_of_two_sizes_are_refused(tmp_path: Path) -> None:
    entries = [pooled(tmp_path, "a"), pooled(tmp_path, "b", tile=128)]
    with pytest.raises(MedclError, match=r"\[64, 128\]"):
        write_pool(tmp_path / "pool.h5", entries, most=3, seed=0)


def test_a_forked_process_opens_the_pool_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handle that two processes share reads at the wrong place."""
    write_pool(tmp_path / "pool.h5", [pooled(tmp_path, "a")], most=3, seed=0)
    pool = TilePool(tmp_path / "pool.h5")
    pool.read([1])
    assert pool._open is not None
    mine = pool._open[1]
    pool.read([2])
    assert pool._open[1] is mine
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    pool.read([1])
    assert pool._open[1] is not mine


def test_a_pool_goes_to_another_process_without_its_handle(tmp_path: Path) -> None:
    write_pool(tmp_path / "pool.h5", [pooled(tmp_path, "a")], most=3, seed=0)
    pool = TilePool(tmp_path / "pool.h5")
    before = pool.read([1])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(pool)).read([1]), before)
