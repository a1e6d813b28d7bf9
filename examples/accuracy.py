"""Compare a bundle with ONNX Runtime on labelled images: python examples/accuracy.py BUNDLE MODEL.onnx IMAGES.npz."""

import sys

import numpy as np
import onnxruntime

import edgec

TOLERATED = 0.002  # the share of images, torn between two classes, where the last bits may decide otherwise


def main(bundle: str, model: str, data: str) -> int:
    """Print how many images each of the two classifies right; 1 when their answers differ."""
    with np.load(data) as loaded:
        images, labels = loaded["images"].astype(np.float32) / 255, loaded["labels"]
    peer = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    expected = peer.run(None, {peer.get_inputs()[0].name: images})[0].argmax(1)
    session = edgec.load(bundle)
    answered = np.array([next(iter(session.run(image[None]).values())).argmax() for image in images])
    same = (answered == expected).mean()
    where = f", under {session.emulator}" if session.emulator else ""
    print(f"  edgec         {(answered == labels).mean():.1%} of {len(labels)} held-out images right{where}")
    print(f"  ONNX Runtime  {(expected == labels).mean():.1%}, with the same answer on {same:.1%} of them")
    return int(same < 1 - TOLERATED)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
