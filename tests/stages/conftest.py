"""What tests of several stages share."""

from collections import Counter
from pathlib import Path

import pytest

from medcl.data import labels, voxel_pass
from medcl.data.dicom import Series


@pytest.fixture
def decoded(monkeypatch) -> Counter:
    """How often the voxels of each file or series have been decoded."""
    count: Counter = Counter()
    for module in (voxel_pass, labels):
        read = module.read_volume

        def counted(path, *, read=read, **more):
            count[Path(path).name] += 1
            return read(path, **more)

        monkeypatch.setattr(module, "read_volume", counted)
    decode = Series.decode

    def counted_series(self: Series):
        count[self.folder.name] += 1
        return decode(self)

    monkeypatch.setattr(Series, "decode", counted_series)
    return count
