from __future__ import annotations

import pytest
import torch

from dataengine.lumosx.layout import Layout, SegmentRun, cell_of_token
from dataengine.lumosx.structure import SampleStructure


def build(structures, cell_map="exact", text_len=12):
    return Layout.build(structures, head_dim=16, text_len=text_len, cell_map=cell_map)


def test_exact_cells_are_squares_of_eight():
    cells = cell_of_token((10, 20), "exact").view(10, 20)
    assert cells[7, 7] == 0 and cells[7, 8] == 1 and cells[7, 19] == 2
    assert cells[8, 0] == 3 and cells[9, 19] == 5


def test_released_cells_shear_unless_eight_divides_the_width():
    torch.testing.assert_close(cell_of_token((11, 16), "released"), cell_of_token((11, 16), "exact"))
    cells = cell_of_token((30, 52), "released")
    # Token (1, 0) is number 52 of the flattened grid of width 56: row 0, column 52, so the last cell of the first row.
    assert cells[52] == 6 and cell_of_token((30, 52), "exact")[52] == 0
    assert cells.max() == cell_of_token((30, 52), "exact").max() == 27


def test_unknown_cell_map_is_refused():
    with pytest.raises(ValueError, match="'exact' or 'released'"):
        cell_of_token((2, 2), "sheared")


def test_rows_and_runs(family):
    plain = SampleStructure(1, (2, 3))
    layout = build([plain, family])
    assert layout.lengths == [6, 450] and layout.video_lengths == [6, 90]
    second = layout.samples[1]
    assert (second.start, second.video_end, second.end) == (6, 96, 456)
    # Three singles in one call, then the group of three, then the group of two.
    assert second.runs == (SegmentRun(96, 3, 45), SegmentRun(231, 1, 135), SegmentRun(366, 1, 90))
    assert layout.phrases[0] is None
    assert layout.video_rows(torch.arange(456)).tolist() == [*range(6), *range(6, 96)]


def test_pooling_counts_padding(family):
    tables = build([family]).phrases[0]
    assert tables.pool.shape == (8, 45) and tables.spread.shape == (45, 8)  # 1x2 cells, padded to 8
    torch.testing.assert_close(tables.pool.sum(1), torch.tensor([40.0, 5.0, 0, 0, 0, 0, 0, 0]) / 64)
    torch.testing.assert_close(tables.spread.sum(1), torch.ones(45))


def test_samples_of_different_grids_share_a_batch(family):
    other = SampleStructure(3, (2, 2), family.references, family.group_count)
    layout = build([family, other])
    assert layout.rope.shape == (450 + 44, 1, 8, 2)
    assert layout.phrases[1].spread.shape == (4, 8)


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="at least one sample"):
        build([])
