"""Edge and cloud as HTTPS services.

::

    trust        TLS contexts, roles, tokens: who may speak with whom, and certificates that rotate
    connection   one end of a connection to a service: kept alive, repeated where that is safe, within a deadline
    intake       a request's body, bounded in bytes, time and sum
    batching     requests joined to micro-batches on lanes of computation, within a bounded queue
    app          what both services are: routes, answers, errors, metrics, one log line a request
    edge cloud   what each does with a request          openapi   their description
    agent        the guest's attestation agent, which an edge asks          admission   what a client asks of an edge first
    server       an application on its port, from warm to drained          local   both, started here as processes
    link         what stands between two machines: bandwidth, delay, bytes counted
"""
