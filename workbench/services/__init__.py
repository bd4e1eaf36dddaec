"""Edge and cloud as HTTPS services.

::

    trust        TLS contexts, roles, tokens, certificate rotation
    connection   a client's connection to a service: keep-alive, retries, a deadline
    intake       request bodies, limited in bytes, time and total memory
    batching     micro-batches on a compute pool, with a bounded queue
    service      the base class of both services: routes, responses, errors, metrics, one log line a request
    edge cloud   the two services                                      openapi     their OpenAPI documents
    attestation_agent   the client of the agent in an edge's guest     admission   a client's check of an edge
    server       runs one service on a port, and drains it             local       both services as local processes
"""
