"""CRC-32C of buffers. spann/_kernels/checksum.py checks the arguments; nothing is checked here."""

from libc.stdint cimport uint32_t


cdef extern from "base/crc32c.h" nogil:
    uint32_t spann_crc32c(uint32_t crc, const void *data, size_t n)
    uint32_t spann_crc32c_scalar(uint32_t crc, const void *data, size_t n)
    int spann_crc32c_is_hardware()


def is_hardware() -> bool:
    return spann_crc32c_is_hardware() != 0


def crc32c(const unsigned char[::1] data, uint32_t value=0) -> int:
    cdef size_t n = data.shape[0]
    cdef uint32_t result
    with nogil:
        result = spann_crc32c(value, &data[0] if n else NULL, n)
    return result


def crc32c_scalar(const unsigned char[::1] data, uint32_t value=0) -> int:
    cdef size_t n = data.shape[0]
    cdef uint32_t result
    with nogil:
        result = spann_crc32c_scalar(value, &data[0] if n else NULL, n)
    return result


def crc32c_rows(const unsigned char[:, ::1] data, uint32_t[::1] out) -> None:
    """Sets out[i] to the CRC of row i. `out` has an element for each row of `data`, and rows are not empty."""
    cdef Py_ssize_t i
    with nogil:
        for i in range(data.shape[0]):
            out[i] = spann_crc32c(0, &data[i, 0], data.shape[1])
