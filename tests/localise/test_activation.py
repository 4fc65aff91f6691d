"""Class maps of the pretrained network's own classifier."""

import pytest
import timm
import torch

from lapml.localise.activation import class_maps, classifier_of


def test_against_a_loop_with_the_model_itself():
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=9).eval()
    images = torch.rand(4, 3, 160, 160)
    with torch.no_grad():
        features, logits = model.forward_features(images), model(images)
    made = class_maps(features.permute(0, 2, 3, 1).flatten(1, 2), classifier_of(model))
    head = model.get_classifier()
    for image in range(4):
        best = int(logits[image].argmax())
        expected = torch.zeros(features.shape[2:])
        for channel in range(features.shape[1]):
            expected += features[image, channel] * head.weight[best, channel].detach()
        expected = expected.clamp_min(0)
        torch.testing.assert_close(made[image].view_as(expected), expected / expected.max(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "linear"),
    [("test_resnet", True), ("tf_efficientnet_lite0", True), ("mobilenetv3_small_050", False)],
)
def test_which_models_have_such_a_classifier(name, linear):
    """MobileNetV3 has another convolution between the mean of its map and its classifier."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5).eval()
    found = classifier_of(model)
    assert (found is not None) == linear
    if found:
        assert found.weight.shape == (5, model.num_features) and found.bias.shape == (5,)


def test_a_model_without_a_classifier_and_an_image_that_nothing_speaks_for():
    assert classifier_of(timm.create_model("test_resnet", num_classes=0).eval()) is None
    assert not class_maps(torch.rand(2, 9, 4), None).any()
    nothing = class_maps(torch.zeros(2, 9, 4), classifier_of(timm.create_model("test_resnet").eval())._replace(
        weight=torch.rand(3, 4), bias=torch.zeros(3)))  # fmt: skip
    assert nothing.shape == (2, 9) and not nothing.any()
