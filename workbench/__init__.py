"""PMC² Workbench: client -> edge -> cloud image recognition that never shows the cloud the picture.

A file imports only from its own floor and those below it (docs/architecture.md draws all of them)::

    0  errors  data  metrics        what goes in (pictures, folders), what is measured; terminal, storage, processes
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
    7  remote  deployment/          hosts (local, or over SSH), and the stages on them
    8  plots/  panels/  runs  grid  figures, interactive views, batches of notebooks and of pairs,
       results  model_card          the results pages, made from data/results, and a pair's card
    9  commands/  __main__          the `workbench` command
"""

__version__ = "0.2.0"
