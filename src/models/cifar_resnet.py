"""Residual networks (He et al., CVPR 2016) for small images: a 3 x 3 stem and no pooling before the first stage."""

import torch
from torch import nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, channels_in, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(channels_in, channels, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions and a shortcut; four times as many channels come out."""

    expansion = 4

    def __init__(self, channels_in, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.shortcut = _shortcut(channels_in, 4 * channels, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


def _shortcut(channels_in, channels_out, stride):
    if stride == 1 and channels_in == channels_out:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out))


class CifarResNet(nn.Module):
    """A residual network for images of about 32 x 32 pixels.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depths: blocks in each of the four stages.
        num_classes: outputs.
        width: channels of the first stage; each later stage doubles them.
        stem_stride: 2 quarters the work of everything after the first convolution.
    """

    def __init__(self, block, depths, num_classes, width=64, stem_stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, stem_stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages, channels = [], width
        for stage, depth in enumerate(depths):
            for b in range(depth):
                stride = 2 if stage > 0 and b == 0 else 1
                stages.append(block(channels, width * 2**stage, stride))
                channels = width * 2**stage * block.expansion
        self.blocks = nn.Sequential(*stages)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        x = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.mean(x, dim=(2, 3)))


# arch: block, depths, width, stem stride
ARCHS = {
    "resnet18": (BasicBlock, (2, 2, 2, 2), 64, 1),
    "resnet34": (BasicBlock, (3, 4, 6, 3), 64, 1),
    "resnet50": (Bottleneck, (3, 4, 6, 3), 64, 1),
    "resnet101": (Bottleneck, (3, 4, 23, 3), 64, 1),
    "resnet18wide": (BasicBlock, (2, 2, 2, 2), 128, 1),
    "resnet10thin": (BasicBlock, (1, 1, 1, 1), 16, 2),
}


def cifar_resnet(arch, num_classes):
    """One of `ARCHS`; resnet10thin is small enough to train on a CPU."""
    block, depths, width, stem_stride = ARCHS[arch]
    return CifarResNet(block, depths, num_classes, width, stem_stride)
