"""What frozen feature maps know of the classes: nearest voxels, and a linear classifier.

The feature vector of a voxel joins the encoder's feature maps and, where decoder levels were
pretrained, the map of the finest of those: what comes after it has random weights. Each is brought
to the voxel's resolution and to unit length. From the labelled volumes as many voxels of each class
are drawn. `knn` lets the k nearest of them (by cosine) vote with weights exp(cos / t); `linear` is
a multinomial logistic regression on them. The network itself learns nothing.

Source: k-NN label transfer with weights as in Wu, Xiong, Yu, Lin, "Unsupervised Feature Learning
via Non-Parametric Instance Discrimination", CVPR 2018, arXiv:1805.01978; feature maps joined as in
Hariharan et al., "Hypercolumns", CVPR 2015, arXiv:1411.5752.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from medcl.data.plan import Plan
from medcl.data.store import Box
from medcl.errors import TrainingFailed
from medcl.networks.base import Network
from medcl.segmentation.crops import Labelled, box_around

Method = Literal["knn", "linear"]
METHODS: tuple[Method, ...] = ("knn", "linear")
VOXELS = 2000  # drawn of each class
NEIGHBOURS = 20
TEMPERATURE = 0.07
PENALTY = 1e-3  # of the squared weights of the logistic regression
ITERATIONS = 100
CHUNK = 4096  # voxels compared at once; bounds the memory of their cosines


class Probe(nn.Module):
    """A frozen network with a classifier over its voxel features; logits as a segmentation's.

    parts: beginnings of the names of the pretrained parts. classes: with the background.
    """

    bank: Tensor
    labels: Tensor

    def __init__(
        self, network: Network, *, method: Method, parts: Sequence[str], classes: int
    ) -> None:
        super().__init__()
        self.network: Network = network.requires_grad_(False)
        self.method = method
        self.levels = trained_levels(network, parts)
        size = sum(network.channels) + (network.channels[-1 - self.levels] if self.levels else 0)
        self.classes = classes
        if method == "knn":
            self.register_buffer("bank", torch.zeros(VOXELS * classes, size))
            self.register_buffer("labels", torch.full((VOXELS * classes,), classes))
        else:
            self.linear = nn.Linear(size, classes)

    def features(self, x: Float[Tensor, "B C *space"]) -> Float[Tensor, "B E *space"]:
        """Unit vectors of each feature map, at the resolution of `x`."""
        maps = self.network.encode(x)
        if self.levels:
            maps = [*maps, self.network.decode(maps, until=self.levels)]
        size = [x.shape[2 + axis] for axis in self.network.axes]
        mode = {3: "trilinear", 2: "bilinear"}[len(size)]
        large = [
            m if list(m.shape[2:]) == size else F.interpolate(m, size, mode=mode) for m in maps
        ]
        joined = torch.cat([F.normalize(m.float(), dim=1) for m in large], dim=1)
        return self.network.shaped_like(x, joined)

    def forward(self, x: Float[Tensor, "B C *space"]) -> Float[Tensor, "B K *space"]:
        features = self.features(x)
        rows = features.movedim(1, -1).flatten(0, -2)
        logits = torch.cat([self.classify(part) for part in rows.split(CHUNK)])
        return logits.view(len(x), *x.shape[2:], self.classes).movedim(-1, 1)

    def classify(self, rows: Float[Tensor, "N E"]) -> Float[Tensor, "N K"]:
        """Logarithms of the votes, or the regression's logits."""
        if self.method == "linear":
            return self.linear(rows)
        used = self.labels < self.classes
        bank, labels = F.normalize(self.bank[used], dim=1), self.labels[used]
        cosine, nearest = (F.normalize(rows, dim=1) @ bank.T).topk(min(NEIGHBOURS, len(bank)))
        votes = torch.zeros(len(rows), self.classes, dtype=rows.dtype, device=rows.device)
        votes.scatter_add_(1, labels[nearest], (cosine / TEMPERATURE).softmax(1))
        return votes.clamp_min(1e-6).log()

    def learn(self, rows: Float[Tensor, "N E"], labels: Integer[Tensor, " N"]) -> None:
        """Remember the rows, or fit the regression to them."""
        if self.method == "knn":
            self.bank[: len(rows)] = rows
            self.labels[: len(rows)] = labels
            return
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        parameters = list(self.linear.parameters())
        optimiser = torch.optim.LBFGS(
            parameters, max_iter=ITERATIONS, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = F.cross_entropy(self.linear(rows), labels)
            loss = loss + PENALTY * self.linear.weight.square().sum()
            loss.backward()
            return loss

        optimiser.step(closure)  # type: ignore[no-untyped-call]


def trained_levels(network: Network, parts: Sequence[str]) -> int:
    """Decoder levels up to the finest that has a tensor of `parts`; 0 if none has."""
    names = [name for name, _ in network.named_parameters() if name.startswith(tuple(parts))]
    found = [int(n.split(".")[1]) for n in names if n.startswith(("up.", "merge."))]
    return 1 + max(found, default=-1)


def fit_probe(
    network: Network,
    volumes: Sequence[Labelled],
    *,
    method: Method,
    parts: Sequence[str],
    plan: Plan,
    seed: int,
    device: torch.device,
) -> Probe:
    """A probe of `network` fitted to voxels of `volumes`.

    Raises TrainingFailed if they hold fewer than two classes.
    """
    classes = len(plan.classes) + 1
    probe = Probe(network, method=method, parts=parts, classes=classes).to(device).eval()
    rows, labels = voxel_features(
        probe.features,
        volumes,
        crop=plan.crop,
        classes=classes,
        rng=np.random.default_rng(seed),
        device=device,
    )
    probe.learn(rows, labels)
    return probe


@torch.no_grad()
def voxel_features(
    features: Callable[[Tensor], Tensor],
    volumes: Sequence[Labelled],
    *,
    crop: tuple[int, int, int],
    classes: int,
    rng: np.random.Generator,
    device: torch.device,
) -> tuple[Float[Tensor, "N E"], Integer[Tensor, " N"]]:
    """Features and classes of voxels drawn from crops around each class of each volume.

    At most VOXELS of each class, spread evenly over the volumes and crops.
    """
    drawn: list[list[Tensor]] = [[] for _ in range(classes)]
    boxes = [(volume, box) for volume in volumes for box in _boxes(volume, crop, classes, rng)]
    share = -(-VOXELS // max(1, len(boxes))) * 2
    for volume, box in boxes:
        image = torch.from_numpy(volume.read(box))[None].to(device)
        rows = features(image)[0].flatten(1).T
        label = volume.read_label(box).ravel()
        for value in range(classes):
            places = np.flatnonzero(label == value)
            chosen = rng.permutation(places)[:share]
            drawn[value].append(rows[torch.from_numpy(chosen).to(device)])
    found, labels = [], []
    for value, parts in enumerate(drawn):
        rows = torch.cat(parts) if parts else torch.empty(0)
        order = torch.from_numpy(rng.permutation(len(rows))[:VOXELS]).to(rows.device)
        found.append(rows[order])
        labels.append(torch.full((len(order),), value, device=device))
    if sum(len(rows) > 0 for rows in found) < 2:
        raise TrainingFailed("the labelled volumes hold fewer than two classes to tell apart")
    return torch.cat([rows for rows in found if len(rows)]), torch.cat(labels)


def _boxes(
    volume: Labelled, crop: tuple[int, int, int], classes: int, rng: np.random.Generator
) -> list[Box]:
    """Crops around some voxels of each class a volume has."""
    label = volume.read_label(((0, 0, 0), volume.shape))
    found = []
    for value in range(classes):
        voxels = np.argwhere(label == value)
        for place in rng.permutation(len(voxels))[:3]:
            found.append(box_around(voxels[place], volume, crop, rng))
    return found
