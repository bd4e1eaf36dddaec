"""The commands of `workbench`, a file each: what they take, and what they do."""

from . import (
    audit,
    bench,
    convert_weights,
    doctor,
    evaluate,
    issue_certs,
    launch,
    measure,
    recognize,
    render_manifests,
    reproduce,
    serve,
    train,
    train_grid,
    write_results,
)

__all__ = ["ALL"]

ALL = (
    train,
    evaluate,
    audit,
    reproduce,
    write_results,
    train_grid,
    bench,
    convert_weights,
    issue_certs,
    serve,
    launch,
    doctor,
    render_manifests,
    measure,
    recognize,
)  # as `--help` lists them
