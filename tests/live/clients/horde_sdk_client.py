"""horde-sdk's text half: requests, a worker, models, statistics, users. Usage: KEY MODEL

The variable AI_HORDE_URL names the horde. Each answer is read by horde-sdk's own types.
"""

import json
import sys

from horde_sdk.ai_horde_api.ai_horde_clients import AIHordeAPIManualClient, AIHordeAPISimpleClient
from horde_sdk.ai_horde_api.apimodels import (
    AllWorkersDetailsRequest,
    DeleteTextGenerateRequest,
    FindUserRequest,
    HordePerformanceRequest,
    HordeStatusModelsAllRequest,
    ModelGenerationInputKobold,
    ModifyWorkerRequest,
    NewsRequest,
    SingleUserDetailsRequest,
    SingleWorkerDetailsRequest,
    TextGenerateAsyncRequest,
    TextGenerateJobPopRequest,
    TextGenerateStatusRequest,
    TextGenerationJobSubmitRequest,
    TextStatsModelsRequest,
    TextStatsModelsTotalRequest,
)

key, model = sys.argv[1:]
client = AIHordeAPIManualClient()


def ask(request):
    """The answer, of the type that horde-sdk expects. Raises RuntimeError."""
    answer = client.submit_request(request, request.get_default_success_response_type())
    if type(answer).__name__ == "RequestErrorResponse":
        raise RuntimeError(f"{type(request).__name__}: {answer}")
    return answer


def text_request(prompt, *, models):
    params = ModelGenerationInputKobold(n=1, max_length=32, max_context_length=1024)
    return TextGenerateAsyncRequest(apikey=key, prompt=prompt, models=models, params=params)


found = {}
simple = AIHordeAPISimpleClient()
status, _ = simple.text_generate_request(text_request("Hello from the SDK", models=[model]))
found["text"] = status.generations[0].text
found["worker"] = status.generations[0].worker_name

# A worker of its own: it pops what was submitted, submits, and is asked for.
submitted = ask(text_request("For the worker of the SDK", models=["sdk/model"]))
offer = {"name": "sdk-worker", "models": ["sdk/model"], "bridge_agent": "tests:1:local"}
job = ask(TextGenerateJobPopRequest(apikey=key, **offer))
found["popped"] = job.payload.prompt
result = {"id": str(job.id_), "generation": "by the SDK", "state": "ok"}
found["reward"] = ask(TextGenerationJobSubmitRequest(apikey=key, **result)).reward
found["own text"] = ask(TextGenerateStatusRequest(id=submitted.id_)).generations[0].text

cancelled = ask(text_request("Never", models=["sdk/model"]))
found["before cancel"] = ask(TextGenerateStatusRequest(id=cancelled.id_)).waiting
found["after cancel"] = ask(DeleteTextGenerateRequest(id=cancelled.id_)).waiting
found["popped after cancel"] = ask(TextGenerateJobPopRequest(apikey=key, **offer)).id_

workers = ask(AllWorkersDetailsRequest(type="text")).root
found["workers"] = sorted(worker.name for worker in workers)
models = ask(HordeStatusModelsAllRequest(type="text")).root
found["models"] = sorted(found_model.name for found_model in models)
found["threads"] = ask(HordePerformanceRequest()).text_thread_count
found["total"] = ask(TextStatsModelsTotalRequest()).total["requests"]
found["by model"] = sorted(ask(TextStatsModelsRequest()).total)
ask(NewsRequest())

user = ask(FindUserRequest(apikey=key))
found["user"] = user.username
found["kudos"] = user.kudos
found["same user"] = ask(SingleUserDetailsRequest(user_id=str(user.id_))).username
[worker_id] = user.worker_ids
found["worker name"] = ask(SingleWorkerDetailsRequest(worker_id=worker_id)).name
change = ModifyWorkerRequest(apikey=key, worker_id=worker_id, maintenance=True)
found["maintenance"] = ask(change).maintenance
print(json.dumps(found))
