"""Small files for tests of reading and writing."""

import json
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image

from mambino.core.labels import Labels

TWO = Labels(names={"liver": (1,), "tumour": (2,)})
OBLIQUE = np.array([[-1.6, 0, 1.8, 10], [0, 2, 0, -20], [1.2, 0, 2.4, 30], [0, 0, 0, 1.0]])


def nifti(path: Path, array, affine=OBLIQUE, *, kind=nibabel.Nifti1Image, header=None, codes=(1, 1)) -> Path:
    """Write an array in the axes of the file, fastest first, with nibabel."""
    image = kind(array, None, header)
    image.set_data_dtype(array.dtype)
    image.header.set_qform(affine, codes[0])
    image.header.set_sform(affine, codes[1])
    image.header.set_xyzt_units("mm", "sec")
    image.update_header()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image.to_bytes()) if path.suffix == ".nii" else nibabel.save(image, path)
    return path


def png(path: Path, array) -> Path:
    """Write an array as a picture; the suffix chooses the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.asarray(array)).save(path)
    return path


def grey(value=0, shape=(6, 7)):
    """Return a grey picture with one pixel of another value."""
    array = np.zeros(shape, np.uint8)
    array[1, 2] = value
    return array


def raw_folder(root: Path, cases=("a", "b", "c"), *, channels=1, labels=None, test=(), **more) -> Path:
    """Write a data set of pictures in the nnU-Net raw layout."""
    for part, names in (("Tr", cases), ("Ts", test)):
        for case in names:
            for channel in range(channels):
                png(root / f"images{part}" / f"{case}_{channel:04d}.png", grey(40 + channel))
            png(root / f"labels{part}" / f"{case}.png", grey(1))
    facts = {
        "channel_names": {str(n): f"c{n}" for n in range(channels)},
        "labels": labels or {"background": 0, "tumour": 1},
        "numTraining": len(cases),
        "file_ending": ".png",
        **more,
    }
    (root / "dataset.json").write_text(json.dumps(facts))
    return root
