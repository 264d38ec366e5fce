"""Connections of clients while no thread serves them: requests that arrive, refusals that leave.

`worker` is the gunicorn worker that receives whole requests before it hands them to a thread;
`request` and `framing` turn bytes into a request without any socket; `waiting` bounds how many
connections wait and for how long. Nothing here knows a route or what is in a body.
"""
