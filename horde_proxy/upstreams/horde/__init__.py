"""The AI Horde as an upstream. A chat becomes requests, whose generations become chunks:

    upstream.py            a plan (plan.py), then one of the two kinds of answer
    chained_answer.py      text, as a chain of segments; structured_answer.py: calls and JSON
    segment.py             a segment as a job (jobs.py: any kind); text_segment.py, text.py: of a text
    lifecycle.py           queue, submit, poll, try again, cancel, for any kind of job
    running_request.py     one submitted request; client.py: the REST API

The rest is what all chats share (context.py): catalog, accounts, submit queue, measurements.
"""
