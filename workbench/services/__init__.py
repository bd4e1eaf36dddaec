"""Edge and cloud as HTTPS services.

::

    trust        TLS contexts, roles, tokens, certificates that rotate
    connection   the client side of a connection to a service: kept alive, retried within a deadline
    intake       a request's body, bounded in bytes, time and sum
    batching     micro-batches on a pool of compute threads, within a bounded queue
    service      what both services share: routes, errors, metrics, one log line a request
    edge cloud   what each does with a request          openapi   their description
    loading      edge and cloud from the weights of a pair
    attestation_agent   the client of the guest's agent          admission   checks of an edge before the first picture
    server       an application on its port, from warm to drained            local       both services as local processes
"""
