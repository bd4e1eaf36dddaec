"""PMC² Workbench: image recognition over client, edge and cloud, in which the cloud never receives the picture.

docs/architecture.md describes each file and draws the layers ("floors"): a file imports only from its own floor and lower ones.
"""

__version__ = "0.2.0"
