"""The front: HTTP views for OpenAI's API and what this proxy adds to it.

generation.py is the pipeline of every answer, listed once; a front (front.py) is a module with
read, fold and stream. Views read, call and return. What a model's name means is the router's
matter, how a kind of upstream is called the upstreams'. routes.py registers the views.

Exports nothing: routes.py imports every view, and most importers need one name.
"""
