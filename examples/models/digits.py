"""The images of the example models: "hard digits", made from scikit-learn's bundled 8x8 digits and nothing else.

Each is enlarged to 28x28 by a random affine map, dimmed, pieces of three other digits are pasted over it, noise is added, and 16 gray
levels are kept. Test images are made of other originals than training images. Everything is seeded.
"""

import numpy as np
from scipy.ndimage import affine_transform
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SIDE = 28
LEVELS = 15


def originals() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """scikit-learn's digits as 8x8 images in [0, 1]: training images and labels, then the held-out ones."""
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).reshape(-1, 8, 8)
    train, test, train_labels, test_labels = train_test_split(images, labels, test_size=0.3, random_state=0, stratify=labels)
    return train, train_labels, test, test_labels


def enlarge(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An 8x8 image on a 28x28 canvas: turned, sheared, scaled and shifted at random."""
    angle, scale, shear = rng.uniform(-0.4, 0.4), rng.uniform(1.9, 2.9), rng.uniform(-0.25, 0.25)
    matrix = np.array([[np.cos(angle), shear - np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    middle = (SIDE - 1) / 2 + rng.uniform(-4, 4, 2)
    return affine_transform(image, matrix, 3.5 - matrix @ middle, output_shape=(SIDE, SIDE), order=1)


def hard_digits(images: np.ndarray, labels: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` images, uint8 [count, 1, 28, 28], and their labels, uint8 [count]."""
    rng = np.random.default_rng(seed)
    made = np.empty((count, 1, SIDE, SIDE), np.uint8)
    picked = rng.integers(len(images), size=count)
    for i, k in enumerate(picked):
        canvas = rng.uniform(0.55, 1) * enlarge(images[k], rng)
        for _ in range(3):
            other, size = enlarge(images[rng.integers(len(images))], rng), rng.integers(5, 10)
            (y, x), (v, u) = rng.integers(0, SIDE - size, (2, 2))
            place = canvas[v:v + size, u:u + size]
            np.maximum(place, 0.8 * other[y:y + size, x:x + size], out=place)
        noisy = np.clip(canvas + rng.normal(0, 0.16, canvas.shape), 0, 1)
        made[i, 0] = np.rint(noisy * LEVELS) * (255 // LEVELS)
    return made, labels[picked].astype(np.uint8)
