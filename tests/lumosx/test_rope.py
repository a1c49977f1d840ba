from __future__ import annotations

import math

import pytest
import torch

from dataengine.lumosx.rope import apply_rope, axis_channels, positions, rope_table


@pytest.mark.parametrize(("head_dim", "expected"), [(128, (22, 21, 21)), (32, (6, 5, 5)), (64, (12, 10, 10))])
def test_time_takes_what_thirds_leave(head_dim, expected):
    assert axis_channels(head_dim) == expected


def test_positions_shift_group_members_by_whole_frames(family):
    table = positions(family).view(-1, *family.grid, 3)
    assert table.shape[0] == 10
    assert table[1, 4, 8].tolist() == [1, 4, 8]
    assert table[2, 0, 0].tolist() == [2, 0, 0]  # background
    assert table[7, 2, 3].tolist() == [5, 2 * 5 + 2, 2 * 9 + 3]  # third member of the first group
    assert table[9, 0, 0].tolist() == [6, 5, 9]  # second member of the second group


def test_table_holds_each_axis_with_its_own_exponent_base():
    head_dim, position = 32, torch.tensor([[3, 40, 700]], dtype=torch.int32)
    angles = torch.view_as_complex(rope_table(position, head_dim)).angle()[0, 0].double()
    expected = [p * 10000 ** (-2 * i / (2 * n)) for p, n in zip((3, 40, 700), (6, 5, 5), strict=True) for i in range(n)]
    wrapped = torch.tensor([math.remainder(angle, 2 * math.pi) for angle in expected])
    torch.testing.assert_close(angles, wrapped.double(), atol=2e-6, rtol=0)


def test_rotation_keeps_products_under_a_common_shift():
    q, k = torch.randn(1, 2, 16), torch.randn(1, 2, 16)

    def product(a, b):
        table_a, table_b = rope_table(torch.tensor([a]), 16), rope_table(torch.tensor([b]), 16)
        return (apply_rope(q, table_a) * apply_rope(k, table_b)).sum(-1)

    torch.testing.assert_close(product([1, 2, 3], [4, 4, 4]), product([8, 3, 5], [11, 5, 6]), atol=1e-5, rtol=0)
    assert not torch.allclose(product([1, 2, 3], [4, 4, 4]), product([1, 2, 3], [4, 4, 5]), atol=1e-3)


def test_compiled_form_equals_the_eager_one(monkeypatch):
    x, table = torch.randn(7, 2, 12), rope_table(torch.randint(0, 50, (7, 3)), 12)
    eager = apply_rope(x, table)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(apply_rope(x, table), eager, atol=1e-6, rtol=0)


def test_dtype_is_kept():
    assert (
        apply_rope(
            torch.zeros(1, 1, 12, dtype=torch.bfloat16), rope_table(torch.zeros(1, 3, dtype=torch.int32), 12)
        ).dtype
        is torch.bfloat16
    )
