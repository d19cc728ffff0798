import numpy as np

from siammae.frames import cut_piece, paste_piece

OUTLINE = np.array([[2.0, 2.0], [9.0, 2.0], [9.0, 9.0], [2.0, 9.0]])


def test_piece_is_the_box_with_its_outline_inside():
    frame = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    piece, mask = cut_piece(frame, (5, 7, 12, 12), 12, OUTLINE)
    assert np.array_equal(piece, frame[5:17, 7:19])
    assert mask.dtype == np.float32
    assert (mask[4:8, 4:8] == 1).all()
    assert (mask[0] == 0).all()
    assert 0 < mask[2, 5] < 1  # the edge


def test_piece_of_another_size_is_resized():
    frame = np.zeros((30, 40, 3), np.uint8)
    piece, mask = cut_piece(frame, (0, 0, 30, 30), 12, OUTLINE)
    assert piece.shape == (12, 12, 3)
    assert mask.shape == (12, 12)


def test_paste_puts_the_piece_where_it_is_led_and_leaves_the_rest():
    rng = np.random.default_rng(1)
    frame, other = (rng.integers(0, 256, (32, 48, 3), dtype=np.uint8) for _ in range(2))
    piece, mask = cut_piece(other, (0, 0, 12, 12), 12, OUTLINE)
    before = frame.copy()
    pasted, share = paste_piece(frame, piece, mask, np.array([[1.0, 0, 20], [0, 1, 9]]))
    assert np.array_equal(frame, before)
    assert pasted.dtype == np.uint8
    assert share.shape == (32, 48)
    assert np.array_equal(pasted[13:17, 24:28], other[4:8, 4:8])  # 9 further down, 20 further right
    assert np.array_equal(pasted[share == 0], frame[share == 0])
    assert share[9:21, 20:32].sum() == share.sum() > 0


def test_paste_beyond_the_edge_is_cut_off():
    frame = np.zeros((16, 16, 3), np.uint8)
    piece, mask = cut_piece(np.full((12, 12, 3), 200, np.uint8), (0, 0, 12, 12), 12, OUTLINE)
    pasted, share = paste_piece(frame, piece, mask, np.array([[1.0, 0, -6], [0, 1, -6]]))
    assert (pasted[0:2, 0:2] == 200).all()
    assert (pasted[8:] == 0).all()
    assert share.max() == 1
