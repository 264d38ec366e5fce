"""A worker: it pops jobs from any horde over HTTP and lets a backend do them.

It runs as a separate process (`horde-proxy worker`) and knows nothing of the proxy. `bridge` is the
loop; `scribe`, `dreamer` and `alchemist` are what is particular to texts, images and alchemy
(`kinds` is their contract). `backends` are the models and servers that it can use, `llama` runs a
small model in this process, and `model_file` downloads that model. Import the modules one by one:
`llama` needs numpy.
"""
