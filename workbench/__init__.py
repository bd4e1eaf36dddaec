"""PMC² Workbench: client -> edge -> cloud image recognition that never shows the cloud the picture.

The package is flat, and a file imports only from the floors below it::

    0  errors  data  metrics        what goes in (pictures, samples), what is measured (and quiet, storage, processes)
    1  classifiers  models          the networks,
       weights  checkpoints         how they are kept, how others' are brought in,
       inference                    how they are run
    2  entropy  bitstream  codecs   what crosses to the cloud
    3  system                       Client, Edge, Cloud, joined
    4  training  evaluation         how they come to be, how good they are,
       audit/                       what attackers get of the pictures
    5  protocol  certs  attest      what services speak, who may speak with whom, what an edge proves,
       services/  client            edge and cloud over HTTPS, and who asks them
    6  bench/                       how fast models and services are
       ssh/                         OpenSSH's configuration, connections, remote processes, uploads, forwarded ports
    7  remote  deployment/          hosts (local, or over SSH), and the stages on them, in a confidential container or not
    8  plots/  panels/  runs  grid  figures, interactive views, batches of notebooks and of pairs
    9  commands/  __main__          the `workbench` command
"""

__version__ = "0.1.0"
