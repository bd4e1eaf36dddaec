"""Benchmarks of models and services.

::

    model_speed         edge and cloud in one process, compared with the papers' own implementation
    load                requests in a closed or an open loop, and the statistics of their latency
    link                a relay that emulates a bandwidth and a delay
    latency             the components of a picture's latency between real services (PMC², Figure 4), and over slow links
    energy_model        the phone's energy for a picture (PMC², Figures 1 and 5)
    energy_measurement  the measured inputs of this model
    sensors             the machine's own energy readings
    services            throughput compared with direct calls, latency under load, bytes on the wire, CPU and memory
    hostile             honest clients next to hostile connections
    repeated_labels     a check of the labels of pictures that are sent repeatedly
"""
