"""Probes of frozen features against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from medcl.networks.unet import UNet
from medcl.segmentation import probe as probes
from medcl.segmentation.probe import Probe


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    features = rng.normal(size=(90, 24)) + 2 * np.eye(24)[labels]
    return torch.from_numpy(features).float(), torch.from_numpy(labels)


def network() -> UNet:
    torch.manual_seed(0)
    return UNet(1, [(1, 1, 1), (2, 2, 2)], 3, width=8)


def probe(method: str, parts=("down.",)) -> Probe:
    return Probe(network(), method=method, parts=parts, classes=3)


def test_nearest_voxels_vote_as_a_weighted_neighbour_classifier(rows) -> None:
    features, labels = rows
    ours = probe("knn")
    ours.learn(features[:60], labels[:60])

    def weights(distances):
        return np.exp((1 - distances) / probes.TEMPERATURE)

    theirs = KNeighborsClassifier(probes.NEIGHBOURS, metric="cosine", weights=weights)
    theirs.fit(features[:60], labels[:60])
    found = ours.classify(features[60:]).exp()
    np.testing.assert_allclose(found, theirs.predict_proba(features[60:]).clip(1e-6), atol=1e-4)


def test_the_linear_probe_is_a_penalised_logistic_regression(rows) -> None:
    features, labels = rows
    ours = probe("linear")
    ours.learn(features, labels)
    theirs = LogisticRegression(C=1 / (2 * probes.PENALTY * len(rows[0])), tol=1e-8, max_iter=2000)
    theirs.fit(features, labels)
    found = ours.classify(features).softmax(1).detach()
    np.testing.assert_allclose(found, theirs.predict_proba(features), atol=0.01)


def test_features_are_those_of_the_pretrained_parts_at_full_resolution() -> None:
    image = torch.randn(2, 1, 8, 8, 8)
    encoder, both = probe("knn"), probe("knn", ("down.", "up.", "merge."))
    assert encoder.features(image).shape == (2, 8 + 16, 8, 8, 8)
    assert both.features(image).shape == (2, 8 + 16 + 8, 8, 8, 8)
    fine = nn.functional.normalize(encoder.network.encode(image)[0], dim=1)
    torch.testing.assert_close(encoder.features(image)[:, :8], fine)


def test_a_decoder_that_was_pretrained_in_part_is_read_up_to_there() -> None:
    torch.manual_seed(0)
    deep = UNet(1, [(1, 1, 1), (2, 2, 2), (2, 2, 2)], 3, width=4)
    ours = Probe(deep, method="linear", parts=("down.", "up.0.", "merge.0."), classes=3)
    image = torch.randn(1, 1, 8, 8, 8)
    features = ours.features(image)
    assert features.shape == (1, 4 + 8 + 16 + 8, 8, 8, 8)
    with torch.no_grad():
        for name, weight in deep.named_parameters():
            if name.startswith(("up.1.", "merge.1.")):
                weight.normal_()
        torch.testing.assert_close(ours.features(image), features, rtol=0, atol=0)
        deep.merge[0][0][0].weight.normal_()
    assert not torch.equal(ours.features(image), features)
