r"""TransMIL: a small transformer over all instances, with attention approximated by landmarks.

    x  = relu(Linear(h)); rows are repeated from the first on until they fill a square of s x s;
         a class token goes before them
    x <- x + Nystrom(LN(x))
    x <- PPEG(x): the square as an image, y = dw7x7(y) + y + dw5x5(y) + dw3x3(y); the token passes
    x <- x + Nystrom(LN(x))
    logits = Linear(LN(x)_token)

Nystrom attention, by head, with q scaled by d^-1/2 and m landmarks, which are the means of groups
of consecutive tokens:

    A_1 = softmax(q k~^T), A_2 = softmax(q~ k~^T), A_3 = softmax(q~ k^T)
    out = Linear( A_1 A_2^+ (A_3 v) + conv33x1(v) )
    A^+: z_0 = A^T / (max row sum * max column sum),
         z <- 1/4 z (13 I - A z (15 I - A z (7 I - A z))), six times

Tokens are preceded by zeros up to a multiple of m. The attention told is the token's row of
A_1 A_2^+ A_3 in the second layer, its negative entries (it is an approximation) set to 0.

Source: Shao, Bian, Chen, Wang, Zhang, Ji, Zhang, "TransMIL: Transformer based Correlated Multiple
Instance Learning for Whole Slide Image Classification", NeurIPS 2021; Xiong et al.,
"Nystromformer", AAAI 2021. There: 512 features, 8 heads, 256 landmarks, learning rate 2e-4, weight
decay 1e-5, one bag a step.

Differs from the authors' code: bags of a batch are computed one by one, so that none is filled up
with another's length, and the pseudo-inverse's maxima are of one bag. Every instance is compared
with every other, so a bag cannot be computed by chunks. Slow on a CPU: 13 s for a step of 10 000
instances.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from medcl.config import Count, Share
from medcl.contrast.similarity import full
from medcl.errors import MedclError
from medcl.slides.mil.base import Aggregator, BagPrediction, Batch, Terms, bag_accuracy

ITERATIONS = 6  # of the pseudo-inverse
REACH = 33  # tokens of the convolution of the values


class TransMIL(Aggregator):
    """Transformer with landmarks; see the module's text.

    width: features of a token, a multiple of `heads`
    heads: of the attention
    landmarks: m; null is half of `width`
    dropout: of what the attention gives
    """

    chunked = False

    def __init__(
        self,
        features: int,
        classes: int,
        class_weights: Sequence[float] | None = None,
        *,
        width: Count = 512,
        heads: Count = 8,
        landmarks: Count | None = None,
        dropout: Share = 0.1,
    ) -> None:
        super().__init__(features, classes, class_weights)
        if width % heads:
            raise MedclError(f"TransMIL: width {width} is no multiple of {heads} heads")
        self.embed = nn.Sequential(nn.Linear(features, width), nn.ReLU(inplace=True))
        self.token = nn.Parameter(torch.randn(1, 1, width))
        many = landmarks or max(1, width // 2)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.layers = nn.ModuleList(
            Nystrom(width, heads=heads, landmarks=many, dropout=dropout) for _ in range(2)
        )
        self.position = nn.ModuleList(
            nn.Conv2d(width, width, side, padding=side // 2, groups=width) for side in (7, 5, 3)
        )
        self.classifier = nn.Linear(width, classes)

    def bag(self, features: Float[Tensor, "N D"]) -> tuple[Tensor, Tensor]:
        """Logits (C,) and attention (N,) of one bag."""
        n = len(features)
        side = math.isqrt(n - 1) + 1
        x = self.embed(features)[None]
        x = torch.cat([self.token.to(x.dtype), x, x[:, : side**2 - n]], dim=1)
        x = x + self.layers[0](self.norms[0](x))[0]
        token, tiles = x[:, :1], x[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        tiles = tiles + torch.stack([layer(tiles) for layer in self.position]).sum(0)
        x = torch.cat([token, tiles.flatten(2).transpose(1, 2)], dim=1)
        added, row = self.layers[1](self.norms[1](x))
        logits = self.classifier(self.norms[2](x + added)[:, 0])[0]
        attention = row[0, 1 : 1 + n].clone()
        attention[: side**2 - n] += row[0, 1 + n :]  # what fills the square stands for the first
        attention = full(attention).clamp_min(0)
        total = attention.sum()
        return logits, attention / total if total > 0 else torch.full_like(attention, 1 / n)

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        bags = zip(batch["features"], batch["mask"], strict=True)
        logits = torch.stack([self.bag(features[mask])[0] for features, mask in bags])
        loss = self.cross_entropy(logits, batch["label"])
        return loss, {"accuracy": bag_accuracy(logits, batch["label"])}

    def infer(self, features: Tensor, mask: Tensor, chunk: int | None) -> BagPrediction:
        (given,) = self.pieces(features, None)
        results = [self.bag(bag[there]) for bag, there in zip(given, mask, strict=True)]
        logits = torch.stack([logits for logits, _ in results])
        attention = given.new_zeros(mask.shape)
        for b, (_, shares) in enumerate(results):
            attention[b, mask[b]] = shares.to(attention)
        return BagPrediction(logits.softmax(1), attention)


class Nystrom(nn.Module):
    """Self-attention by landmarks; see the module's text."""

    def __init__(self, width: int, *, heads: int, landmarks: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.landmarks = heads, landmarks
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.merge = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))
        self.values = nn.Conv2d(
            heads, heads, (REACH, 1), padding=(REACH // 2, 0), groups=heads, bias=False
        )

    def forward(
        self, x: Float[Tensor, "B n E"]
    ) -> tuple[Float[Tensor, "B n E"], Float[Tensor, "B n"]]:
        """The tokens attended to, and the mean over heads of the first token's attention."""
        n = x.shape[1]
        before = -n % self.landmarks
        x = F.pad(x, (0, 0, before, 0))
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.project(x).chunk(3, dim=2)
        )
        q = q * q.shape[-1] ** -0.5
        q_mean, k_mean = (y.unflatten(2, (self.landmarks, -1)).mean(3) for y in (q, k))
        to_landmarks = (q @ k_mean.transpose(2, 3)).softmax(3)
        inverse = pseudo_inverse((q_mean @ k_mean.transpose(2, 3)).softmax(3))
        from_landmarks = (q_mean @ k.transpose(2, 3)).softmax(3)
        out = (to_landmarks @ inverse) @ (from_landmarks @ v) + self.values(v)
        out = self.merge(out.transpose(1, 2).flatten(2))
        with torch.no_grad():
            first = to_landmarks[:, :, before : before + 1] @ inverse @ from_landmarks
        return out[:, before:], first[:, :, 0, before:].mean(1)


def pseudo_inverse(a: Float[Tensor, "B H m m"]) -> Float[Tensor, "B H m m"]:
    """Moore-Penrose inverse of matrices of positive rows, by iteration; see the module's text."""
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    z = a.transpose(2, 3) / (a.abs().sum(3).max() * a.abs().sum(2).max())
    for _ in range(ITERATIONS):
        az = a @ z
        z = 0.25 * z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az)))
    return z
