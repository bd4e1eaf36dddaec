"""PMC² Workbench: image recognition with a phone, a trusted edge server and a cloud that never receives the original picture.

The system is that of the paper PMC² (NOSSDAV '25). PP is its baseline (MMSys '22), in which the phone protects the picture.
A pair is two classifiers and a perturbation generator. The target classifier must recognise protected pictures. The auxiliary
classifier must not. The generator is trained for both, and protects the pictures. A pair can also have a learned compressor.
A variant of a generator or a compressor is the same network, trained with other settings.

docs/architecture.md describes each file and draws the layers ("floors"): a file imports only from its own floor and lower ones.
"""

__version__ = "0.2.0"
