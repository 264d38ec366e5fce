"""A worker: it pops text jobs from any horde over HTTP and lets a backend complete them.

It runs as a separate process (`horde-proxy worker`) and knows nothing of the proxy. `bridge` is the
loop, `backends` are the models and servers that it can use, `llama` runs a small model in this
process, and `model_file` downloads that model. Import the modules one by one: `llama` needs numpy.
"""
