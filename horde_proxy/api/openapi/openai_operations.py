"""The routes of OpenAI's API: what answers at once, and what is kept for later."""

from __future__ import annotations

from horde_proxy.api.openapi.operation import Api, RouteEntry
from horde_proxy.api.openapi.schemas import list_of
from horde_proxy.protocol.chat import ChatBody
from horde_proxy.protocol.completions import CompletionBody
from horde_proxy.protocol.images import ImageFields
from horde_proxy.protocol.responses.request import ResponseBody
from horde_proxy.protocol.stored import StoredBody

_PAGE = ("limit:integer", "after:string", "order:string")
_HELLO = [{"role": "user", "content": "Hello"}]
_PICTURE = {"prompt": "a fox in snow", "size": "512x512"}
_EMBEDDING = {"model": "nomic-embed-text", "input": "Hello"}
_BATCH = {
    "input_file_id": "file-1",
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
}
_FILE = {"file": "string", "purpose?": "string"}
_COMPLETION_LIST = list_of("ChatCompletion")
_STREAMED_CHAT = ("ChatCompletionChunk", "Error")

_ANSWERS = (
    RouteEntry("POST /chat/completions", "Answer a chat", "ChatCompletion", ChatBody,
              _STREAMED_CHAT, example={"model": "auto", "messages": _HELLO}),
    RouteEntry("POST /completions", "Continue a text", "TextCompletion", CompletionBody,
              ("TextCompletion", "Error"), example={"model": "auto", "prompt": "Once upon"}),
    RouteEntry("POST /responses", "Answer in OpenAI's newer API", "Response", ResponseBody,
              ("ResponseEvent", "Error"), example={"model": "auto", "input": "Hello"}),
    RouteEntry("POST /responses/compact", "Summarise a conversation", "Response", ResponseBody),
    RouteEntry("POST /responses/input_tokens", "Count the tokens of a response's input",
              {"object": "string", "input_tokens": "integer"}, ResponseBody),
    RouteEntry("POST /embeddings", "Embed texts at an endpoint that can", "Embeddings",
              {"model?": "string", "input": "any"}, example=_EMBEDDING),
    RouteEntry("POST /images/generations", "Make pictures", "Images", ImageFields,
              ("ImageEvent", "Error"), example=_PICTURE),
    RouteEntry("POST /images/edits", "Change pictures", "Images", ImageFields,
              ("ImageEvent", "Error"),
              form={"image?": "string", "mask?": "string", "prompt?": "string"}),
    RouteEntry("POST /images/variations", "Make variations of a picture", "Images", ImageFields,
              ("ImageEvent", "Error"), form={"image?": "string"}),
    RouteEntry("GET /files/images/{name}", "A picture that an answer links to", media="image/*",
              rights="anybody"),
)  # fmt: skip

_KEPT = (
    RouteEntry("GET /chat/completions", "The stored chat completions", _COMPLETION_LIST,
              query=(*_PAGE, "model:string")),
    RouteEntry("GET /chat/completions/{chat_id}", "A stored chat completion", "ChatCompletion"),
    RouteEntry("POST /chat/completions/{chat_id}", "Change a stored chat completion",
              "ChatCompletion", StoredBody),
    RouteEntry("DELETE /chat/completions/{chat_id}", "Delete a stored chat completion", "Deleted"),
    RouteEntry("GET /chat/completions/{chat_id}/messages", "The messages of a stored chat",
              list_of("Item"), query=_PAGE),
    RouteEntry("GET /responses/{response_id}", "A stored response, or with stream=true its events",
              "Response", events=("ResponseEvent", "Error"),
              query=("stream:boolean", "starting_after:integer")),
    RouteEntry("DELETE /responses/{response_id}", "Delete a stored response", "Deleted"),
    RouteEntry("POST /responses/{response_id}/cancel", "Cancel a response in the background",
              "Response"),
    RouteEntry("GET /responses/{response_id}/input_items", "The input of a stored response",
              list_of("Item"), query=_PAGE),
    RouteEntry("POST /conversations", "Begin a conversation", "Conversation", StoredBody),
    RouteEntry("GET /conversations/{conversation_id}", "A conversation", "Conversation"),
    RouteEntry("POST /conversations/{conversation_id}", "Change the metadata of a conversation",
              "Conversation", StoredBody),
    RouteEntry("DELETE /conversations/{conversation_id}", "Delete a conversation", "Deleted"),
    RouteEntry("POST /conversations/{conversation_id}/items", "Add items to a conversation",
              list_of("Item"), StoredBody),
    RouteEntry("GET /conversations/{conversation_id}/items", "The items of a conversation",
              list_of("Item"), query=_PAGE),
    RouteEntry("GET /conversations/{conversation_id}/items/{item_id}", "An item of a conversation",
              "Item"),
    RouteEntry("DELETE /conversations/{conversation_id}/items/{item_id}",
              "Delete an item of a conversation", "Conversation"),
    RouteEntry("POST /files", "Upload a file, for a batch", "File", form=_FILE),
    RouteEntry("GET /files", "The uploaded files", list_of("File"),
              query=(*_PAGE, "purpose:string")),
    RouteEntry("GET /files/{file_id}", "What is known about a file", "File"),
    RouteEntry("DELETE /files/{file_id}", "Delete a file", "Deleted"),
    RouteEntry("GET /files/{file_id}/content", "The bytes of a file",
              media="application/octet-stream"),
    RouteEntry("POST /batches", "Begin a batch of many requests", "Batch",
              {"input_file_id": "string", "endpoint": "string", "completion_window": "string"},
              example=_BATCH),
    RouteEntry("GET /batches", "The batches", list_of("Batch"),
              query=("limit:integer", "after:string")),
    RouteEntry("GET /batches/{batch_id}", "A batch", "Batch"),
    RouteEntry("POST /batches/{batch_id}/cancel", "Cancel a batch", "Batch"),
)  # fmt: skip

OPENAI = Api(
    "OpenAI",
    "OpenAI's API. Endpoints that speak it are proxied.",
    "Error",
    _ANSWERS,
)
STORED = Api("Stored", "What clients fetch later, each key its own: OpenAI's API.", "Error", _KEPT)
MODELS = Api(
    "Models",
    "The models that are available now. Anthropic's clients get its fields and errors.",
    ("Error", "AnthropicError"),
    (
        RouteEntry("GET /models", "The models",
                  {"object?": "'list'", "data": ["Model"], "has_more?": "boolean"},
                  query=("limit:integer", "after_id:string", "before_id:string")),
        RouteEntry("GET /models/{name}", "A model", "Model"),
        RouteEntry("GET /opencode.json", "The models as a configuration of opencode",
                  {"$schema": "string", "provider": "object"},
                  query=("base_url:string", "min_context:integer", "key:string")),
    ),
)  # fmt: skip
