"""The commands of `workbench`, one file each: options, and a function from options to exit status."""

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
)  # in the order of `--help`
