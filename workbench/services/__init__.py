"""Edge and cloud as HTTPS services. The edge protects pictures, and the cloud classifies the protected pictures.

::

    edge, cloud            the two services
    service                the base class of both services: routes, responses, errors, metrics, one log line for each request
    server, local          run one service on a port, or both services as local processes
    accepted, httpserver   a connection that a service has accepted: TLS, and HTTP
    quota, share           limits on the connections and the processor time of clients without a credential
    intake                 request bodies, limited in bytes, time and total memory
    batching, loading      micro-batches on a compute pool, with a bounded queue; the networks of a service
    openapi                the OpenAPI documents
    trust                  TLS contexts, roles, tokens, certificate rotation
    connection, http       a client's connection to a service: keep-alive, retries, a deadline
    admission              a client's check of an edge's attestation evidence
    attestation_agent      evidence for that check, from an agent in the edge's confidential VM
    forms, phone           the requests of curl and browsers, and the web page for phones
    decoding               large pictures, decoded within a memory budget
    idempotency            a cache of results, for requests that clients repeat
    secrets                certificates and keys from a key broker
"""
