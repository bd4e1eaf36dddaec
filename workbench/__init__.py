"""PMC² Workbench: client -> edge -> cloud image recognition that never shows the cloud the picture.

docs/architecture.md says which file does what, and draws the floors: a file imports only from its own floor and those below.
"""

__version__ = "0.2.0"
