"""The matches of a training's cases: a table in its state, computed anew between passes.

`refresh` fills it before the first step (affine) or every so many steps (nearest), from the whole
volumes and, for the nearest neighbours, from the network as it is then: an untrained one finds
nothing, so the first steps match by plain position. It is part of the state, so a resumed run goes
on with the table it was stopped with. Several ranks share the cases among them.

The nearest neighbours of a case are looked for in a reference and the other way round, at the nodes
of a grid over the one body among `FINE`^3 places of the other. Windows of the size of a crop cover
each body, so a refresh passes every volume of the pool through the network once, without gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from medcl.contrast.gather import gather, rank, world
from medcl.contrast.similarity import unit
from medcl.data.store import StoredVolume, Triple
from medcl.errors import TrainingFailed
from medcl.views.crops import box_at, is_tissue
from medcl.views.matchers import (
    NODES,
    POSITION,
    Matcher,
    Matches,
    affine_shifts,
    nearest_shifts,
    nodes,
    reference_of,
)

FINE = 24  # candidates along each axis
QUARTER, EVERY = 4, 500  # a search every quarter of the steps, and every 500 of them at least

# From crops and voxels in them, (1, C, X, Y, Z) and (1, P, 3), to an embedding of each, (1, P, E)
Describe = Callable[[Tensor, Tensor], Tensor]


class Matching(nn.Module):
    """given: steps between two refreshes; for `nearest` alone, the other tables never change.

    every: those of the run, known from `begin` on.
    """

    shifts: Tensor | None

    def __init__(self, matcher: Matcher, given: int | None = None) -> None:
        super().__init__()
        self.matcher = matcher
        self.given = given
        self.every: int | None = None
        self.rows: dict[str, int] = {}
        self.register_buffer("shifts", None)

    def begin(self, steps: int, volumes: Sequence[StoredVolume]) -> None:
        """Make room for all cases; they match by plain position until the first refresh.

        Raises TrainingFailed where `nearest` would not search once in all `steps`.
        """
        if self.matcher == "position":
            return
        if self.matcher == "nearest":
            usual = max(1, min(EVERY, steps // QUARTER))
            self.every = self.given or usual
            if self.every >= steps:
                raise TrainingFailed(
                    f"refresh_every: {self.every}, the training has {steps} steps: `matcher: "
                    f"nearest` would never search and be plain position; leave `refresh_every` "
                    f"out (then {usual}), lower it, or train for more steps"
                )
        count = NODES[self.matcher]
        self.rows = {volume.case: row for row, volume in enumerate(volumes)}
        self.shifts = torch.zeros(len(volumes), 2, count, count, count, 3)

    def refresh(
        self, volumes: Sequence[StoredVolume], step: int, size: Triple, describe: Describe
    ) -> Matches:
        """The matches of the steps from `step` on; computed anew where it is time to."""
        if self.shifts is None:
            return POSITION
        if self.matcher == "affine" and step == 0:
            reference = reference_of(volumes)
            self._fill([affine_shifts(reference, volume) for volume in _dealt(volumes)])
            if rank() == 0:
                print(*self.remarks(), flush=True)
        if self.every and step and step % self.every == 0:
            self._fill(self._nearest(volumes, size, describe))
        return Matches(self.rows, self.shifts.cpu().numpy().copy())

    def remarks(self) -> list[str]:
        """What the summary has to say of the matches."""
        if self.matcher == "nearest":
            return [f"matcher nearest: by plain position up to step {self.every}"]
        if self.shifts is None:
            return []
        # A registration that is not believed leaves zeros, and so does the reference.
        found, others = int(self.shifts.flatten(1).any(1).sum()), len(self.shifts) - 1
        return [
            f"matcher affine: {found} of {others} pool cases were registered to the reference, a "
            "further one; those that were not match by plain position"
        ]

    def _fill(self, shifts: list[np.ndarray]) -> None:
        """Join the tables of all ranks, which hold every so many cases each."""
        assert self.shifts is not None
        most = -(-len(self.shifts) // world())
        own = self.shifts.new_zeros(most, *self.shifts.shape[1:])
        for row, table in enumerate(shifts):
            own[row] = torch.from_numpy(table)
        self.shifts.copy_(gather(own)[: len(self.shifts)])

    @torch.no_grad()
    def _nearest(
        self, volumes: Sequence[StoredVolume], size: Triple, describe: Describe
    ) -> list[np.ndarray]:
        assert self.shifts is not None
        reference = reference_of(volumes)
        at, fine = nodes(NODES["nearest"]), nodes(FINE)
        places, device = np.concatenate([at, fine]), self.shifts.device
        known = _embedded(reference, places, size, describe, device)
        found = []
        for volume in _dealt(volumes):
            if volume.case == reference.case:
                found.append(np.zeros(self.shifts.shape[1:]))
                continue
            own = _embedded(volume, places, size, describe, device)
            ways = [
                nearest_shifts(
                    (at, fine),
                    (start[0][: len(at)], end[0][len(at) :]),
                    (start[1][: len(at)], end[1][len(at) :]),
                )
                for start, end in ((known, own), (own, known))
            ]
            found.append(np.stack(ways))
        return found


def _dealt(volumes: Sequence[StoredVolume]) -> Sequence[StoredVolume]:
    return volumes[rank() :: world()]


def _embedded(
    volume: StoredVolume,
    places: Float[np.ndarray, "N 3"],
    size: Triple,
    describe: Describe,
    device: torch.device,
) -> tuple[Float[np.ndarray, "N E"], Bool[np.ndarray, " N"]]:
    """Unit embeddings of places of the body, and whether there is tissue at each.

    Each place is looked at in the window whose centre is nearest to it.
    """
    low, high = (np.array(corner) for corner in volume.body)
    voxels = low + places * (high - low) - 0.5
    starts = [_starts(*axis) for axis in zip(volume.shape, *volume.body, size, strict=True)]
    window = [
        np.abs(voxels[:, axis, None] - (own + (size[axis] - 1) / 2)).argmin(1)
        for axis, own in enumerate(starts)
    ]
    vectors: np.ndarray | None = None
    shown = np.zeros(len(places), bool)
    for chosen in product(*(range(len(own)) for own in starts)):
        rows = np.flatnonzero(np.all([w == c for w, c in zip(window, chosen, strict=True)], axis=0))
        if not len(rows):
            continue
        corner = [int(own[c]) for own, c in zip(starts, chosen, strict=True)]
        values = volume.read(box_at(corner, size))
        inside = np.clip(voxels[rows] - corner, 0, np.array(size) - 1)
        shown[rows] = is_tissue(values, volume.fill)[tuple(inside.round().astype(int).T)]
        image, where = torch.from_numpy(values)[None], torch.from_numpy(inside).float()[None]
        own = unit(describe(image.to(device), where.to(device)))[0].cpu().numpy()
        if vectors is None:
            vectors = np.zeros((len(places), own.shape[1]), np.float32)
        vectors[rows] = own
    assert vectors is not None
    return vectors, shown


def _starts(length: int, low: int, high: int, side: int) -> np.ndarray:
    """First voxels of as few windows as cover the body along an axis, within the volume."""
    count = -(-(high - low) // side)
    if count == 1:
        even = np.array([(low + high - side) / 2])
    else:
        even = np.linspace(low, high - side, count)
    first, last = sorted((0, length - side))
    return np.clip(even.round().astype(int), first, last)
