"""A worker: it pops text jobs from any horde over HTTP and lets a backend complete them.

It runs as a process of its own (`horde-proxy worker`) and knows nothing of the proxy's front.
`bridge` is the loop, `backends` are the models and servers that it can drive, `llama` runs a small
model by itself, and `model_file` fetches that model. Import the modules one by one: `llama` needs
numpy.
"""
