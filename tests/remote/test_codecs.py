"""Codecs alone: what they lose, what they refuse, what they take."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from partwise.errors import CodecError, FrameError
from partwise.remote.codecs import CODECS, make_codec, packed_bytes
from partwise.remote.codecs.bf16 import MAX_BF16
from partwise.remote.codecs.codec import BLOCK_BYTES
from partwise.remote.codecs.fp16 import MAX_FP16
from partwise.remote.codecs.int8 import NUM_EXACT, TINY

NAMES = sorted(CODECS)
SHAPES = st_np.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=40)
ROWS = SHAPES.flatmap(
    lambda shape: st_np.arrays(np.float32, shape, elements=st.floats(-60000.0, 60000.0, width=32))
)


def round_trip(name: str, values: np.ndarray) -> np.ndarray:
    codec = make_codec(name)
    packed = np.full(packed_bytes(name, values.shape), 0xAB, np.uint8)
    codec.pack(values, packed)
    back = np.full(values.shape, np.nan, np.float32)
    make_codec(name).unpack(packed, back)
    return back


def largest_error(name: str, values: np.ndarray) -> np.ndarray:
    """What the codec's own docstring allows, for each value."""
    magnitudes = np.abs(values).astype(np.float64)
    if name == "bf16":
        return magnitudes * 2.0**-8 + 2.0**-134
    if name == "fp16":
        return magnitudes * 2.0**-11 + 2.0**-25
    # In order: the largest are exact, and the next one sets the step of the others.
    ordered = np.sort(magnitudes, -1)
    num_exact = min(NUM_EXACT, values.shape[-1])
    rest = ordered[..., : values.shape[-1] - num_exact]
    peaks = rest.max(-1, keepdims=True) if rest.shape[-1] else np.zeros((*values.shape[:-1], 1))
    # Rounding of the scale and its inverse come on top of half a step.
    errors = np.maximum(peaks, TINY) / 254 * (1 + 1e-4)
    return np.where(magnitudes > peaks, 0.0, errors)


@pytest.mark.parametrize("name", NAMES)
@given(values=ROWS)
def test_values_come_back_within_the_error_that_the_codec_states(
    name: str, values: np.ndarray
) -> None:
    error = np.abs(round_trip(name, values).astype(np.float64) - values)
    assert (error <= largest_error(name, values)).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [1, 3, 576, BLOCK_BYTES // 4 + 5])
def test_rows_of_several_blocks_come_back_each_in_its_place(name: str, width: int) -> None:
    num_rows = 2 * BLOCK_BYTES // (4 * width) + 3 if width < 576 else 300 if width == 576 else 3
    rows = np.random.default_rng(1).standard_normal((num_rows, width)).astype(np.float32)
    rows *= np.float32(10.0) ** np.arange(-2, num_rows - 2)[:, None].clip(-2, 3)
    error = np.abs(round_trip(name, rows).astype(np.float64) - rows)
    assert (error <= largest_error(name, rows)).all()
    # A row has the same bytes whatever travels beside it.
    alone = round_trip(name, rows[-1:])
    assert alone.tobytes() == round_trip(name, rows)[-1:].tobytes()


@given(
    values=st_np.arrays(
        np.float32, (4, 7), elements=st.floats(width=32, min_value=-(2.0**127), max_value=2.0**127)
    )
)
@settings(max_examples=300)
def test_bf16_and_int8_carry_whatever_float32_says(values: np.ndarray) -> None:
    for name in ("bf16", "int8"):
        error = np.abs(round_trip(name, values).astype(np.float64) - values)
        assert (error <= largest_error(name, values)).all()


@given(bits=st_np.arrays(np.uint16, (3, 5), elements=st.integers(0, 0x7F7F)))
def test_bf16_rounds_to_nearest_and_ties_to_even(bits: np.ndarray) -> None:
    exact = (bits.astype(np.uint32) << 16).view(np.float32)
    assert round_trip("bf16", exact).tobytes() == exact.tobytes()
    ties = ((bits.astype(np.uint32) << 16) + 0x8000)[bits < 0x7F7F].view(np.float32)
    if len(ties):
        back = round_trip("bf16", ties[None])[0].view(np.uint32) >> 16
        assert (back % 2 == 0).all()
        below = bits[bits < 0x7F7F].astype(np.uint32)
        assert ((back == below) | (back == below + 1)).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=["nan", "inf", "-inf"])
@pytest.mark.parametrize("row", [0, 150])
def test_nan_and_infinity_are_refused_wherever_they_stand(name: str, bad: float, row: int) -> None:
    values = np.ones((151, 576), np.float32)
    values[row, 575] = bad
    with pytest.raises(CodecError, match=f"NaN or infinity cannot travel as {name}"):
        round_trip(name, values)


def test_numbers_beyond_a_codec_are_refused_with_its_end_and_the_largest_within_go() -> None:
    for name, limit in (("fp16", MAX_FP16), ("bf16", MAX_BF16)):
        values = np.full((2, 3), limit, np.float32)
        assert np.isfinite(round_trip(name, values)).all()
        values[1, 1] = -np.nextafter(np.float32(limit), np.float32(np.inf))
        with pytest.raises(CodecError, match=rf"is beyond {name}, which ends at .*another codec"):
            round_trip(name, values)


@given(shape=SHAPES)
def test_int8_takes_at_most_27_percent_of_the_bytes_of_rows_that_models_have(shape) -> None:
    wide = (*shape[:-1], 350 + 64 * shape[-1])
    num_bytes = 4 * int(np.prod(wide))
    assert packed_bytes("int8", wide) <= 0.27 * num_bytes
    assert packed_bytes("bf16", wide) == packed_bytes("fp16", wide) == num_bytes / 2


def test_an_unknown_codec_is_refused_with_its_name_and_fp32_packs_nothing() -> None:
    assert make_codec("fp32") is None
    with pytest.raises(FrameError, match="the codec 'zip' is not known here, only bf16, fp16"):
        make_codec("zip")
    with pytest.raises(FrameError, match="without dimensions"):
        packed_bytes("int8", ())


@pytest.mark.parametrize("name", NAMES)
def test_tensors_without_values_travel_too(name: str) -> None:
    assert round_trip(name, np.empty((0, 5), np.float32)).shape == (0, 5)
    assert packed_bytes(name, (7, 0)) == 0


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_whatever_came_over_a_link_unpacks_to_a_tensor_of_its_shape(
    name: str, data: st.DataObject
) -> None:
    shape = data.draw(SHAPES)
    size = packed_bytes(name, shape)
    garbage = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), np.uint8)
    values = np.zeros(shape, np.float32)
    with np.errstate(all="ignore"):
        make_codec(name).unpack(garbage, values)
