"""Build a model for this machine, load what was built, and run it: python examples/quickstart.py."""

from pathlib import Path

import numpy as np

import edgec

HERE = Path(__file__).resolve().parent
MODEL = HERE / "models" / "digits_cnn.onnx"
OUTPUT = HERE.parent / "build" / "digits_cnn.quickstart.edgec"


def main() -> None:
    """Classify the first held-out digits with a model that was built a moment ago."""
    edgec.build(MODEL, target="host", output=OUTPUT)

    # From here on neither edgec's compiler nor ONNX is needed: a bundle also runs by its own run.py, from C and from C++.
    session = edgec.load(OUTPUT)
    for port in (*session.inputs, *session.outputs):
        print(f"{port.name}: {port.dtype}{list(port.shape)}")

    with np.load(HERE / "models" / "digits_test.npz") as data:
        images, labels = data["images"][:10].astype(np.float32) / 255, data["labels"][:10]
    guesses = [int(session.run({"image": image[None]})["logits"].argmax()) for image in images]
    print("labels: ", *labels)
    print("guesses:", *guesses)


if __name__ == "__main__":
    main()
