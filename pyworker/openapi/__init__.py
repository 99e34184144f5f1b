"""For the developer of a client: what the routes of a worker take, as OpenAPI, and a page to try them.

Both are served by a development worker only.

examples  a request to a route, as its benchmark or load test would send it
schemas   payload classes as JSON Schema
document  the OpenAPI document of an app
views     the routes: /docs, /openapi.json
"""
