"""Networks with the interface of LaMa's ONNX exports: image and mask in, image out, a convolution between."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 64
SEED = 5
OPSET, IR = 17, 8


def build(file: Path, side: int | None = SIDE, white: int = 255, split: bool = True) -> Path:
    """A file with random weights that answers as LaMa does: the image, and in the hole what it makes of the rest.

    `side`: of the only picture it takes, None for any. `white`: what stands for 255 in its answers. `split`: image and
    mask are two inputs; other exports have one of four channels.
    """
    size = ("height", "width") if side is None else (side, side)
    rng = np.random.default_rng(SEED)
    constants = {
        "kernel": rng.normal(0, 0.2, (3, 4, 9, 9)).astype(np.float32),
        "bias": np.full(3, 0.1, np.float32),
        "one": np.float32(1),
        "white": np.float32(white),
        "channels": np.array([3, 1]),
    }
    nodes = [
        helper.make_node("Sub", ["one", "mask"], ["known"]),
        helper.make_node("Mul", ["image", "known"], ["shown"]),
        helper.make_node("Concat", ["shown", "mask"], ["all"], axis=1),
        helper.make_node("Conv", ["all", "kernel", "bias"], ["made"], pads=[4, 4, 4, 4]),
        helper.make_node("Sigmoid", ["made"], ["painted"]),
        helper.make_node("Mul", ["painted", "mask"], ["inside"]),
        helper.make_node("Add", ["inside", "shown"], ["whole"]),
        helper.make_node("Mul", ["whole", "white"], ["output"]),
    ]
    inputs = {"image": 3, "mask": 1}
    if not split:
        nodes.insert(0, helper.make_node("Split", ["input", "channels"], ["image", "mask"], axis=1))
        inputs = {"input": 4}
    graph = helper.make_graph(
        nodes,
        "lama",
        [helper.make_tensor_value_info(i, TensorProto.FLOAT, ["batch", n, *size]) for i, n in inputs.items()],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 3, *size])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR), file)
    return file
