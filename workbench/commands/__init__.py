"""The commands of `workbench`, a file each: what they take, and what they do."""

from . import (
    audit,
    bench,
    certs,
    doctor,
    evaluate,
    grid,
    launch,
    manifests,
    measure,
    recognize,
    reproduce,
    results,
    serve,
    train,
    weights,
)

__all__ = ["ALL"]

ALL = (
    train,
    evaluate,
    audit,
    reproduce,
    results,
    grid,
    bench,
    weights,
    certs,
    serve,
    launch,
    doctor,
    manifests,
    measure,
    recognize,
)  # as `--help` lists them
