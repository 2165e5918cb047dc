"""The task on images: `image-classifier`."""

from collections import OrderedDict

import torch
from torch import nn

from wardround.client.trainer.tasks.classification import Classification
from wardround.client.trainer.tasks.options import architecture, options
from wardround.plan import Plan, PlanError

__all__ = ["ImageClassifier"]

_GROUPS = 8
_OPTIONS = {"norm": True, "kernel": 3, "padding": 1, "pools": 2, "width": 32, "dense": 128}


class ImageClassifier(Classification):
    """`linear`: classes straight from the pixels, the smallest model (noise of privacy grows with a model's size).

    `cnn`: two convolutions (32 and 64 channels) with GroupNorm, ReLU and pooling, a dense layer, the classes.

    GroupNorm, because batch statistics mix a site's rows and drift apart between sites (Hsieh et al. 2020).
    Options: `norm` (true), `kernel` (3), `padding` (1), `pools` (2: after each convolution; 1: after the
    second only; 0), `width` (32 channels of the first convolution; the second has twice as many),
    `dense` (128). Without norm and padding and with one pool, 3x32x32 images have 1,626,442 parameters.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._linear = architecture(plan, ("cnn", "linear")) == "linear"
        if plan.data.image is None:
            raise PlanError("data.image", "the images' shape, e.g. { shape = [3, 32, 32] }")
        self._channels, height, width = plan.data.image.shape
        self._pixels = self._channels * height * width
        self._options = chosen = options(plan, {} if self._linear else _OPTIONS)
        if self._linear:
            return
        for name in ("kernel", "width", "dense"):
            if chosen[name] < 1:
                raise PlanError(f"task.options.{name}", "at least 1", chosen[name])
        if chosen["norm"] and chosen["width"] % _GROUPS:
            raise PlanError("task.options.width", f"a multiple of {_GROUPS}, for GroupNorm", chosen["width"])
        if chosen["pools"] > 2:
            raise PlanError("task.options.pools", "at most 2", chosen["pools"])
        for place in (1, 2):
            shrink = chosen["kernel"] - 1 - 2 * chosen["padding"]
            height, width = height - shrink, width - shrink
            if place > 2 - chosen["pools"]:
                height, width = height // 2, width // 2
            if min(height, width) < 1:
                raise PlanError("data.image.shape", "larger images for this kernel and pooling", plan.data.image.shape)
        self._features = 2 * chosen["width"] * height * width

    def model(self, seed: int) -> nn.Module:
        """A new network, its parameters drawn from `seed`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self._linear:
                output = nn.Linear(self._pixels, len(self.labels))
                return nn.Sequential(OrderedDict(flatten=nn.Flatten(), output=output))
            return self._network()

    def _network(self) -> nn.Module:
        chosen, width = self._options, self._options["width"]
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for place, (before, after) in enumerate(((self._channels, width), (width, 2 * width)), start=1):
            layers[f"conv{place}"] = nn.Conv2d(before, after, chosen["kernel"], padding=chosen["padding"])
            if chosen["norm"]:
                layers[f"norm{place}"] = nn.GroupNorm(_GROUPS, after)
            layers[f"relu{place}"] = nn.ReLU()
            if place > 2 - chosen["pools"]:
                layers[f"pool{place}"] = nn.MaxPool2d(2)
        layers["flatten"] = nn.Flatten()
        layers["dense"] = nn.Linear(self._features, chosen["dense"])
        layers["relu"] = nn.ReLU()
        layers["output"] = nn.Linear(chosen["dense"], len(self.labels))
        return nn.Sequential(layers)
