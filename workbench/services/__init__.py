"""Edge and cloud as HTTPS services.

::

    trust        TLS contexts, roles, tokens, and certificates that rotate
    connection   the client's end of a connection to a service: kept alive, retried if that is safe, within a deadline
    intake       a request's body, bounded in bytes, time and total
    batching     requests joined to micro-batches on a compute pool, with a bounded queue
    service      the base class of both services: routes, responses, errors, metrics, one log line a request
    edge cloud   the two services                                      openapi     their description
    attestation_agent   an edge's requests to its guest's agent        admission   a client's check of an edge
    server       an application on its port, from warm to drained      local       both services as processes of this machine
"""
