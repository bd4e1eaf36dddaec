"""The commands of `workbench`, a file each: what they take, and what they do."""

from . import bench, certs, evaluate, grid, recognize, reproduce, serve, train, weights

__all__ = ["ALL"]

ALL = (train, evaluate, reproduce, grid, bench, weights, certs, serve, recognize)  # as `--help` lists them
