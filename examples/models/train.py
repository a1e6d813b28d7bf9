"""Train the example networks and export them to ONNX, beside the labelled images they never saw.

    pip install '.[train]'
    python examples/models/train.py                 # all of them, a few minutes each on one core
    python examples/models/train.py digits_gru      # one of them
    python examples/models/train.py --check         # only measure the files that are there, with ONNX Runtime

The images are those of `digits.py`. Everything is seeded; on one machine the files come out the same each time.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from digits import SIDE, hard_digits, originals
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
OPSET = 17


# ---- networks: image [batch, 1, 28, 28] in [0, 1] -> logits [batch, 10]

Act = Callable[[], nn.Module]


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: Act | None = nn.ReLU) -> nn.Sequential:
    """Convolution, batch norm, activation."""
    layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([act()] if act else []))


class Residual(nn.Module):
    """x + f(x), with an activation after it when one is given."""

    def __init__(self, inner: nn.Module, after: nn.Module | None = None) -> None:
        super().__init__()
        self.inner, self.after = inner, after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        return self.after(x + self.inner(x))


def cnn() -> nn.Module:
    """A small residual network: 3x3 convolutions, max pooling, two fully connected layers."""
    def block(channels: int) -> nn.Module:
        return Residual(conv(channels, channels, act=None), nn.ReLU())

    return nn.Sequential(
        conv(1, 16), nn.MaxPool2d(2), conv(16, 32), block(32), nn.MaxPool2d(2), conv(32, 64), block(64), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 3 * 3, 32), nn.ReLU(), nn.Linear(32, 10))


def mobilenet() -> nn.Module:
    """Inverted residual blocks as in MobileNetV2: pointwise up, depthwise, pointwise down, ReLU6."""
    def block(inputs: int, outputs: int, stride: int = 1, grow: int = 4) -> nn.Module:
        wide = inputs * grow
        inner = nn.Sequential(
            conv(inputs, wide, 1, act=nn.ReLU6), conv(wide, wide, 3, stride, wide, act=nn.ReLU6), conv(wide, outputs, 1, act=None))
        return Residual(inner) if stride == 1 and inputs == outputs else inner

    return nn.Sequential(
        conv(1, 16, 3, act=nn.ReLU6), block(16, 24, 2), block(24, 24), block(24, 40, 2), block(40, 40), block(40, 40),
        conv(40, 160, 1, act=nn.ReLU6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(160, 10))


class Attention(nn.Module):
    """Multi-head self-attention over [batch, tokens, width]."""

    def __init__(self, tokens: int, width: int, heads: int) -> None:
        super().__init__()
        self.tokens, self.width, self.heads = tokens, width, heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Each token as a mix of all of them."""
        each = self.width // self.heads
        query, key, value = (part.reshape(-1, self.tokens, self.heads, each).transpose(1, 2) for part in self.qkv(x).split(self.width, 2))
        weights = torch.softmax(query @ key.transpose(2, 3) * each**-0.5, 3)
        return self.out((weights @ value).transpose(1, 2).reshape(-1, self.tokens, self.width))


class Transformer(nn.Module):
    """Three convolutions make 7x7 tokens, an encoder reads them: layer norm first, GELU, mean over tokens."""

    def __init__(self, width: int = 64, heads: int = 4, depth: int = 2, tokens: int = 49) -> None:
        super().__init__()
        self.patches = nn.Sequential(conv(1, 16), conv(16, 32, stride=2), conv(32, width, stride=2))
        self.place = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        self.blocks = nn.Sequential(*(Residual(nn.Sequential(nn.LayerNorm(width), part)) for _ in range(depth) for part in (
            Attention(tokens, width, heads), nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)))))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, image: Tensor) -> Tensor:
        """The logits."""
        tokens = self.patches(image).flatten(2).transpose(1, 2) + self.place
        return self.head(self.norm(self.blocks(tokens)).mean(1))


class RowReader(nn.Module):
    """A bidirectional GRU that reads the 28 rows of an image one after the other."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.gru = nn.GRU(SIDE, width, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, image: Tensor) -> Tensor:
        """The logits, from the maximum over rows."""
        states, _ = self.gru(image.squeeze(1))
        return self.head(states.amax(1))


NETS: dict[str, tuple[Callable[[], nn.Module], int, float]] = {  # how to make it, epochs, highest learning rate
    "digits_cnn": (cnn, 10, 4e-3),
    "digits_mobilenet": (mobilenet, 10, 5e-3),
    "digits_transformer": (Transformer, 16, 3e-3),
    "digits_gru": (RowReader, 22, 5e-3),
}


# ---- training and export

def train(net: nn.Module, images: np.ndarray, labels: np.ndarray, epochs: int, rate: float, batch: int = 100) -> None:
    """Fit `net` with AdamW under one cycle of the learning rate."""
    x, y = torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))
    adam = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.02)
    steps = len(x) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, rate, total_steps=epochs * steps)
    net.train()
    for epoch in range(epochs):
        start, total = time.monotonic(), 0.0
        for chosen in torch.randperm(len(x))[:steps * batch].split(batch):
            loss = functional.cross_entropy(net(x[chosen].float() / 255), y[chosen], label_smoothing=0.05)
            adam.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            adam.step()
            schedule.step()
            total += loss.item()
        print(f"  epoch {epoch + 1}/{epochs}: loss {total / steps:.3f}, {time.monotonic() - start:.0f} s", flush=True)


def export(net: nn.Module, path: Path) -> None:
    """Write `net` with a symbolic batch; batch norm stays in the file, since folding it is the compiler's work."""
    net.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter advises its successor, which needs one more package
        torch.onnx.export(
            net, (torch.zeros(1, 1, SIDE, SIDE),), path, input_names=["image"], output_names=["logits"], opset_version=OPSET, dynamo=False,
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}}, training=torch.onnx.TrainingMode.PRESERVE)


def accuracy(path: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of images that ONNX Runtime classifies right with the model in `path`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    logits = session.run(None, {"image": images.astype(np.float32) / 255})[0]
    return float((logits.argmax(1) == labels).mean())


def main() -> int:
    """Make the images, train what was asked for, and print the accuracy of every file."""
    parser = argparse.ArgumentParser(description="Train the example networks on hard digits.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which of {', '.join(NETS)} (default: all)")
    parser.add_argument("--check", action="store_true", help="measure the files that are there; train nothing")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    args = parser.parse_args()
    if unknown := set(args.names) - set(NETS):
        parser.error(f"no network is called {', '.join(sorted(unknown))}; there are {', '.join(NETS)}")
    names, held_out = args.names or list(NETS), args.out / "digits_test.npz"
    if not args.check:
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(mode=True)
        train_images, train_labels, test_images, test_labels = originals()
        images, labels = hard_digits(test_images, test_labels, 1000, seed=1)
        np.savez_compressed(held_out, images=images, labels=labels)
        images, labels = hard_digits(train_images, train_labels, 24000, seed=0)
        for name in names:
            make, epochs, rate = NETS[name]
            torch.manual_seed(0)
            net = make()
            print(f"{name}: {sum(p.numel() for p in net.parameters())} parameters")
            train(net, images, labels, epochs, rate)
            export(net, args.out / f"{name}.onnx")
    with np.load(held_out) as data:
        images, labels = data["images"], data["labels"]
    for name in names:
        path = args.out / f"{name}.onnx"
        print(f"{name}: {path.stat().st_size} bytes, {accuracy(path, images, labels):.1%} of {len(labels)} held-out images right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
