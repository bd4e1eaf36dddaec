"""PMC² Workbench: client -> edge -> cloud image recognition that never shows the cloud the picture.

The package is flat, and a file imports only from the floors below it::

    0  errors  data  metrics        what goes in, what is measured
    1  models  weights              the networks, and how they are kept
    2  entropy  bitstream  codecs   what crosses to the cloud
    3  system                       Client, Edge, Cloud, joined
    4  training  evaluation         how the networks come to be, and how good they are
    6  plots  panels  runs          figures, interactive views, batches of notebooks
    7  __main__                     the `workbench` command
"""

__version__ = "0.1.0"
