"""The commands of `workbench`, a file each: what they take, and what they do."""

from . import audit, bench, certs, evaluate, grid, launch, measure, recognize, reproduce, serve, train, weights

__all__ = ["ALL"]

ALL = (
    train,
    evaluate,
    audit,
    reproduce,
    grid,
    bench,
    weights,
    certs,
    serve,
    launch,
    measure,
    recognize,
)  # as `--help` lists them
