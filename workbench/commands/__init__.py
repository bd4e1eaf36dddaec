"""The commands of `workbench`. Each module declares the options of its commands, and has a function for each command.

The function gets the parsed options and returns the exit status.
"""

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
)  # in the order of `--help`
