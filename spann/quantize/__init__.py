"""Short codes of vectors, and distances estimated from them."""

from spann.quantize.rabitq import Codes, Quantizer

__all__ = ["Codes", "Quantizer"]
