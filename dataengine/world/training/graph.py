"""ONNX files written node by node, for small convolutional networks that PyTorch trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn


def values_of(convolution: nn.Conv2d | nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    assert convolution.bias is not None
    return convolution.weight, convolution.bias


class Graph:
    """Nodes and constants of an ONNX file, as they are added. Every method returns the name of what it adds."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"x{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def weights(self, *values: Tensor) -> tuple[str, ...]:
        names = []
        for value in values:
            names.append(f"w{len(self.constants)}")
            self.constants.append(numpy_helper.from_array(value.detach().float().numpy(), names[-1]))
        return tuple(names)

    def convolution(self, given: str, weight: Tensor, bias: Tensor, output: str = "", stride: int = 1) -> str:
        side = weight.shape[-1]
        return self.node(
            "Conv",
            given,
            *self.weights(weight, bias),
            output=output,
            kernel_shape=[side, side],
            strides=[stride, stride],
            pads=[side // 2] * 4,
        )

    def channels(self, given: str, wanted: list[int]) -> str:
        return self.node("Gather", given, self.integers(wanted), axis=1)

    def integers(self, values: list[int]) -> str:
        name = f"w{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def layer(self, given: str, layer: Any) -> str:
        convolution, norm, _ = layer
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        weight = convolution.weight * gain[:, None, None, None]
        bias = norm.bias - norm.running_mean * gain
        return self.node("Relu", self.convolution(given, weight, bias, stride=convolution.stride[0]))

    def model(self, given: tuple[str, list[int | str]], made: dict[str, list[int | str]]) -> onnx.ModelProto:
        """The file's content: an input and the outputs with their shapes; names stand for any number."""

        def value(name: str, shape: list[int | str]) -> Any:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        graph = helper.make_graph(
            self.nodes, "world", [value(*given)], [value(*one) for one in made.items()], self.constants
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
        onnx.checker.check_model(model)
        return model
