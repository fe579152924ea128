"""How float32 tensors travel over a link: as they are, or packed into fewer bytes."""

from partwise.remote.codecs.codec import Codec, Packed
from partwise.remote.codecs.table import CODECS, make_codec, packed_bytes

__all__ = ["CODECS", "Codec", "Packed", "make_codec", "packed_bytes"]
