"""Samples of a calibration file (docs/calibration-format.md) for the Python systems of the benchmark."""

import h5py


def read_samples(path):
    """Token ids of every sample, without padding, as lists of int."""
    with h5py.File(path) as file:
        lengths = file["lengths"][:]
        return [row[:length].tolist() for row, length in zip(file["input_ids"][:], lengths)]
