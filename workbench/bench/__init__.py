"""Benchmarks of models and services.

::

    models     edge and cloud without a network, next to the papers' own implementation
    load       requests in a closed or an open loop, and their statistics
    latency    the components of a picture's time between real services (Figure 4), over links of several kinds
    energy     the phone's energy for a picture: without protection, with the baseline, with PMC² (Figures 1 and 5)
    sensors    the machine's own energy readings
    services   throughput next to the same models called directly, latency under load, bytes on the wire, CPU and memory
"""
