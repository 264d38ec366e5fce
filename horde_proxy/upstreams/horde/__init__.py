"""The AI Horde as an upstream. A chat becomes requests, whose generations become chunks:

    upstream.py            a plan (plan.py), then one of the kinds of answer
    chained_answer.py      text, as a chain of segments; structured_answer.py: calls and JSON
    chat_answer.py         chats for workers that know the model's template, by chat_chain.py
    answer_chain.py        the chain itself, of whatever kind its segments are
    segment.py             a segment as a job (jobs.py: any kind of job); text_segment.py: of a text
    checked_answer.py      how an answer that does not fit is corrected
    lifecycle.py           queue, submit, poll, try again, cancel, for any kind of job
    running_request.py     one submitted request; client.py: the REST API

The rest is what all chats share (context.py): catalog, accounts, submit queue, measurements.
"""
