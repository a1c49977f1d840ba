"""A pack shaped as InsightFace's buffalo_l: an SCRFD detector and an ArcFace recogniser that see simple things.

The detector is no trained network. It finds red squares of about `SQUARE` px at stride 8, 16 or 32, at the cell that
they cover best; boxes and landmarks are at known distances from the cell's anchor. The recogniser sees the colours of
nine parts of the face, mixed by a fixed random matrix.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STRIDES = (8, 16, 32)
ANCHORS = 2
BOX = (1.5, 2.0, 1.5, 2.5)
"""Left, top, right, bottom of a box from its anchor, in strides."""
POINTS = (-0.6, -0.5, 0.6, -0.5, 0.0, 0.3, -0.5, 1.0, 0.5, 1.0)
"""x and y of five landmarks from the anchor, in strides."""
EMBEDDING = 512


def save_pack(folder: Path, *, batch: int | str = "N", seed: int = 0) -> Path:
    """`det_10g.onnx` and `w600k_r50.onnx`, by the names that the real pack has. `batch` of the recogniser's input."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(detector(), folder / "det_10g.onnx")
    onnx.save(recogniser(batch, seed), folder / "w600k_r50.onnx")
    return folder


def detector() -> onnx.ModelProto:
    """Input (1, 3, ?, ?) as blobs of (RGB - 127.5) / 128; outputs three scores, three boxes, three landmark tensors."""
    nodes, constants = [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    outputs: dict[str, list[str]] = {"score": [], "box": [], "points": []}
    redness = np.float32([1, -1, -1]).reshape(1, 3, 1, 1) / 2
    for stride in STRIDES:
        mean = constant(f"mean{stride}", np.repeat(redness, stride, 2).repeat(stride, 3) / stride**2)
        nodes.append(helper.make_node("Conv", ["input", mean], [f"red{stride}"], strides=[stride, stride]))
        # Pure red gives 1.5: two anchors a cell, the second less sure, as (cells × anchors, 1).
        gain = constant(f"gain{stride}", np.float32([0.6, 0.4]).reshape(2, 1, 1, 1))
        nodes.append(helper.make_node("Conv", [f"red{stride}", gain], [f"both{stride}"]))
        bounds = [constant(f"{name}{stride}", np.float32(value)) for name, value in (("least", 0), ("most", 1))]
        nodes.append(helper.make_node("Clip", [f"both{stride}", *bounds], [f"clip{stride}"]))
        nodes.append(helper.make_node("Transpose", [f"clip{stride}"], [f"last{stride}"], perm=[0, 2, 3, 1]))
        column = constant(f"column{stride}", np.int64([-1, 1]))
        nodes.append(helper.make_node("Reshape", [f"last{stride}", column], [f"score{stride}"]))
        outputs["score"].append(f"score{stride}")
        for kind, values in (("box", BOX), ("points", POINTS)):
            row = constant(f"{kind}_of{stride}", np.float32([values]))
            none = constant(f"none_{kind}{stride}", np.float32([[0]]))
            nodes.append(helper.make_node("Mul", [f"score{stride}", none], [f"zeros{kind}{stride}"]))
            nodes.append(helper.make_node("Add", [f"zeros{kind}{stride}", row], [f"{kind}{stride}"]))
            outputs[kind].append(f"{kind}{stride}")
    widths = {"score": 1, "box": 4, "points": 10}
    return _model(
        nodes,
        constants,
        ("input", [1, 3, "?", "?"]),
        [(name, ["cells", widths[kind]]) for kind, names in outputs.items() for name in names],
    )


def recogniser(batch: int | str, seed: int) -> onnx.ModelProto:
    """Input (N, 3, 112, 112) as (RGB - 127.5) / 127.5; output (N, 512)."""
    matrix = np.random.default_rng(seed).normal(size=(27, EMBEDDING)).astype(np.float32)
    constants = [numpy_helper.from_array(matrix, "matrix")]
    nodes = [
        helper.make_node("AveragePool", ["data"], ["parts"], kernel_shape=[37, 37], strides=[37, 37]),
        helper.make_node("Flatten", ["parts"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["embedding"]),
    ]
    return _model(nodes, constants, ("data", [batch, 3, 112, 112]), [("embedding", [batch, EMBEDDING])])


def _model(nodes: list, constants: list, given: tuple, outputs: list) -> onnx.ModelProto:
    def value(name: str, shape: list) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(nodes, "tiny", [value(*given)], [value(*out) for out in outputs], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model
