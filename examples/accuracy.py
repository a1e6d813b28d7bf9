"""Compare a bundle with ONNX Runtime on labelled images: python examples/accuracy.py BUNDLE MODEL.onnx IMAGES.npz."""

import sys

import numpy as np
import onnxruntime

import edgec

EMULATED = 200  # images under an emulator, which is a hundred times slower than a processor
TOLERATED = 0.005  # the share of images, torn between two classes, where the last bits may decide otherwise


def main(bundle: str, model: str, data: str) -> int:
    """Print how many images each of the two classifies right; 1 when their answers differ."""
    session = edgec.load(bundle)
    with np.load(data) as loaded:
        count = EMULATED if session.emulator else len(loaded["labels"])
        images, labels = loaded["images"][:count].astype(np.float32) / 255, loaded["labels"][:count]
    peer = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    expected = peer.run(None, {peer.get_inputs()[0].name: images})[0].argmax(1)
    answered = np.array([next(iter(session.run(image[None]).values())).argmax() for image in images])
    same = (answered == expected).mean()
    where = f", under {session.emulator}" if session.emulator else ""
    print(f"  edgec         {(answered == labels).mean():.1%} of {len(labels)} held-out images right{where}")
    print(f"  ONNX Runtime  {(expected == labels).mean():.1%}, with the same answer on {same:.1%} of them")
    return int(same < 1 - TOLERATED)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
